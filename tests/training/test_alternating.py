"""Four-step alternating training: the config of each step, the shared backbone, and resuming."""
from __future__ import annotations

import os
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import Config, ConfigError
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.input.dataset import evaluation_dataset
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.training import alternating
from mrcnn_tf.training.alternating import JOINED, STEPS
from mrcnn_tf.training.callbacks import StoppedBySignal, TrainingError
from mrcnn_tf.training.peers import Peers
from mrcnn_tf.weights.checkpoint_files import find_newest
from mrcnn_tf.weights.model_directory import restore_model, save_imported
from tests.training.tiny import CATEGORIES, tiny_config, write_data

pytestmark = pytest.mark.usefixtures('shallow_resnets')


def small_config(directory: pathlib.Path, *overrides: str) -> Config:
    """C4: one feature map of stride 16, and res5 in the head."""
    return tiny_config(
        directory, 'model.kind=faster_rcnn', 'model.backbone.maps=c4', 'model.anchors.sizes=[[16,32]]',
        'model.box_head.pool_size=4', 'model.box_head.fully_connected=0', 'model.rpn.post_nms_test=10',
        'model.detections.score_threshold=0', 'data.batch_size=2', 'solver.reference_batch=2', 'solver.steps=2',
        'solver.milestones=[]', 'solver.warmup_steps=0',
        'alternating.rpn=[solver.steps=3,model.rpn.positive_iou=0.6]', *overrides)


def test_the_config_of_each_step(tmp_path) -> None:
    config = small_config(tmp_path, 'data.validation=val.json')
    first, second, third, fourth = alternating._step_configs(config, tmp_path / 'run')
    assert [each.model.kind for each in (first, second, third, fourth)] == ['rpn', 'fast_rcnn'] * 2
    assert [each.model.backbone.frozen for each in (first, second, third, fourth)] == [False, False, True, True]
    assert [each.model.rpn.positive_iou for each in (first, second, third, fourth)] == [.6, .7] * 2
    assert [each.solver.steps for each in (first, second, third, fourth)] == [3, 2, 3, 2]
    assert first.data.train == third.data.train == config.data.train
    assert second.data.train == str(tmp_path / 'run' / 'proposals' / 'step1_rpn.json')
    assert fourth.data.train == str(tmp_path / 'run' / 'proposals' / 'step3_rpn.json')
    assert first.data.validation == third.data.validation == 'val.json'
    assert second.data.validation is fourth.data.validation is None    # its records have no proposals
    assert config == small_config(tmp_path, 'data.validation=val.json')


