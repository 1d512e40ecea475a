"""Checkpoint files, `step-N.index` and `step-N.data-*`: finding the newest one, checking and removing them.

N is the number of optimizer updates. The names of the files determine which checkpoints exist. TensorFlow's list, the
file `checkpoint`, is written for TensorFlow's own tools but never read, so weights survive the loss of the list. Files
with other names, such as `step-best.index`, are ignored and never removed.
"""
from __future__ import annotations

import logging
import pathlib
import re
from collections.abc import Collection, Sequence

import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.files.text import error_line

_log = logging.getLogger(__name__)

_LIST = 'checkpoint'
_FILE = re.compile(r'step-(0|[1-9]\d*)\.(?:index|data-\d{5}-of-\d{5})')
_UNFINISHED = re.compile(r'step-\d+_temp')    # TensorFlow's temporary directory


class CheckpointError(ValueError):
    """A model directory cannot be read or written; the message is one line with the path, the reason and the remedy."""


def steps_in(directory: pathlib.Path) -> list[int]:
    """Return the steps that have files, complete or not, in ascending order."""
    matches = (_FILE.fullmatch(path.name) for path in directory.glob('step-*'))
    return sorted({int(match[1]) for match in matches if match})


def prefix_of(directory: pathlib.Path, step: int) -> pathlib.Path:
    """Return TensorFlow's prefix for the checkpoint of a step."""
    return directory / f'step-{step}'


def number_of(prefix: pathlib.Path) -> int:
    """Return the step of a prefix."""
    return int(prefix.name.removeprefix('step-'))


def find_newest(directory: pathlib.Path, preferred: int | None = None) -> pathlib.Path | None:
    """Return the prefix of the newest complete checkpoint; None if none was ever written.

    Verifies all its checksums, and logs a warning for each checkpoint that is damaged and would have been used.

    Args:
        directory: of the checkpoints.
        preferred: a step whose checkpoint is used instead of newer ones if it is complete.

    Raises:
        CheckpointError: all checkpoints are damaged, or only TensorFlow's list of them exists.
    """
    damaged: list[str] = []
    for step in sorted(steps_in(directory), key=lambda step: (step == preferred, step), reverse=True):
        prefix = prefix_of(directory, step)
        reason = damage(prefix)
        if not reason:
            for line in damaged:
                _log.warning('%s; falling back to %s', line, prefix.name)
            return prefix
        damaged.append(f'{prefix} is damaged ({reason})')
    if damaged:
        raise CheckpointError(f'{"; ".join(damaged)}: no complete checkpoint is left; copy one back, or remove '
                              f'{directory} to start again')
    if (directory / _LIST).exists():
        raise CheckpointError(f'{directory / _LIST} exists, but no checkpoint, step-N.index with step-N.data-*; '
                              f'copy the files back, or remove {directory} to start again')
    return None


def damage(prefix: pathlib.Path) -> str:
    """Return why a checkpoint cannot be read; '' if all its checksums are correct."""
    if not prefix.with_name(f'{prefix.name}.index').is_file():
        return f'{prefix.name}.index is missing'
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, RuntimeError, LookupError, ValueError) as error:    # by TensorFlow's status code
        return error_line(error)
    return ''


def write_list(directory: pathlib.Path, steps: Sequence[int]) -> None:
    """Write TensorFlow's list of these checkpoints, the newest last, atomically."""
    names = [prefix_of(directory, step).name for step in steps]
    lines = [f'model_checkpoint_path: "{names[-1]}"', *(f'all_model_checkpoint_paths: "{name}"' for name in names)]
    with files.atomic_path(directory / _LIST) as temporary:
        temporary.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def remove_unfinished(directory: pathlib.Path) -> None:
    """Remove the temporary directories of interrupted saves."""
    for path in directory.glob('step-*'):
        if _UNFINISHED.fullmatch(path.name):
            files.remove(path)


def remove_steps(directory: pathlib.Path, steps: Collection[int]) -> None:
    """Remove the files of these checkpoints."""
    for path in directory.glob('step-*'):
        match = _FILE.fullmatch(path.name)
        if match and int(match[1]) in steps:
            files.remove(path)
