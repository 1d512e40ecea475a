"""Learning rate schedules.

step: the number of optimizer updates done before this one, from 0. r: global batch size / solver.reference_batch.
"""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from mrcnn_tf.config import SolverConfig


def scaled(solver: SolverConfig, global_batch: int) -> SolverConfig:
    """Return the solver settings for a batch size: learning rate x r; steps, milestones and warm-up / r, rounded up.

    This is the linear scaling rule of Goyal et al. (arXiv 1706.02677, section 2.1). The decay of the moving average is
    raised to the power r (arXiv 2307.13813).
    """
    if not solver.scale_with_batch:
        return solver

    def over_r(steps: int) -> int:
        return -(-steps * solver.reference_batch // global_batch)    # integer arithmetic rounds only once

    return dataclasses.replace(
        solver,
        learning_rate=solver.learning_rate * global_batch / solver.reference_batch,
        steps=over_r(solver.steps),
        milestones=[over_r(m) for m in solver.milestones],
        warmup_steps=over_r(solver.warmup_steps),
        ema_decay=solver.ema_decay ** (global_batch / solver.reference_batch))


def in_steps(solver: SolverConfig, images: int, global_batch: int) -> SolverConfig:
    """Return the solver settings with `steps` for their `epochs`, if they have any.

    Milestones keep their place in proportion to the length, and the warm-up is at most a fifth of it.

    Args:
        solver: with milestones in proportion to its `steps`.
        images: of an epoch.
        global_batch: images of a step.
    """
    if solver.epochs is None:
        return solver
    batch = solver.reference_batch if solver.scale_with_batch else global_batch
    steps = max(1, -(-solver.epochs * images // batch))
    return dataclasses.replace(
        solver, epochs=None, steps=steps, warmup_steps=min(solver.warmup_steps, steps // 5),
        milestones=sorted({max(1, round(m * steps / solver.steps)) for m in solver.milestones}))


def learning_rate(solver: SolverConfig, global_batch: int) -> LearningRateSchedule:
    """Return the learning rate schedule for a batch size, with warm-up."""
    solver = scaled(solver, global_batch)
    base: LearningRateSchedule
    if solver.schedule == 'cosine':
        base = Cosine(solver.learning_rate, solver.steps)
    else:
        base = Steps(solver.learning_rate, solver.milestones if solver.schedule == 'step' else [], solver.gamma)
    return WarmUp(base, solver.warmup_steps, solver.warmup_factor)


@keras.saving.register_keras_serializable('mrcnn_tf')
class Steps(LearningRateSchedule):
    """rate x gamma^(number of milestones <= step)."""

    def __init__(self, rate: float, milestones: Sequence[int], gamma: float) -> None:
        self.rate, self.milestones, self.gamma = rate, list(milestones), gamma

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        reached = tf.reduce_sum(tf.cast(step >= tf.constant(self.milestones, tf.float32), tf.float32))
        return self.rate * tf.pow(self.gamma, reached)

    def get_config(self) -> dict[str, Any]:
        return {'rate': self.rate, 'milestones': self.milestones, 'gamma': self.gamma}


@keras.saving.register_keras_serializable('mrcnn_tf')
class Cosine(LearningRateSchedule):
    """rate x (1 + cos(pi x min(1, step / steps))) / 2: one cycle of SGDR (arXiv 1608.03983, eq. 5) down to 0."""

    def __init__(self, rate: float, steps: int) -> None:
        self.rate, self.steps = rate, steps

    def __call__(self, step: Any) -> tf.Tensor:
        progress = tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0)
        return self.rate * 0.5 * (1.0 + tf.cos(math.pi * progress))

    def get_config(self) -> dict[str, Any]:
        return {'rate': self.rate, 'steps': self.steps}


@keras.saving.register_keras_serializable('mrcnn_tf')
class WarmUp(LearningRateSchedule):
    """schedule(step) x (factor + (1 - factor) x min(1, step / steps))."""

    def __init__(self, schedule: LearningRateSchedule, steps: int, factor: float) -> None:
        self.schedule, self.steps, self.factor = schedule, steps, factor

    def __call__(self, step: Any) -> tf.Tensor:
        progress = tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0) if self.steps else 1.0
        return self.schedule(step) * (self.factor + (1.0 - self.factor) * progress)

    def get_config(self) -> dict[str, Any]:
        return {'schedule': keras.optimizers.schedules.serialize(self.schedule),
                'steps': self.steps, 'factor': self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        return cls(**{**config, 'schedule': keras.optimizers.schedules.deserialize(config['schedule'])})
