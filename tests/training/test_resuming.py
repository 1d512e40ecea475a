"""Settings that may and may not change when a run is resumed, and the messages about them."""
from __future__ import annotations

import operator
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
    """A model directory with a checkpoint of step 7."""
    return model_dir_at(tmp_path, 7)


def model_dir_at(directory: pathlib.Path, step: int) -> pathlib.Path:
    create(directory, BEFORE, [Category(1, 7, 'cell')])
    (directory / 'checkpoints').mkdir()
    (directory / 'checkpoints' / f'step-{step}.index').touch()
    return directory


def test_changes_that_are_allowed_are_returned(run: pathlib.Path) -> None:
    now = changed(BEFORE, ['solver.steps=100', 'solver.schedule=cosine', 'data.train=b.json', 'train.log_every=5',
                           'model.detections.max_detections=200'])
    assert resuming.describe(resuming.check(run, now)) == (
        'data.train None -> b.json, model.detections.max_detections 100 -> 200, solver.steps 50 -> 100, '
        'solver.schedule step -> cosine, train.log_every 20 -> 5')


def test_equal_settings_have_no_differences(run: pathlib.Path) -> None:
    assert resuming.check(run, BEFORE) == []


def test_a_refusal_lists_all_differences_and_remedies(run: pathlib.Path) -> None:
    now = changed(BEFORE, ['solver.steps=100', 'data.batch_size=4', 'train.seed=1', 'solver.optimizer=adamw'])
    with pytest.raises(CheckpointError) as error:
        resuming.check(run, now)
    message = str(error.value)
    assert ('settings of its run may not change when it is resumed: data.batch_size 16 -> 4, '
            'solver.optimizer sgd -> adamw, train.seed 0 -> 1; '
            'these may change: solver.steps 50 -> 100; add --allow-changes') in message
    assert f'resume with {run}/config.yaml as the config, or give another --model-dir' in message
    assert [each.name for each in resuming.check(run, now, allow_changes=True)] == [
        'data.batch_size', 'solver.optimizer', 'solver.steps', 'train.seed']


def test_a_run_with_dependents_cannot_be_lengthened(run: pathlib.Path) -> None:
    assert resuming.check(run, changed(BEFORE, ['train.log_every=5']), has_dependents=True)
    with pytest.raises(CheckpointError, match='resumed: solver.steps 50 -> 100; later steps depend on its weights'):
        resuming.check(run, changed(BEFORE, ['solver.steps=100']), has_dependents=True)


def test_only_model_settings_of_an_imported_model_are_compared(tmp_path: pathlib.Path) -> None:
    run = model_dir_at(tmp_path, 0)
    assert resuming.check(run, changed(BEFORE, ['train.seed=1', 'data.batch_size=4'])) == []
    with pytest.raises(CheckpointError, match='model.rpn.nms_iou 0.7 -> 0.5'):
        resuming.check(run, changed(BEFORE, ['model.rpn.nms_iou=0.5']))


def test_a_directory_without_a_checkpoint_takes_any_config(tmp_path: pathlib.Path) -> None:
    create(tmp_path, BEFORE, [Category(1, 7, 'cell')])
    assert resuming.check(tmp_path, Config()) == []


def test_checkpoints_without_a_config_are_an_error(run: pathlib.Path) -> None:
    (run / 'config.yaml').unlink()
    with pytest.raises(CheckpointError, match='no config.yaml'):
        resuming.check(run, BEFORE)


@pytest.mark.parametrize('name', resuming.CHANGEABLE)
def test_every_changeable_name_is_a_setting(name: str) -> None:
    section, _, field = name.rpartition('.')
    assert hasattr(operator.attrgetter(section)(BEFORE), field)
