"""Model directories: their config, categories and weights."""
from __future__ import annotations

import logging
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import Config, SolverConfig, TrainConfig
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.weights.checkpoint_files import CheckpointError
from mrcnn_tf.weights.history import History
from mrcnn_tf.weights.model_directory import create, find_checkpoint, read, restore_model, save_imported
from tests.training.tiny import tiny_config

CATEGORIES = [Category(1, 7, 'cell'), Category(2, 9, 'nucleus')]


def test_config_and_categories_are_read_back(tmp_path: pathlib.Path) -> None:
    config = Config(solver=SolverConfig(steps=50))
    create(tmp_path / 'run', config, CATEGORIES)
    assert read(tmp_path / 'run') == (config, CATEGORIES)


def test_a_directory_without_a_config_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match='has no config.yaml; give a model directory'):
        read(tmp_path)


def test_a_model_is_restored_from_the_newest_complete_checkpoint(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(tmp_path)
    model = build_detector(config.model)
    save_imported(tmp_path / 'run', model, config, CATEGORIES)
    (tmp_path / 'run' / 'checkpoints' / 'step-7.data-00000-of-00001').touch()
    for a, b in zip(model.get_weights(), restore_model(tmp_path / 'run')[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert 'step-7 is damaged (step-7.index is missing); falling back to step-0' in caplog.text


def test_the_precision_of_a_restored_model(tmp_path: pathlib.Path) -> None:
    config = tiny_config(tmp_path, 'model.kind=rpn')
    model = build_detector(config.model)
    save_imported(tmp_path / 'run', model, config, CATEGORIES)
    restored, *_ = restore_model(tmp_path / 'run', precision='bfloat16')
    assert restored.proposer.head.objectness.compute_dtype == 'bfloat16'
    assert {weight.dtype for weight in restored.get_weights()} == {np.dtype('float32')}
    assert keras.mixed_precision.global_policy().name == 'float32'
    with pytest.raises(ValueError, match="restore_model: precision is 'half'; expected one of 'float32', 'bfloat16'"):
        restore_model(tmp_path / 'run', precision='half')


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with step-10, step-20, step-30 and the evaluations of all but the last; step-10 has the most AP."""
    for step in (10, 20, 30):
        tf.train.Checkpoint(step=tf.Variable(step)).write(str(tmp_path / 'checkpoints' / f'step-{step}'))
    for step, box_ap in ((5, .9), (10, .5), (20, .4)):    # step-5 is there no longer
        History(tmp_path).add(step, {'bbox/AP': box_ap, 'bbox/AP50': -box_ap})
    return tmp_path


@pytest.mark.parametrize(('checkpoint', 'step', 'reason'), [
    ('best', 10, 'the best checkpoint, by bbox/AP = 0.5000; the newest is step-30'),
    ('last', 30, 'the newest checkpoint'), ('20', 20, 'the checkpoint of the given step')])
def test_the_checkpoint_is_chosen_and_logged(
        run: pathlib.Path, checkpoint: str, step: int, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert find_checkpoint(run, Config(), checkpoint) == run / 'checkpoints' / f'step-{step}'
    assert caplog.messages == [f'{run}/checkpoints/step-{step}: {reason}']


def test_the_metric_of_the_config_says_which_is_the_best(run: pathlib.Path) -> None:
    config = Config(train=TrainConfig(best_metric='bbox/AP50'))
    assert find_checkpoint(run, config, 'best').name == 'step-20'


def test_without_evaluations_the_newest_is_used(run: pathlib.Path) -> None:
    (run / 'history.csv').unlink()
    assert find_checkpoint(run, Config(), 'best').name == 'step-30'


def test_a_damaged_best_checkpoint_falls_back_to_the_newest(
        run: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / 'checkpoints' / 'step-10.index').unlink()
    with caplog.at_level(logging.INFO):
        assert find_checkpoint(run, Config(), 'best').name == 'step-30'
    assert caplog.messages == [
        f'{run}/checkpoints/step-10 is damaged (step-10.index is missing); falling back to step-30',
        f'{run}/checkpoints/step-30: the newest checkpoint']
    with pytest.raises(CheckpointError, match='step-10 is damaged .*; give best, last or another step'):
        find_checkpoint(run, Config(), '10')


@pytest.mark.parametrize('checkpoint', ['newest', '15', '-10', ''], ids=['word', 'absent', 'negative', 'empty'])
def test_another_checkpoint_is_an_error(run: pathlib.Path, checkpoint: str) -> None:
    with pytest.raises(CheckpointError, match=f'no checkpoint {checkpoint!r}; give best, last, or one of the steps 10, '
                                              '20, 30'):
        find_checkpoint(run, Config(), checkpoint)
