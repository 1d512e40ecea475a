"""Evaluation during training: of which steps, by whom, where its numbers go, and whether training stops after it.

step: the number of optimizer updates done. The checkpoint of a step is written before the step is evaluated, and what
is evaluated are the weights of that checkpoint, in a model of its own. So an evaluation cannot change what is trained,
no worker takes part in it besides the chief, and an interrupted one is repeated when the run is resumed.
"""
from __future__ import annotations

import enum
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.evaluation.validation import Evaluated
from mrcnn_tf.training.callbacks import DeferredSignals, step_of
from mrcnn_tf.training.loggers import Logger
from mrcnn_tf.training.strategies import mean_over_workers
from mrcnn_tf.weights.checkpoint_files import prefix_of
from mrcnn_tf.weights.history import LOSS, History

# Evaluates a checkpoint, given its prefix. Calls a function with the fraction of the work that is done.
Evaluate = Callable[[pathlib.Path, Callable[[float], None]], Evaluated]

_PER_RUN = 10
_SHOWN = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')    # in the line of an evaluation
_SHOWN_OF_PROPOSALS = ('AR@50', 'AR@300', 'AR@1000', 'ARs@1000', 'ARm@1000', 'ARl@1000')


class Outcome(enum.IntEnum):
    """What follows an evaluation: training continues, ends because nothing improves, or stops because of a signal."""
    CONTINUE = 0
    END = 1
    STOP = 2


class Interrupted(Exception):
    """A signal was received during an evaluation."""


def evaluation_interval(train: TrainConfig, manifest: str | None, steps: int) -> int:
    """Return the number of steps between evaluations; 0: there are none."""
    if not manifest:
        return 0
    return -(-steps // _PER_RUN) if train.evaluate_every is None else train.evaluate_every


@dataclass
class Evaluations:
    """What the chief does: it evaluates checkpoints, and reports and records the numbers.

    Attributes:
        evaluate: the function that evaluates.
        model_dir: the model directory.
        history: of the run.
        patience: number of evaluations without a new best one after which training ends; 0: never.
        signals: end an evaluation.
        say: prints a line.
        loggers: get the numbers and pictures.
        reports: callbacks that are told of evaluations, as Keras tells them.
    """
    evaluate: Evaluate
    model_dir: pathlib.Path
    history: History
    patience: int
    signals: DeferredSignals
    say: Callable[[str], None]
    loggers: Sequence[Logger] = ()
    reports: Sequence[keras.callbacks.Callback] = ()

    def run(self, step: int) -> Outcome:
        """Evaluate the checkpoint of a step, and say what follows."""
        begun = time.perf_counter()
        self._tell('on_test_begin')
        try:
            values, pictures = self.evaluate(prefix_of(self.model_dir / 'checkpoints', step), self._progress)
        except Interrupted:
            return Outcome.STOP
        finally:
            self._tell('on_test_end')
        self.history.add(step, values)
        for logger in self.loggers:
            logger.write(step, {name.removeprefix('val_'): value for name, value in values.items()}, pictures,
                         'validation')
        best = self.history.best()
        self.say(f'step {step}  validation: {describe(values)} ({time.perf_counter() - begun:.1f} s)'
                 f'{", the best so far" if best and best.step == step else ""}')
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return what follows from the history."""
        return Outcome.END if 0 < self.patience <= self.history.since_best() else Outcome.CONTINUE

    def _progress(self, fraction: float) -> None:
        if self.signals.name:
            raise Interrupted
        self._tell('on_test_batch_end', 0, {'fraction': fraction})

    def _tell(self, event: str, *arguments: object) -> None:
        for report in self.reports:
            getattr(report, event)(*arguments)


class Validation(keras.callbacks.Callback):
    """Evaluates after every `interval` steps and the last one, and stops training if nothing improves.

    All workers list it after SaveCheckpoints: the chief evaluates, the others wait.

    Args:
        interval: see `evaluation_interval`.
        total: the last step.
        evaluations: of the chief; None: of another worker, or there are none.
        strategy: of the training.
        workers: their number.

    Attributes:
        outcome: of the last evaluation.
    """

    def __init__(self, interval: int, total: int, evaluations: Evaluations | None, strategy: tf.distribute.Strategy,
                 workers: int) -> None:
        super().__init__()
        self.outcome = Outcome.CONTINUE
        self._interval, self._total, self._evaluations = interval, total, evaluations
        self._strategy, self._workers = strategy, workers

    def is_due(self, step: int) -> bool:
        """Return whether the checkpoint of a step is evaluated."""
        return self._interval > 0 and step > 0 and (step % self._interval == 0 or step == self._total)

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        step = step_of(self.model)
        if self.is_due(step) and not self.model.stop_training:
            self._agree(self._evaluations.run(step) if self._evaluations else Outcome.CONTINUE)
            self.model.stop_training = self.outcome is not Outcome.CONTINUE

    def resume(self, step: int) -> None:
        """Evaluate the step at which a run resumes, if that is due and was not done."""
        outcome = Outcome.CONTINUE
        if self._evaluations:
            missing = self.is_due(step) and not self._evaluations.history.has(step)
            outcome = self._evaluations.run(step) if missing else self._evaluations.outcome()
        if self._interval:
            self._agree(outcome)

    def _agree(self, outcome: Outcome) -> None:
        """Set the outcome on all workers to that of the chief; the others give CONTINUE, which is 0."""
        self.outcome = Outcome(round(mean_over_workers(self._strategy, float(outcome)) * self._workers))


def describe(values: Mapping[str, float | None]) -> str:
    """Return the most important numbers of an evaluation: 'bbox AP 0.412, AP50 0.701, ...; loss 1.234'."""
    groups = []
    for kind, names in (('bbox', _SHOWN), ('segm', _SHOWN), ('recall', _SHOWN_OF_PROPOSALS)):
        numbers = [f'{name} {_text(values[f"{kind}/{name}"])}' for name in names if f'{kind}/{name}' in values]
        if numbers:
            groups.append(f'{kind} {", ".join(numbers)}')
    if LOSS in values:
        groups.append(f'loss {_text(values[LOSS])}')
    return '; '.join(groups)


def _text(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
