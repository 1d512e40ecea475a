"""Checkpoint files that are truncated, changed, missing or foreign."""
from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.weights import checkpoint_files as module
from mrcnn_tf.weights.checkpoint_files import CheckpointError

PARTS = ('index', 'data-00000-of-00001')
VALUES = np.arange(60, dtype=np.float32)


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with step-3 and step-20."""
    directory = tmp_path_factory.mktemp('whole')
    for step in (3, 20):
        tf.train.Checkpoint(model={'kernel': tf.Variable(VALUES), 'step': tf.Variable(step)}).write(
            str(directory / f'step-{step}'))
    return directory


@pytest.fixture
def directory(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(whole, tmp_path / 'checkpoints'))


def names(directory: pathlib.Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_steps_are_ordered_by_number_and_foreign_names_are_ignored(directory: pathlib.Path) -> None:
    for name in ('step-best.index', 'step-007.index', 'step-9.index.copy', 'my-step-8.index', 'step-30_temp'):
        (directory / name).touch()
    assert module.steps_in(directory) == [3, 20]
    assert module.find_newest(directory) == directory / 'step-20'


def test_a_directory_without_checkpoints(tmp_path: pathlib.Path) -> None:
    assert module.find_newest(tmp_path / 'missing') is None
    (tmp_path / 'step-best.index').touch()
    assert module.find_newest(tmp_path) is None


@pytest.mark.parametrize('part', PARTS)
def test_every_truncation_is_detected(directory: pathlib.Path, part: str) -> None:
    path = directory / f'step-20.{part}'
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert module.damage(directory / 'step-20'), length
        assert module.find_newest(directory) == directory / 'step-3'


@pytest.mark.parametrize('part', PARTS)
def test_a_changed_byte_is_detected_or_harmless(directory: pathlib.Path, part: str) -> None:
    path = directory / f'step-20.{part}'
    content = path.read_bytes()
    detected = 0
    for at in range(0, len(content), 5):
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1:])
        if module.damage(directory / 'step-20'):
            detected += 1
        else:    # a byte of the index that belongs to no entry
            reader = tf.train.load_checkpoint(str(directory / 'step-20'))
            np.testing.assert_array_equal(reader.get_tensor('model/kernel/.ATTRIBUTES/VARIABLE_VALUE'), VALUES)
            assert part == 'index'
    assert detected > len(content) / 5 * (.6 if part == 'index' else .99)


@pytest.mark.parametrize(('part', 'reason'), [
    ('index', 'step-20.index is missing'), ('data-00000-of-00001', 'No such file or directory')], ids=PARTS)
def test_a_missing_part_falls_back_with_a_warning(
        directory: pathlib.Path, part: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    (directory / f'step-20.{part}').unlink()
    assert module.find_newest(directory) == directory / 'step-3'
    message, = caplog.messages
    assert message.startswith(f'{directory}/step-20 is damaged (') and reason in message
    assert message.endswith('; falling back to step-3') and '\n' not in message


def test_only_damaged_checkpoints_are_an_error(directory: pathlib.Path) -> None:
    (directory / 'step-20.index').unlink()
    (directory / 'step-3.data-00000-of-00001').write_bytes(b'')
    with pytest.raises(CheckpointError) as error:
        module.find_newest(directory)
    message = str(error.value)
    assert 'step-20 is damaged (step-20.index is missing)' in message and 'step-3 is damaged (' in message
    assert 'no complete checkpoint is left; copy one back, or remove' in message and '\n' not in message


def test_a_list_without_checkpoints_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'checkpoint').touch()
    with pytest.raises(CheckpointError, match='checkpoint exists, but no checkpoint, .* remove .* to start again'):
        module.find_newest(tmp_path)


def test_only_files_of_this_project_are_removed(directory: pathlib.Path) -> None:
    others = {'step-best.index', 'step-20.index.copy', 'step-20-mine.index', 'step-3x_temp', 'my-backup'}
    for name in others - {'my-backup'}:
        (directory / name).touch()
    shutil.copytree(directory, directory / 'my-backup')
    (directory / 'step-30_temp').mkdir()
    module.remove_unfinished(directory)
    module.remove_steps(directory, {20})
    assert names(directory) == others | {f'step-3.{part}' for part in PARTS}
    assert names(directory / 'my-backup') == others - {'my-backup'} | {
        f'step-{step}.{part}' for step in (3, 20) for part in PARTS}
