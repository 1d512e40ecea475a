"""Training runs on real records: of the detector, and of a toy model where the detector does not matter."""
from __future__ import annotations

import os
import pathlib
import signal
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrcnn_tf.config import Config, ModelConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.evaluation.validation import Evaluated
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.training import trainer
from mrcnn_tf.training.callbacks import TrainingError, step_of
from mrcnn_tf.training.clusters import SINGLE_WORKER
from mrcnn_tf.training.input_service import InputServers
from mrcnn_tf.training.peers import Peers
from mrcnn_tf.weights import model_directory
from mrcnn_tf.weights.checkpoint_files import CheckpointError, find_newest
from mrcnn_tf.weights.model_directory import find_checkpoint, read, restore_model
from mrcnn_tf.weights.rules import variable_path
from tests.training.tiny import tiny_config, write_data
from tests.training.toy import ToyModel

pytestmark = pytest.mark.usefixtures('shallow_resnets')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp('data')
    write_data(directory)
    return directory


class Built(list[ToyModel]):
    """Replaces build_detector: builds toys, prepares each with `prepare`, and keeps them in a list."""
    prepare: Any = staticmethod(lambda model: None)

    def __call__(self, config: Any, engine: str = 'op') -> ToyModel:
        self.append(ToyModel())
        self.prepare(self[-1])
        return self[-1]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    toys = Built()
    monkeypatch.setattr(trainer, 'build_detector', toys)
    monkeypatch.setattr(model_directory, 'build_detector', toys)
    return toys


