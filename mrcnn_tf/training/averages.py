"""Averages of the weights over steps: the exponential moving average, and the slow weights of Lookahead.

w: weights, a: their moving average, s: slow weights, t: optimizer updates done.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.training.callbacks import step_of
from mrcnn_tf.weights.model_directory import AVERAGE

Update = Callable[[tf.Variable, tf.Variable], Any]


class Copies(keras.callbacks.Callback):
    """A copy of each trained variable, on each replica, that changes with the steps. List it before SaveCheckpoints.

    Args:
        model: a built and compiled model.
        name: of the copies, a part of the keys of checkpoints.
    """

    def __init__(self, model: keras.Model, name: str) -> None:
        super().__init__()
        self.name, self._trained = name, [getattr(v, 'value', v) if hasattr(keras, 'Variable') else v
                                          for v in model.trainable_variables]
        self._strategy = model.distribute_strategy
        paths = [getattr(v, 'path', v.name).split(':')[0] for v in model.trainable_variables]
        with self._strategy.scope():
            self.variables = [tf.Variable(v, trainable=False, name=path)
                              for v, path in zip(self._trained, paths, strict=True)]
        self.by_path = dict(zip(paths, self.variables, strict=True))

    def reset(self) -> None:
        """Set the copies to the weights."""
        self._each(lambda copy, weight: copy.assign(weight))

    def _each(self, update: Update) -> None:
        """Call update(copy, weight) on each replica."""
        with self._strategy.scope():
            for copy, weight in zip(self.variables, self._trained, strict=True):
                self._strategy.extended.update(copy, update, args=(weight,), group=False)


class MovingAverage(Copies):
    """The exponential moving average of the weights: a <- d a + (1 - d) w after each step.

    d = min(decay, (1 + t) / (10 + t)), as of tf.train.ExponentialMovingAverage, so the first weights are soon gone.

    Args:
        model: a built and compiled model.
        decay: the largest d.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        super().__init__(model, AVERAGE)
        self.decay = decay

        @tf.function(autograph=False)
        def update(rest: tf.Tensor) -> None:
            self._each(lambda average, weight: average.assign_add(rest * (tf.convert_to_tensor(weight) - average)))

        self._update = update

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        step = step_of(self.model)
        self._update(tf.constant(1 - min(self.decay, (1 + step) / (10 + step)), tf.float32))


class Lookahead(Copies):
    """Lookahead (arXiv 1907.08610): every k steps, s <- s + rate (w - s), then w <- s.

    Args:
        model: a built and compiled model.
        steps: k.
        rate: of the slow weights, alpha of algorithm 1.
    """

    def __init__(self, model: keras.Model, steps: int, rate: float) -> None:
        super().__init__(model, 'slow')
        self.steps = steps

        def move(slow: tf.Variable, weight: tf.Variable) -> None:
            slow.assign_add(rate * (tf.convert_to_tensor(weight) - slow))
            weight.assign(slow)

        self._update = tf.function(lambda: self._each(move), autograph=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if step_of(self.model) % self.steps == 0:
            self._update()


def averages_of(model: keras.Model, solver: SolverConfig) -> list[Copies]:
    """Return the averages that the settings turn on, Lookahead first: it changes the weights that are averaged."""
    return [*([Lookahead(model, solver.lookahead_steps, solver.lookahead_rate)] if solver.lookahead_steps else []),
            *([MovingAverage(model, solver.ema_decay)] if solver.ema_decay else [])]
