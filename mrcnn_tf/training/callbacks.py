"""What happens between the steps: progress, TensorBoard, checkpoints, and the reasons to stop.

step: optimizer updates done, this one included. Nothing here changes what is learnt.
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
    """Training that cannot go on; the message is one line: at which step, why, remedy."""


def step_of(model: keras.Model) -> int:
    """Optimizer updates done, those before a resume included."""
    return int(model.optimizer.iterations.numpy())


class NonFiniteStop(keras.callbacks.Callback):
    """Raises TrainingError after the first step with a loss that is not a finite number; list it before Save."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        bad = sorted(name for name, value in logs.items() if not math.isfinite(value))
        if bad:
            named = ', '.join(f'{name} is {float(logs[name])}' for name in bad if name != 'loss' or bad == ['loss'])
            raise TrainingError(f'step {step_of(self.model)}: {named} on the images {_image_ids(self.model)}; look at '
                                'their boxes, lower solver.learning_rate or set solver.clip_norm')


class PositivesStop(keras.callbacks.Callback):
    """Raises TrainingError after N steps in a row without a positive anchor or RoI; list it before Save. 0: never.

    Nothing but background is learnt in such steps.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._limit = steps
        self._without = 0    # steps since the last with a positive

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        positives = sum(value for name, value in logs.items() if name.startswith('positive_'))
        self._without = 0 if positives else self._without + 1
        if self._limit and self._without == self._limit:
            raise TrainingError(
                f'step {step_of(self.model)}: none of the last {self._limit} steps had a positive anchor or RoI, the '
                f'last of them on the images {_image_ids(self.model)}; look at the objects of data.train with '
                '`mrcnn inspect` and compare their sizes with model.anchors.sizes, or set train.stop_without_positives '
                'higher (0: never stop)')

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._without == self.params['steps']:
            _log.warning('none of the %d steps had a positive anchor or RoI: nothing but background was learnt',
                         self._without)


def _image_ids(model: keras.Model) -> list[int]:
    """Those of the last step on this machine."""
    replicas = model.distribute_strategy.experimental_local_results(model.last_image_ids)
    return [int(i) for ids in replicas for i in ids.numpy()]


class Interruption:
    """Holds Ctrl-C and SIGTERM back, so that the step in hand is finished and saved; the second one acts at once."""

    def __init__(self) -> None:
        self.name = ''    # of the signal that came
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():    # Python lets no other set handlers
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


class Save(keras.callbacks.Callback):
    """Saves every N steps, after the last, and where `interrupted` says so, which also stops training."""

    def __init__(self, checkpoints: Checkpoints, every: int, total: int, interrupted: Callable[[int], bool]) -> None:
        super().__init__()
        self._checkpoints, self._every, self._total, self._interrupted = checkpoints, every, total, interrupted

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        step = step_of(self.model)
        stop = self._interrupted(step)
        if stop:
            self.model.stop_training = True
        if stop or step % self._every == 0 or step == self._total:
            self._check_weights(step)
            self._checkpoints.save(step)

    def _check_weights(self, step: int) -> None:
        """A finite loss may have had a gradient that was not: its checkpoint could not be resumed."""
        for variable in self.model.trainable_variables:
            if not tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable))):
                name = getattr(variable, 'path', variable.name)    # Keras 3's name is but its last part
                raise TrainingError(f'step {step}: weights of {name} are not finite and not saved; lower '
                                    'solver.learning_rate or set solver.clip_norm')


class _Report(keras.callbacks.Callback):
    """Calls `report` every N steps and after the last, with means since the report before."""

    def __init__(self, every: int, total: int, batch_size: int) -> None:
        super().__init__()
        self._every, self._total, self._batch_size = every, total, batch_size
        self._sums: dict[str, float] = {}
        self._steps = 0                                   # summed up
        self._timed = 0                                   # of these, since `_since`
        self._since: float | None = None                  # unknown until the first step, which compiles, is over

    def report(self, step: int, losses: dict[str, float], images_per_second: float) -> None:
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


class Scalars(_Report):
    """TensorBoard: each loss, positive anchors and RoIs a replica, learning_rate, images_per_second."""

    def __init__(self, directory: pathlib.Path, schedule: LearningRateSchedule, every: int, total: int,
                 batch_size: int) -> None:
        super().__init__(every, total, batch_size)
        self._schedule, self._directory = schedule, directory
        with self._explained():
            self._writer = tf.summary.create_file_writer(str(directory))

    def report(self, step: int, losses: dict[str, float], images_per_second: float) -> None:
        values = {**losses, 'learning_rate': float(self._schedule(step - 1)), 'images_per_second': images_per_second}
        with self._explained():
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    if math.isfinite(value):    # a rate is known from the second step on
                        tf.summary.scalar(name, value)
            self._writer.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what TensorFlow raises for a full disk, which it calls exhausted memory, into one line."""
        try:
            yield
        except tf.errors.OpError as error:
            raise TrainingError(f'{self._directory}: the losses cannot be written '
                                f'({error.message.rsplit("; ", 1)[-1]}); make room there and resume with the same '
                                'command') from None


class Show(_Report):
    """Step, images/s, time left and losses: a moving bar on a terminal, lines elsewhere. Use it as a context."""

    def __init__(self, every: int, total: int, batch_size: int, console: Console | None = None) -> None:
        super().__init__(every, total, batch_size)
        self._bar = Progress(
            TextColumn('step'), MofNCompleteColumn(), BarColumn(), TextColumn('{task.description}'),
            console=console or Console())
        self._on_terminal = self._bar.console.is_terminal
        self._begun = time.perf_counter()

    def __enter__(self) -> Show:
        if self._on_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._on_terminal:
            self._bar.stop()    # or the cursor stays hidden

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._begun = time.perf_counter()
        self._task = self._bar.add_task('compiles the first step', total=self._total, completed=step_of(self.model))

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if self._since is None:
            self._print(f'first step, with its compilation: {time.perf_counter() - self._begun:.1f} s')
            self._bar.update(self._task, description='')
        self._bar.update(self._task, completed=step_of(self.model))
        super().on_train_batch_end(batch, logs)

    def report(self, step: int, losses: dict[str, float], images_per_second: float) -> None:
        parts = {name.removeprefix('loss_'): value for name, value in losses.items() if name.startswith('loss_')}
        each = ', '.join(f'{name} {value:.3f}' for name, value in parts.items())
        text = f'{self._speed(step, images_per_second)}  loss {losses["loss"]:.4f} ({each})'
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
            print(line, file=self._bar.console.file, flush=True)    # rich would fold it at 80 columns