def assert_equal(model: keras.Model, other: keras.Model) -> None:
    for a, b in zip([*model.variables, *model.optimizer.variables], [*other.variables, *other.optimizer.variables],
                    strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_detector_is_trained(data: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mask R-CNN: two steps change the weights of all parts, write all losses, and save a checkpoint."""
    models: list[Detector] = []
    initial: list[np.ndarray] = []

    def build(model: ModelConfig, engine: str) -> Detector:
        models.append(build_detector(model, engine))
        initial.extend(variable.numpy() for variable in models[0].trainable_variables)
        return models[0]

    monkeypatch.setattr(trainer, 'build_detector', build)
    config = tiny_config(data, 'data.batch_size=2', 'solver.reference_batch=2', 'solver.steps=2', 'train.log_every=1',
                         'solver.warmup_steps=0', 'solver.milestones=[]', 'solver.weight_decay=0')
    trainer.train(config, tmp_path)
    changed = {variable_path(variable).split('/')[0] for variable, before in zip(
        models[0].trainable_variables, initial, strict=True) if (variable.numpy() != before).any()}
    assert changed == {'backbone', 'rpn_head', 'box_head', 'mask_head'}
    assert find_newest(tmp_path / 'checkpoints').name == 'step-2'
    events = EventAccumulator(str(tmp_path / 'logs')).Reload()
    for name in ('objectness', 'rpn_box_reg', 'classifier', 'box_reg', 'mask'):
        losses = [tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(f'loss_{name}')]
        assert len(losses) == 2 and np.isfinite(losses).all()


@pytest.mark.parametrize('optimizer', ['sgd', pytest.param('lamb', marks=[pytest.mark.slow, pytest.mark.both_stacks])])
def test_a_run_resumed_after_a_failure_equals_an_uninterrupted_one(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, monkeypatch: pytest.MonkeyPatch, optimizer: str
        ) -> None:
    """Weights, slots and step; and the moving average, which is what all else reads.

    The interrupted run copies its batches ahead, as to a GPU.
    """
    config = tiny_config(data, f'solver.optimizer={optimizer}', 'solver.ema_decay=0.5', 'solver.lookahead_steps=2')
    trainer.train(config, tmp_path / 'uninterrupted')
    monkeypatch.setattr(trainer, 'input_strategy', lambda _: tf.distribute.OneDeviceStrategy('CPU:0'))
    built.prepare = lambda model: setattr(model, 'poison_at', 4)
    with pytest.raises(TrainingError, match=r'step 5: loss_mask is inf on images \[\d+, \d+, \d+, \d+\]'):
        trainer.train(config, tmp_path / 'interrupted')
    assert find_newest(tmp_path / 'interrupted' / 'checkpoints').name == 'step-3'
    built.prepare = lambda model: None
    trainer.train(config, tmp_path / 'interrupted')
    assert step_of(built[-1]) == 6
    assert_equal(built[0], built[-1])
    averages = [restore_model(tmp_path / name)[0].get_weights() for name in ('uninterrupted', 'interrupted')]
    for one, other, last in zip(*averages, built[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one != last).any()


def test_a_step_whose_gradient_overflows_is_skipped(data: pathlib.Path, tmp_path: pathlib.Path, built: Built) -> None:
    """It counts as a step and halves the loss scale, which the checkpoint holds."""
    weights: list[list[np.ndarray]] = []

    def prepare(model: ToyModel) -> None:
        model.overflow_at = 2
        model.before_step = {0: lambda: model.loss_scale.scale.assign(8.),
                             **dict.fromkeys((2, 3, 4), lambda: weights.append(model.get_weights()))}

    built.prepare = prepare
    trainer.train(tiny_config(data, 'train.precision=mixed_float16', 'solver.clip_norm=1'), tmp_path)
    assert step_of(built[0]) == 6 and built[0].first.compute_dtype == 'float16'
    assert len(weights) == 3
    for before, after, later in zip(*weights, strict=True):
        np.testing.assert_array_equal(before, after)
        assert np.abs(after - later).max() > 1e-4 and np.isfinite(later).all()
    stored = tf.train.load_checkpoint(str(find_newest(tmp_path / 'checkpoints')))
    assert [stored.get_tensor(f'loss_scale/{name}/.ATTRIBUTES/VARIABLE_VALUE').item()
            for name in ('scale', 'good_steps', 'skipped_steps')] == [4, 3, 1]


def test_a_signal_saves_and_the_same_call_resumes(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(data)
    trainer.train(config, tmp_path / 'uninterrupted')
    built.prepare = lambda model: setattr(model, 'before_step', {1: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(TrainingError, match='stopped by SIGTERM at step 2 of 6.*resume with the same command'):
        trainer.train(config, tmp_path / 'interrupted')
    built.prepare = lambda model: None
    trainer.train(config, tmp_path / 'interrupted')
    assert_equal(built[0], built[-1])
    assert 'resumes at step 2 of 6' in capsys.readouterr().out


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the evaluation of a checkpoint by an AP that is highest at step 2; returns the steps evaluated.

    It takes random numbers of all kinds, as a detector does that is built for evaluation.
    """
    steps: list[int] = []

    def evaluate(prefix: pathlib.Path, progress: Any) -> Evaluated:
        steps.append(int(prefix.name.removeprefix('step-')))
        ToyModel()
        assert np.random.rand() + tf.random.uniform([]) > 0
        assert prefix.with_name(f'{prefix.name}.index').is_file()    # a kill during an evaluation loses nothing
        return Evaluated({'segm/AP': 1 / (1 + abs(steps[-1] - 2))})

    monkeypatch.setattr(trainer, '_evaluate_function', lambda run, categories: evaluate)
    return steps


def test_evaluation_changes_neither_weights_nor_a_resume(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, evaluated: list[int],
        capsys: pytest.CaptureFixture[str]) -> None:
    settings = (f'data.validation={data}/train.json', 'train.keep_checkpoints=1', 'train.evaluate_every=2')
    trainer.train(tiny_config(data, *settings[:2], 'train.evaluate_every=0'), tmp_path / 'plain')
    assert not (tmp_path / 'plain' / 'history.csv').exists()
    trainer.train(tiny_config(data, *settings), tmp_path / 'whole')
    assert evaluated == [2, 4, 6]
    built.prepare = lambda model: setattr(model, 'poison_at', 4)
    with pytest.raises(TrainingError, match='step 5'):
        trainer.train(tiny_config(data, *settings), tmp_path / 'resumed')
    (tmp_path / 'resumed' / 'history.csv').write_text('step,segm/AP\n2,0.3333333333333333\n')    # killed at step 4
    built.prepare = lambda model: None
    trainer.train(tiny_config(data, *settings), tmp_path / 'resumed')
    trainer.train(tiny_config(data, *settings), tmp_path / 'resumed')
    assert evaluated[3:] == [2, 4, 4, 6]
    trained = [model for model in built if step_of(model) == 6]
    assert_equal(trained[0], trained[1])
    assert_equal(trained[0], trained[2])
    assert (tmp_path / 'whole' / 'history.csv').read_text() == 'step,segm/AP\n2,1.0\n4,0.3333333333333333\n6,0.2\n'
    assert (tmp_path / 'resumed' / 'history.csv').read_text().splitlines()[2:] == ['4,0.3333333333333333', '6,0.2']
    assert find_checkpoint(tmp_path / 'whole', tiny_config(data, *settings), 'best').name == 'step-2'
    assert 'is trained: step 6 of 6; the best checkpoint is step-2, segm/AP 1.0000, ' in capsys.readouterr().out


def test_training_ends_without_improvement_and_stays_so(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, evaluated: list[int],
        capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(data, f'data.validation={data}/train.json', 'train.evaluate_every=1', 'train.patience=2')
    for _ in range(2):
        trainer.train(config, tmp_path)
        assert evaluated == [1, 2, 3, 4] and step_of(built[-1]) == 4
        assert ('training ended at step 4 of 6, after 2 evaluations without improvement (train.patience); the best '
                'checkpoint is step-2, segm/AP 1.0000, ') in capsys.readouterr().out


@pytest.mark.slow
def test_a_trained_model_is_not_trained_again(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    trainer.train(tiny_config(data), tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / 'checkpoints').iterdir())
    trainer.train(tiny_config(data), tmp_path)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / 'checkpoints').iterdir())
    assert capsys.readouterr().out.count('is trained: step 6 of 6') == 2


@pytest.mark.slow
def test_a_finished_run_can_be_lengthened(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    """With a constant rate, 3 steps and then 6 equal 6 steps at once."""
    constant = 'solver.schedule=constant'
    trainer.train(tiny_config(data, constant), tmp_path / 'whole')
    trainer.train(tiny_config(data, constant, 'solver.steps=3', 'train.log_every=1'), tmp_path / 'run')
    trainer.train(tiny_config(data, constant), tmp_path / 'run')
    assert_equal(built[0], built[-1])
    printed = capsys.readouterr().out
    assert f'{tmp_path}/run/config.yaml: changed: solver.steps 3 -> 6, train.log_every 1 -> 2\n' in printed
    assert read(tmp_path / 'run')[0] == tiny_config(data, constant)
    with pytest.raises(TrainingError, match='run is at step 6, after the last step 3 of the schedule; raise'):
        trainer.train(tiny_config(data, constant, 'solver.steps=3'), tmp_path / 'run')
    assert read(tmp_path / 'run')[0].solver.steps == 6


@pytest.mark.slow
def test_other_settings_may_change_on_request_but_not_the_model(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built) -> None:
    trainer.train(tiny_config(data, 'solver.steps=2'), tmp_path)
    with pytest.raises(CheckpointError, match='seed 0 -> 1; these may change: solver.steps 2 -> 4; add --allow-'):
        trainer.train(tiny_config(data, 'solver.steps=4', 'train.seed=1'), tmp_path)
    with pytest.raises(CheckpointError, match='step-2 is of another model or optimizer'):
        trainer.train(tiny_config(data, 'solver.steps=4', 'solver.optimizer=adamw'), tmp_path, allow_changes=True)
    assert read(tmp_path)[0] == tiny_config(data, 'solver.steps=2')
    trainer.train(tiny_config(data, 'solver.steps=4', 'train.seed=1'), tmp_path, allow_changes=True)
    assert step_of(built[-1]) == 4 and read(tmp_path)[0].train.seed == 1


@pytest.mark.slow
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, caplog: pytest.LogCaptureFixture) -> None:
    trainer.train(tiny_config(data), tmp_path)
    (tmp_path / 'checkpoints' / 'checkpoint').unlink()
    (tmp_path / 'checkpoints' / 'step-6.index').unlink()
    trainer.train(tiny_config(data), tmp_path)
    assert 'step-6 is damaged (step-6.index is missing); falling back to step-3' in caplog.text
    assert_equal(built[0], built[-1])
    assert find_newest(tmp_path / 'checkpoints').name == 'step-6'


def test_a_run_without_positives_is_stopped(data: pathlib.Path, tmp_path: pathlib.Path, built: Built) -> None:
    built.prepare = lambda model: setattr(model, 'positives', 0.)
    with pytest.raises(TrainingError, match=r'step 4: none of the last 4 steps had a positive anchor or RoI'):
        trainer.train(tiny_config(data, 'train.stop_without_positives=4'), tmp_path)
    assert find_newest(tmp_path / 'checkpoints').name == 'step-3'


def test_steps_are_scaled_with_the_batch(data: pathlib.Path, tmp_path: pathlib.Path, built: Built) -> None:
    trainer.train(tiny_config(data, 'data.batch_size=8'), tmp_path)
    assert step_of(built[-1]) == 3


def test_the_trained_weights_are_restored(data: pathlib.Path, tmp_path: pathlib.Path, built: Built) -> None:
    config = tiny_config(data, 'train.precision=mixed_bfloat16')
    trainer.train(config, tmp_path)
    model, restored_config, categories = restore_model(tmp_path)
    assert restored_config == config
    assert [category.name for category in categories] == ['low', 'high']
    for a, b in zip(built[0].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert built[0].first.compute_dtype == 'bfloat16' and model.first.compute_dtype == 'float32'


def test_a_directory_without_a_checkpoint_cannot_be_restored(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built) -> None:
    built.prepare = lambda model: setattr(model, 'poison_at', 0)
    with pytest.raises(TrainingError):
        trainer.train(tiny_config(data), tmp_path)
    with pytest.raises(CheckpointError, match='has no checkpoint yet'):
        restore_model(tmp_path)


@pytest.mark.parametrize('override, reason', [
    ('data.train=null', 'data.train is not set; give data.train='),
    ('model.num_classes=3', 'has 2 categories and model.num_classes is 3; set model.num_classes=2')],
    ids=['no training set', 'number of classes'])
def test_settings_that_do_not_match_the_data_are_an_error(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, override: str, reason: str) -> None:
    with pytest.raises(TrainingError) as error:
        trainer.train(tiny_config(data, override), tmp_path / 'run')
    assert reason in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_a_batch_that_cannot_be_split_among_replicas_is_an_error(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, 'make_strategy', lambda train, cluster: SimpleNamespace(num_replicas_in_sync=3))
    with pytest.raises(TrainingError, match='data.batch_size is 4: expected a multiple of the 3 replicas'):
        trainer.train(tiny_config(data), tmp_path)


def test_xla_with_synchronized_batch_normalization_is_an_error_on_several_replicas(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, 'make_strategy', lambda *_: SimpleNamespace(num_replicas_in_sync=2))
    with pytest.raises(TrainingError, match='train.jit_compile is on: XLA cannot compile synchronized batch norm'):
        trainer.train(tiny_config(data, 'train.jit_compile=on', 'model.backbone.norm=sync'), tmp_path)


def test_records_without_proposals_are_an_error_before_anything_is_written(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built) -> None:
    with pytest.raises(InputError, match='train.json: its records have no proposals; attach some with `mrcnn convert'):
        trainer.train(tiny_config(data, 'model.kind=fast_rcnn'), tmp_path / 'run')
    assert not built and not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_the_error_about_a_damaged_record_names_its_shard(tmp_path: pathlib.Path, built: Built) -> None:
    write_data(tmp_path)
    shard = tmp_path / 'train-0.tfrecord'
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    with pytest.raises(InputError) as error:
        trainer.train(tiny_config(tmp_path), tmp_path / 'run')
    assert str(shard) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(('error', 'line'), [
    (tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor\nand more'),
     'out of memory after 0 steps; lower data.batch_size'),
    (tf.errors.UnimplementedError(None, None, 'Graph execution error:\nGPU MaxPool gradient ops do not yet have a '
                                              'deterministic XLA implementation.\nand more'),
     'XLA has no deterministic form of .* max pooling; set train.jit_compile=off')], ids=['memory', 'deterministic'])
def test_an_error_in_a_step_is_one_line(
        data: pathlib.Path, tmp_path: pathlib.Path, built: Built, error: Exception, line: str) -> None:
    def fail() -> None:
        raise error

    built.prepare = lambda model: setattr(model, 'before_step', {0: fail})
    with pytest.raises(TrainingError, match=rf'^{line}.*\Z'):
        trainer.train(tiny_config(data), tmp_path)


@pytest.mark.parametrize('gpu, deterministic, engine, jit', [
    (True, True, 'xla', False), (True, False, 'xla', True), (False, True, 'op', False), (False, False, 'op', False)],
    ids=['GPU, deterministic', 'GPU', 'CPU, deterministic', 'CPU'])
def test_the_engine_has_a_deterministic_gradient_where_it_must(
        gpu: bool, deterministic: bool, engine: str, jit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of crop_and_resize, which the op engine uses, has no deterministic kernel on a GPU."""
    monkeypatch.setattr(trainer.tf.config, 'list_physical_devices', lambda kind: ['GPU:0'] * gpu)
    config = Config()
    config.train.deterministic = deterministic
    strategy = SimpleNamespace(num_replicas_in_sync=1)
    run = trainer._Run(config, pathlib.Path(), Peers(), SINGLE_WORKER, strategy, [0], InputServers())
    assert (run.engine, run.jit_compile) == (engine, jit)
