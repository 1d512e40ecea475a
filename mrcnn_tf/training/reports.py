"""Keras callbacks that report training: a progress bar, and numbers for loggers.

step: the number of optimizer updates done, including the current one.
"""
from __future__ import annotations

import datetime
import math
import resource
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule
from rich.console import Console

from mrcnn_tf.files.progress import TEXT, Bar, print_line
from mrcnn_tf.training.callbacks import step_of
from mrcnn_tf.training.loggers import Logger

_STALL = 0.2      # the fraction of the time in which steps wait for their input, above which the log gives advice
_ESTIMATED = 3    # the step of this process after which the duration is estimated; the first one compiles


class Speed(NamedTuple):
    """The speed of an interval; NaN while it is unknown.

    Attributes:
        images_per_second: over all replicas.
        input_wait: the fraction of the time in which a step waits for its batch.
    """
    images_per_second: float = math.nan
    input_wait: float = math.nan


class _PeriodicReport(keras.callbacks.Callback):
    """Calls `report` every `every` steps and after the last one, with the means since the previous report.

    The time between `on_test_begin` and `on_test_end` does not count for the speed.
    """

    def __init__(self, every: int, total: int, batch_size: int) -> None:
        super().__init__()
        self._every, self._total, self._batch_size = every, total, batch_size
        self._sums: dict[str, float] = {}
        self._steps = 0                                   # in the sums
        self._timed = 0                                   # steps since `_since`
        self._since: float | None = None                  # None until the first step, which compiles, is done
        self._waited = 0.0                                # of `model.input_seconds`, at `_since`
        self._tested = 0.0                                # the beginning of an evaluation

    def report(self, step: int, losses: dict[str, float], speed: Speed) -> None:
        """Report mean losses and speed."""
        raise NotImplementedError

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self._tested = time.perf_counter()

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        if self._since is not None:
            self._since += time.perf_counter() - self._tested

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        step = step_of(self.model)
        self._sums = {name: self._sums.get(name, 0.0) + float(value) for name, value in logs.items()}
        self._steps += 1
        now = time.perf_counter()
        if self._since is None:
            self._since, self._waited = now, self.model.input_seconds
        else:
            self._timed += 1
        if step % self._every == 0 or step == self._total:
            self.report(step, {name: value / self._steps for name, value in self._sums.items()}, self._speed_until(now))
            self._sums, self._steps, self._timed, self._since = {}, 0, 0, now
            self._waited = self.model.input_seconds

    def _speed_until(self, now: float) -> Speed:
        if self._since is None or not self._timed:
            return Speed()
        seconds = now - self._since
        return Speed(self._timed * self._batch_size / seconds, (self.model.input_seconds - self._waited) / seconds)


class LogScalars(_PeriodicReport):
    """Gives numbers to loggers: losses, positive anchors and RoIs per replica, learning rate, speed and memory.

    `input_wait` is the fraction of the time in which steps wait for their batches. `memory_mib` and `gpu_memory_mib`
    are the largest amounts so far, in 2^20 bytes, of this process and of one of its GPUs.
    """

    def __init__(self, loggers: Sequence[Logger], schedule: LearningRateSchedule, every: int, total: int,
                 batch_size: int) -> None:
        super().__init__(every, total, batch_size)
        self._schedule, self._loggers = schedule, loggers

    def report(self, step: int, losses: dict[str, float], speed: Speed) -> None:
        scalars = {**losses, 'learning_rate': float(self._schedule(step - 1)), **speed._asdict(), **_memory()}
        for logger in self._loggers:
            logger.write(step, scalars)


def _memory() -> dict[str, float]:
    """Return the largest amounts of memory so far, in 2^20 bytes."""
    unit = 1 if sys.platform == 'darwin' else 1024    # bytes of ru_maxrss
    used = {'memory_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2 ** 20}
    gpus = [tf.config.experimental.get_memory_info(gpu.name.removeprefix('/device:'))['peak']
            for gpu in tf.config.list_logical_devices('GPU')]
    return {**used, 'gpu_memory_mib': max(gpus) / 2 ** 20} if gpus else used


class ProgressBar(_PeriodicReport):
    """Shows step, images/s, time left and losses: a bar on a terminal, lines elsewhere. Use it as a context."""

    def __init__(self, every: int, total: int, batch_size: int, console: Console | None = None) -> None:
        super().__init__(every, total, batch_size)
        self._bar = Bar('step', total, TEXT, console=console)
        self._begun = time.perf_counter()
        self._steps_here = 0    # of this process
        self._advised = False

    def __enter__(self) -> ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._begun = time.perf_counter()
        self._bar.text = 'compiling the first step'
        self._bar.update(step_of(self.model))

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if self._since is None:
            self._print(f'first step, including compilation: {time.perf_counter() - self._begun:.1f} s')
            self._bar.text = ''
        self._steps_here += 1
        if self._steps_here == 1:
            self._begun = time.perf_counter()
        step = step_of(self.model)
        if self._steps_here == _ESTIMATED and step < self._total:
            each = (time.perf_counter() - self._begun) / (_ESTIMATED - 1)
            left = datetime.timedelta(seconds=round((self._total - step) * each))
            self._print(f'about {left} for the remaining {self._total - step} steps, without evaluations')
        self._bar.update(step)
        super().on_train_batch_end(batch, logs)

    def report(self, step: int, losses: dict[str, float], speed: Speed) -> None:
        parts = {name.removeprefix('loss_'): value for name, value in losses.items() if name.startswith('loss_')}
        listed = ', '.join(f'{name} {value:.3f}' for name, value in parts.items())
        text = f'{self._speed(step, speed.images_per_second)}  loss {losses["loss"]:.4f} ({listed})'
        self._bar.text = text
        if not self._bar.console.is_terminal:
            self._print(f'step {step}/{self._total}  {text}')
        if speed.input_wait > _STALL and not self._advised:
            self._advised = True
            self._print(f'steps waited {speed.input_wait:.0%} of the time for their input: the CPUs or the storage of '
                        'this machine are too slow for its GPUs; give the process more cores, copy the set to a local '
                        'disk, switch off parts of data.augment, or let other machines compute batches '
                        '(train.input=service)')

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        super().on_test_begin(logs)
        self._described = self._bar.text

    def on_test_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Show how much of an evaluation is done, `logs['fraction']`."""
        self._bar.text = f'evaluating: {logs["fraction"]:.0%}'

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        super().on_test_end(logs)
        self._bar.text = self._described

    def _speed(self, step: int, images_per_second: float) -> str:
        if not math.isfinite(images_per_second):
            return '- images/s'
        left = round((self._total - step) * self._batch_size / images_per_second)
        return f'{images_per_second:.2f} images/s  {datetime.timedelta(seconds=left)} left'

    def _print(self, line: str) -> None:
        print_line(line, self._bar.console)