def test_a_step_has_dependents_once_its_proposals_or_a_later_step_exist(tmp_path) -> None:
    existing = tmp_path / STEPS[0], tmp_path / 'proposals' / f'{STEPS[0]}.npz', tmp_path / STEPS[2]
    assert not any(alternating._has_dependents(tmp_path, index) for index in range(4))
    for path in existing:
        path.mkdir(parents=True)
    assert [alternating._has_dependents(tmp_path, index) for index in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(('override', 'message'), [
    ('model.kind=fast_rcnn', 'model.kind is fast_rcnn: expected faster_rcnn'),
    ('alternating.rpn=[model.kind=faster_rcnn]', 'alternating.rpn changes a part of the model that all steps share'),
    ('alternating.rpn=[model.rpn.convolutions=2]', 'alternating.rpn changes a part of the model that all steps share'),
    ('alternating.fast_rcnn=[model.box_head.width=9]', 'alternating.fast_rcnn changes a part of the model')],
    ids=['kind', 'kind of a step', 'layers of the RPN', 'layers of the head'])
def test_settings_that_alternating_training_does_not_support(tmp_path, override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        alternating.train(small_config(tmp_path, override), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_signal_between_two_steps_stops_at_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternating, '_train_step', lambda *_: None)
    monkeypatch.setattr(alternating, '_prepare', lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedBySignal, match='run: stopped by SIGTERM; resume with the same command'):
        alternating.train(small_config(tmp_path), tmp_path / 'run')
    assert signal.getsignal(signal.SIGTERM) == before


def same(first: pathlib.Path, second: pathlib.Path, part: str) -> bool:
    """Return whether the newest checkpoints of two directories have equal weights in a part of the model."""
    one, other = (weights_of(directory, part) for directory in (first, second))
    assert one and sorted(one) == sorted(other)
    return all(np.array_equal(one[name], other[name]) for name in one)


def weights_of(directory: pathlib.Path, part: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(find_newest(directory / 'checkpoints')))
    return {name.partition(part)[2]: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
            if name.startswith('model/') and part in name}


def files_of(directory: pathlib.Path) -> dict[pathlib.Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob('*') if path.is_file()}


@pytest.mark.slow
def test_the_joined_model_has_the_rpn_of_one_model_and_the_rest_of_the_other(tmp_path) -> None:
    """In a real run both have the same backbone. The model is joined only once."""
    write_data(tmp_path)
    config = small_config(tmp_path)
    configs = alternating._step_configs(config, tmp_path)
    rpn, fast = tmp_path / 'rpn', tmp_path / 'fast'
    for directory, each in zip((rpn, fast), configs[2:], strict=True):
        save_imported(directory, build_detector(each.model), each, CATEGORIES)
    alternating._initialize(tmp_path / 'joined', config, rpn, fast)
    assert same(tmp_path / 'joined', rpn, 'rpn_head') and not same(tmp_path / 'joined', rpn, 'backbone')
    assert all(same(tmp_path / 'joined', fast, part) for part in ('backbone', 'res5_head', 'box_head'))
    joined, joined_config, categories = restore_model(tmp_path / 'joined')
    assert joined_config == config and categories == CATEGORIES
    detections = joined(next(iter(evaluation_dataset(tmp_path / 'train.json', joined_config, 1))))
    assert detections['valid'].numpy().any()
    before = files_of(tmp_path)
    alternating._initialize(tmp_path / 'joined', config, rpn, fast)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize('maps', [['model.backbone.maps=fpn', 'model.anchors.sizes=[[8],[16],[32],[64],[128]]'], []],
                         ids=['fpn', 'c4'])
def test_only_the_rpn_head_is_trained_with_a_frozen_backbone_and_neck(tmp_path, maps) -> None:
    model = build_detector(small_config(tmp_path, 'model.kind=rpn', 'model.backbone.frozen=true', *maps).model)
    assert {id(v) for v in model.trainable_variables} == {id(v) for v in model.proposer.head.weights}


@pytest.mark.slow
def test_four_steps_that_are_interrupted_in_the_third_and_resumed(tmp_path, monkeypatch, capsys) -> None:
    """No step is repeated, and the final models share the backbone."""
    write_data(tmp_path)
    config, run = small_config(tmp_path), tmp_path / 'run'
    with monkeypatch.context() as patch:
        patch.setattr(Peers, 'stops_at', lambda *_: (run / STEPS[2]).exists())
        with pytest.raises(TrainingError, match='at step 1 of 3, which is saved'):
            alternating.train(config, run)
    assert sorted(path.name for path in run.iterdir()) == ['proposals', *STEPS[:3]]
    assert Manifest.read(run / 'proposals' / f'{STEPS[0]}.json').max_proposals_per_image == 20    # rpn.post_nms_train
    kept = [run / 'proposals', *(run / name / 'checkpoints' for name in STEPS[:2])]
    before = [files_of(directory) for directory in kept]
    capsys.readouterr()
    alternating.train(config, run)
    assert 'resumes at step 1 of 3' in capsys.readouterr().out
    assert all(files_of(directory).items() >= files.items() for directory, files in zip(kept, before, strict=True))
    own, fast, rpn, shared, joined = (run / name for name in (*STEPS, JOINED))
    assert not same(own, fast, 'backbone') and all(same(fast, each, 'backbone') for each in (rpn, shared, joined))
    assert not same(own, rpn, 'rpn_head') and same(joined, rpn, 'rpn_head')
    assert not same(fast, shared, 'box_head') and same(joined, shared, 'box_head')
