"""Which settings may change when a run is resumed, and what is said of them."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.config import Config, SolverConfig, changed
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.training import resuming
from mrcnn_tf.weights.checkpoint_files import CheckpointError
from mrcnn_tf.weights.model_directory import create

BEFORE = Config(solver=SolverConfig(steps=50))


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run that has saved step 7."""
    return begun(tmp_path, 7)


def begun(directory: pathlib.Path, step: int) -> pathlib.Path:
    create(directory, BEFORE, [Category(1, 7, 'cell')])
    (directory / 'checkpoints').mkdir()
    (directory / 'checkpoints' / f'step-{step}.index').touch()
    return directory


def test_free_settings_are_named(run: pathlib.Path) -> None:
    now = changed(BEFORE, ['solver.steps=100', 'solver.schedule=cosine', 'data.train=b.json', 'train.log_every=5',
                           'model.detections.max_detections=200'])
    assert resuming.described(resuming.check(run, now)) == (
        'data.train None -> b.json, model.detections.max_detections 100 -> 200, solver.steps 50 -> 100, '
        'solver.schedule step -> cosine, train.log_every 20 -> 5')


def test_nothing_changes(run: pathlib.Path) -> None:
    assert resuming.check(run, BEFORE) == []


def test_all_differences_and_both_ways_out_are_named(run: pathlib.Path) -> None:
    now = changed(BEFORE, ['solver.steps=100', 'data.batch_size=4', 'train.seed=1', 'solver.optimizer=adamw'])
    with pytest.raises(CheckpointError) as error:
        resuming.check(run, now)
    message = str(error.value)
    assert ('settings that may not change: data.batch_size 16 -> 4, solver.optimizer sgd -> adamw, train.seed 0 -> 1; '
            'these may change: solver.steps 50 -> 100; add --allow-changes') in message
    assert f'resume with {run}/config.yaml as the config, or give another --model-dir' in message
    assert [each.name for each in resuming.check(run, now, allow_changes=True)] == [
        'data.batch_size', 'solver.optimizer', 'solver.steps', 'train.seed']


def test_what_others_learnt_from_is_not_lengthened(run: pathlib.Path) -> None:
    assert resuming.check(run, changed(BEFORE, ['train.log_every=5']), learnt=True)
    with pytest.raises(CheckpointError, match='may not change: solver.steps 50 -> 100; later steps were built on it'):
        resuming.check(run, changed(BEFORE, ['solver.steps=100']), learnt=True)


def test_of_an_imported_model_only_the_model_matters(tmp_path: pathlib.Path) -> None:
    run = begun(tmp_path, 0)
    assert resuming.check(run, changed(BEFORE, ['train.seed=1', 'data.batch_size=4'])) == []
    with pytest.raises(CheckpointError, match='model.rpn.nms_iou 0.7 -> 0.5'):
        resuming.check(run, changed(BEFORE, ['model.rpn.nms_iou=0.5']))


def test_without_a_checkpoint_any_config_takes_the_place(tmp_path: pathlib.Path) -> None:
    create(tmp_path, BEFORE, [Category(1, 7, 'cell')])
    assert resuming.check(tmp_path, Config()) == []


def test_checkpoints_without_a_config_are_left_alone(run: pathlib.Path) -> None:
    (run / 'config.yaml').unlink()
    with pytest.raises(CheckpointError, match='no config.yaml'):
        resuming.check(run, BEFORE)


@pytest.mark.parametrize('name', resuming.FREE)
def test_every_free_name_is_a_setting(name: str) -> None:
    value = BEFORE
    for part in name.split('.'):
        value = getattr(value, part)
