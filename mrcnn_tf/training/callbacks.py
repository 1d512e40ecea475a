"""Keras callbacks for training: progress, TensorBoard, checkpoints, and early termination.

step: the number of optimizer updates done, including the current one. No callback changes what the model learns.
"""
from __future__ import annotations

import contextlib
import datetime
import logging
import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mrcnn_tf.training.checkpoints import Checkpoints

_log = logging.getLogger(__name__)


class TrainingError(ValueError):
    """Training cannot start or continue. The message is one line: where, why, and the remedy."""


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

    def _defer(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every `every` steps and after the last one.

    When `should_stop(step)` is true, it saves a checkpoint and stops training.
    """

    def __init__(self, checkpoints: Checkpoints, every: int, total: int, should_stop: Callable[[int], bool]) -> None:
        super().__init__()
        self._checkpoints, self._every, self._total, self._should_stop = checkpoints, every, total, should_stop

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        step = step_of(self.model)
        stop = self._should_stop(step)
        if stop:
            self.model.stop_training = True
        if stop or step % self._every == 0 or step == self._total:
            self._check_weights(step)
            self._checkpoints.save(step)

    def _check_weights(self, step: int) -> None:
        """Raise TrainingError for a NaN or infinite weight: even a finite loss can have such a gradient."""
        for variable in self.model.trainable_variables:
            if not tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable))):
                name = getattr(variable, 'path', variable.name)    # Keras 3's `name` is only the last part
                raise TrainingError(f'step {step}: weights of {name} are not finite, so they are not saved; lower '
                                    'solver.learning_rate or set solver.clip_norm')


class _PeriodicReport(keras.callbacks.Callback):
    """Calls `report` every `every` steps and after the last one, with the means since the previous report."""

    def __init__(self, every: int, total: int, batch_size: int) -> None:
        super().__init__()
        self._every, self._total, self._batch_size = every, total, batch_size
        self._sums: dict[str, float] = {}
        self._steps = 0                                   # in the sums
        self._timed = 0                                   # steps since `_since`
        self._since: float | None = None                  # None until the first step, which compiles, is done

    def report(self, step: int, losses: dict[str, float], images_per_second: float) -> None:
        """Report mean losses and speed; the speed is NaN while it is unknown."""
        raise NotImplementedError

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        step = step_of(self.model)
        self._sums = {name: self._sums.get(name, 0.0) + float(value) for name, value in logs.items()}
        self._steps += 1
        now = time.perf_counter()
        if self._since is None:
            self._since = now
        else:
            self._timed += 1
        if step % self._every == 0 or step == self._total:
            rate = self._timed * self._batch_size / (now - self._since) if self._timed else math.nan
            self.report(step, {name: value / self._steps for name, value in self._sums.items()}, rate)
            self._sums, self._steps, self._timed, self._since = {}, 0, 0, now


class TensorBoardScalars(_PeriodicReport):
    """Writes to TensorBoard each loss, positive anchors and RoIs per replica, learning_rate and images_per_second."""

    def __init__(self, directory: pathlib.Path, schedule: LearningRateSchedule, every: int, total: int,
                 batch_size: int) -> None:
        super().__init__(every, total, batch_size)
        self._schedule, self._directory = schedule, directory
        with self._raise_training_error():
            self._writer = tf.summary.create_file_writer(str(directory))

    def report(self, step: int, losses: dict[str, float], images_per_second: float) -> None:
        values = {**losses, 'learning_rate': float(self._schedule(step - 1)), 'images_per_second': images_per_second}
        with self._raise_training_error():
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    if math.isfinite(value):    # the first step has no images_per_second
                        tf.summary.scalar(name, value)
            self._writer.flush()

    @contextlib.contextmanager
    def _raise_training_error(self) -> Iterator[None]:
        """Replace TensorFlow's error for a full disk (ResourceExhaustedError) by a TrainingError."""
        try:
            yield
        except tf.errors.OpError as error:
            raise TrainingError(f'{self._directory}: the losses cannot be written '
                                f'({error.message.rsplit("; ", 1)[-1]}); free disk space and resume with the same '
                                'command') from None


class ProgressBar(_PeriodicReport):
    """Shows step, images/s, time left and losses: a bar on a terminal, lines elsewhere. Use it as a context."""

    def __init__(self, every: int, total: int, batch_size: int, console: Console | None = None) -> None:
        super().__init__(every, total, batch_size)
        self._bar = Progress(
            TextColumn('step'), MofNCompleteColumn(), BarColumn(), TextColumn('{task.description}'),
            console=console or Console())
        self._on_terminal = self._bar.console.is_terminal
        self._begun = time.perf_counter()

    def __enter__(self) -> ProgressBar:
        if self._on_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._on_terminal:
            self._bar.stop()    # shows the cursor again

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._begun = time.perf_counter()
        self._task = self._bar.add_task('compiling the first step', total=self._total, completed=step_of(self.model))

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if self._since is None:
            self._print(f'first step, including compilation: {time.perf_counter() - self._begun:.1f} s')
            self._bar.update(self._task, description='')
        self._bar.update(self._task, completed=step_of(self.model))
        super().on_train_batch_end(batch, logs)

    def report(self, step: int, losses: dict[str, float], images_per_second: float) -> None:
        parts = {name.removeprefix('loss_'): value for name, value in losses.items() if name.startswith('loss_')}
        listed = ', '.join(f'{name} {value:.3f}' for name, value in parts.items())
        text = f'{self._speed(step, images_per_second)}  loss {losses["loss"]:.4f} ({listed})'
        if self._on_terminal:
            self._bar.update(self._task, description=text)
        else:
            self._print(f'step {step}/{self._total}  {text}')

    def _speed(self, step: int, images_per_second: float) -> str:
        if not math.isfinite(images_per_second):
            return '- images/s'
        left = round((self._total - step) * self._batch_size / images_per_second)
        return f'{images_per_second:.2f} images/s  {datetime.timedelta(seconds=left)} left'

    def _print(self, line: str) -> None:
        if self._on_terminal:
            self._bar.console.print(line, highlight=False)
        else:
            print(line, file=self._bar.console.file, flush=True)    # rich would wrap it at 80 columns
