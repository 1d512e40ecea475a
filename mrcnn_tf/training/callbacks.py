"""Keras callbacks for training: checkpoints, and early termination.

step: the number of optimizer updates done, including the current one. No callback changes what the model learns.
"""
from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.training.checkpoints import Checkpoints

_log = logging.getLogger(__name__)


class TrainingError(ValueError):
    """Training cannot start or continue. The message is one line: where, why, and the remedy."""


class StoppedBySignal(TrainingError):
    """A signal stopped training after a checkpoint; the same command resumes."""

    exit_code = 75    # EX_TEMPFAIL of sysexits.h: "the user is invited to retry"; schedulers can restart the job


def step_of(model: keras.Model) -> int:
    """Return the number of optimizer updates, including those before training was resumed."""
    return int(model.optimizer.iterations.numpy())


class TerminateOnNonFinite(keras.callbacks.Callback):
    """Raises TrainingError after the first step with a NaN or infinite loss. List it before SaveCheckpoints."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        bad = sorted(name for name, value in logs.items() if not math.isfinite(value))
        if bad:
            losses = ', '.join(f'{name} is {float(logs[name])}' for name in bad if name != 'loss' or bad == ['loss'])
            raise TrainingError(f'step {step_of(self.model)}: {losses} on images {_image_ids(self.model)}; check '
                                'their boxes, lower solver.learning_rate or set solver.clip_norm')


class TerminateWithoutPositives(keras.callbacks.Callback):
    """Raises TrainingError after `steps` consecutive steps without a positive anchor or RoI; with 0, never.

    In such steps the model learns only background. List it before SaveCheckpoints.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._limit = steps
        self._without = 0    # consecutive steps without a positive

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        positives = sum(value for name, value in logs.items() if name.startswith('positive_'))
        self._without = 0 if positives else self._without + 1
        if self._limit and self._without == self._limit:
            raise TrainingError(
                f'step {step_of(self.model)}: none of the last {self._limit} steps had a positive anchor or RoI; the '
                f'last step used images {_image_ids(self.model)}; check the objects of data.train with `mrcnn inspect` '
                'and compare their sizes with model.anchors.sizes, or raise train.stop_without_positives (0: never '
                'stop)')

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._without == self.params['steps']:
            _log.warning('none of the %d steps had a positive anchor or RoI: the model learned only background',
                         self._without)


def _image_ids(model: keras.Model) -> list[int]:
    """Return the image ids of the last step on this machine."""
    replicas = model.distribute_strategy.experimental_local_results(model.last_image_ids)
    return [int(i) for ids in replicas for i in ids.numpy()]


class DeferredSignals:
    """A context that defers Ctrl-C and SIGTERM until the current step is saved. A second signal acts at once."""

    def __init__(self) -> None:
        self.name = ''    # of the signal that was received
        self._before: dict[int, Any] = {}

    def __enter__(self) -> DeferredSignals:
        if threading.current_thread() is threading.main_thread():    # Python allows handlers only there
            self._before = {number: signal.signal(number, self._defer) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def receive(self, name: str) -> None:
        """Take over the signal that another worker received."""
        self.name = self.name or name

    def _defer(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint after the steps for which `is_due` is true.

    When `should_stop(step)` is true, it saves a checkpoint and stops training. It writes inside the context `timed()`.
    """

    def __init__(self, checkpoints: Checkpoints, is_due: Callable[[int], bool], should_stop: Callable[[int], bool],
                 timed: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext) -> None:
        super().__init__()
        self._checkpoints, self._is_due, self._should_stop, self._timed = checkpoints, is_due, should_stop, timed

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        step = step_of(self.model)
        stop = self._should_stop(step)
        if stop:
            self.model.stop_training = True
        if stop or self._is_due(step):
            self._check_weights(step)
            with self._timed():
                self._checkpoints.save(step)

    def _check_weights(self, step: int) -> None:
        """Raise TrainingError for a NaN or infinite weight: even a finite loss can have such a gradient."""
        for variable in self.model.trainable_variables:
            if not tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable))):
                name = getattr(variable, 'path', variable.name)    # Keras 3's `name` is only the last part
                raise TrainingError(f'step {step}: weights of {name} are not finite, so they are not saved; lower '
                                    'solver.learning_rate or set solver.clip_norm')
