"""The checkpoints that a run writes into its model directory (`weights/model_directory.py`) and resumes from."""
from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import keras
import tensorflow as tf

from mrcnn_tf.files.text import error_line
from mrcnn_tf.training.strategies import ALONE, Worker, average_statistics
from mrcnn_tf.weights import checkpoint_files
from mrcnn_tf.weights.checkpoint_files import CheckpointError, find_newest, number_of, steps_in
from mrcnn_tf.weights.model_directory import checkpoint_of, explained, restore_weights, write

_IMPORTED = 'step-0'


class Checkpoints:
    """The checkpoints of a model directory, for a compiled model whose optimizer has its slots."""

    def __init__(self, model_dir: pathlib.Path, model: keras.Model, keep: int, worker: Worker = ALONE) -> None:
        """keep: how many stay, the newest; the chief `worker` writes, and all take part."""
        self.directory = model_dir / 'checkpoints'
        self._worker = worker
        self._keep = keep
        self._model, self._optimizer = model, model.optimizer
        self._checkpoint = checkpoint_of(model=model.variables, optimizer=model.optimizer.variables)
        self._damaged: set[int] = set()

    def restore(self) -> int:
        """Restores the newest checkpoint that is whole, where there is one; returns its step, 0 without.

        Raises:
            CheckpointError: none is whole, or it is of another architecture or optimizer.
        """
        newest = find_newest(self.directory)
        if newest is None:
            return 0
        self._damaged = {step for step in steps_in(self.directory) if step > number_of(newest)}
        if newest.name == _IMPORTED:
            restore_weights(self._model, newest)
            return 0
        with explained(newest):
            status = self._checkpoint.restore(str(newest))
            try:
                status.assert_consumed()
            finally:
                status.expect_partial()    # or TensorFlow lists on stderr what was not consumed, below the one line
        return int(self._optimizer.iterations.numpy())

    def save(self, step: int) -> None:
        """Writes step-N, then removes the oldest beyond `keep`; those found damaged by `restore` stay.

        Raises:
            CheckpointError: the disk is full, no permission; the checkpoints before are as they were.
        """
        average_statistics(self._model)
        # Every worker saves, because variables that are averaged when read need all of them; only the chief's stays.
        with contextlib.nullcontext(self.directory) if self._worker.is_chief else _scratch() as directory:
            try:
                write(self._checkpoint, directory, step)
                before = [each for each in steps_in(directory) if each < step and each not in self._damaged]
                surplus = before[:max(0, len(before) + 1 - self._keep)]
                checkpoint_files.write_list(directory, [*before[len(surplus):], step])
                checkpoint_files.remove_steps(directory, surplus)
            except (OSError, tf.errors.OpError) as error:
                raise CheckpointError(f'{directory}: step-{step} cannot be written ({error_line(error)}); the '
                                      'checkpoints before are whole: make room and resume with the same command'
                                      ) from None


@contextlib.contextmanager
def _scratch() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield pathlib.Path(directory)
