"""The checkpoints that training writes to a model directory (`weights/model_directory.py`) and resumes from."""
from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf

from mrcnn_tf.files.text import error_line
from mrcnn_tf.training.clusters import SINGLE_WORKER, Worker
from mrcnn_tf.training.strategies import average_statistics
from mrcnn_tf.weights import checkpoint_files
from mrcnn_tf.weights.checkpoint_files import CheckpointError, find_newest, number_of, steps_in
from mrcnn_tf.weights.history import History
from mrcnn_tf.weights.model_directory import checkpoint_of, explained, restore_weights, write

_IMPORTED = 'step-0'


class Checkpoints:
    """Saves and restores the checkpoints of a model directory.

    Args:
        model_dir: the model directory.
        model: a compiled model whose optimizer has its slots.
        keep: the number of checkpoints to keep.
        worker: of this process. All workers must call `save`; only the chief's files are kept.
        history: the evaluations of the run. The checkpoint of the best one is kept as well.
        further: other parts of a checkpoint by name, each variables by name.
    """

    def __init__(self, model_dir: pathlib.Path, model: keras.Model, keep: int, worker: Worker = SINGLE_WORKER,
                 history: History | None = None, further: Mapping[str, Mapping[str, tf.Variable]] | None = None,
                 ) -> None:
        self.directory = model_dir / 'checkpoints'
        self._worker = worker
        self._keep, self._history = keep, history
        self._model, self._optimizer = model, model.optimizer
        self._checkpoint = checkpoint_of(model=model.variables, optimizer=model.optimizer.variables, **(further or {}))
        self._damaged: set[int] = set()

    def restore(self) -> int:
        """Restore the newest complete checkpoint and return its step; return 0 if there is no checkpoint.

        Raises:
            CheckpointError: all are damaged, or the architecture or the optimizer is another.
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
                status.expect_partial()    # otherwise TensorFlow also lists on stderr what was not consumed
        return int(self._optimizer.iterations.numpy())

    def save(self, step: int) -> None:
        """Write step-N, then remove the oldest checkpoints beyond `keep`.

        Keeps the best one, and those that `restore` found damaged.

        Raises:
            CheckpointError: the disk is full or not writable; earlier checkpoints are unchanged.
        """
        average_statistics(self._model)
        # All workers save: reading a variable that is averaged over workers needs each of them.
        with contextlib.nullcontext(self.directory) if self._worker.is_chief else _scratch() as directory:
            try:
                write(self._checkpoint, directory, step)
                before = [each for each in steps_in(directory) if each < step and each not in self._damaged]
                best = self._history.best(before) if self._history else None
                surplus = [each for each in before[:max(0, len(before) + 1 - self._keep)]
                           if not best or each != best.step]
                checkpoint_files.write_list(directory, [*(each for each in before if each not in surplus), step])
                checkpoint_files.remove_steps(directory, surplus)
            except (OSError, tf.errors.OpError) as error:
                raise CheckpointError(f'{directory}: step-{step} cannot be written ({error_line(error)}); earlier '
                                      'checkpoints are complete: free disk space and resume with the same command'
                                      ) from None


@contextlib.contextmanager
def _scratch() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield pathlib.Path(directory)
