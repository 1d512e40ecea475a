"""Learning rates at single steps, computed by hand from the formulas in the docstrings."""
from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.training.schedules import in_steps, learning_rate, scaled

SOLVER = SolverConfig(learning_rate=0.02, steps=100, milestones=[60, 80], gamma=0.1, warmup_steps=10,
                      warmup_factor=0.1, reference_batch=16)


@pytest.mark.parametrize('step, expected', [
    (0, 0.002), (5, 0.02 * (0.1 + 0.9 * 0.5)), (10, 0.02), (59, 0.02), (60, 2e-3), (79, 2e-3), (80, 2e-4), (99, 2e-4)])
def test_step_schedule_with_warm_up(step: int, expected: float) -> None:
    np.testing.assert_allclose(learning_rate(SOLVER, 16)(step), expected, rtol=1e-6)


@pytest.mark.parametrize('step, expected', [
    (0, 0.02), (25, 0.01 * (1 + 0.5 ** 0.5)), (50, 0.01), (75, 0.01 * (1 - 0.5 ** 0.5)), (100, 0.0), (150, 0.0)])
def test_cosine_schedule_decreases_to_zero(step: int, expected: float) -> None:
    solver = dataclasses.replace(SOLVER, schedule='cosine', warmup_steps=0)
    np.testing.assert_allclose(learning_rate(solver, 16)(step), expected, rtol=1e-5, atol=1e-9)


def test_warm_up_scales_the_cosine_schedule() -> None:
    solver = dataclasses.replace(SOLVER, schedule='cosine', warmup_steps=100, warmup_factor=0.5)
    np.testing.assert_allclose(learning_rate(solver, 16)(50), 0.01 * 0.75, rtol=1e-6)


def test_constant_schedule_ignores_milestones() -> None:
    solver = dataclasses.replace(SOLVER, schedule='constant')
    np.testing.assert_allclose([learning_rate(solver, 16)(s) for s in (0, 10, 99)], [0.002, 0.02, 0.02], rtol=1e-6)


def test_a_smaller_batch_has_more_steps_and_a_lower_rate() -> None:
    small = scaled(SOLVER, 4)
    assert (small.learning_rate, small.steps, small.milestones, small.warmup_steps) == (0.005, 400, [240, 320], 40)


def test_scaled_steps_are_rounded_up() -> None:
    large = scaled(SOLVER, 48)    # 100 / 3, 60 / 3, 80 / 3, 10 / 3
    assert (large.steps, large.milestones, large.warmup_steps) == (34, [20, 27], 4)
    assert large.learning_rate == pytest.approx(0.06)


def test_scaling_can_be_disabled() -> None:
    assert scaled(dataclasses.replace(SOLVER, scale_with_batch=False), 4).steps == 100


@pytest.mark.parametrize(('settings', 'batch', 'expected'), [
    ({}, 16, (6, [4, 5], 1)),             # 3 x 32 / 16 = 6 steps; milestones at 0.6 and 0.8 of them, rounded
    ({'warmup_steps': 0}, 4, (6, [4, 5], 0)),      # in steps of 16 images, which `scaled` turns into 24 of 4
    ({'scale_with_batch': False}, 4, (24, [14, 19], 4)),
    ({'steps': 3, 'milestones': [2]}, 16, (6, [4], 1)),      # the milestone is an epoch
    ({'reference_batch': 50}, 50, (2, [1, 2], 0))], ids=['scaled', 'smaller batch', 'not scaled', 'epochs', 'short'])
def test_epochs_become_steps(settings: dict[str, object], batch: int, expected: tuple[int, list[int], int]) -> None:
    solver = dataclasses.replace(SOLVER, epochs=3, **settings)
    found = in_steps(solver, 32, batch)
    assert (found.steps, found.milestones, found.warmup_steps) == expected and found.epochs is None


def test_steps_remain() -> None:
    assert in_steps(SOLVER, 32, 16) is SOLVER


@pytest.mark.parametrize('name', ['step', 'cosine', 'constant'])
def test_a_schedule_is_serializable(name: str) -> None:
    schedule = learning_rate(dataclasses.replace(SOLVER, schedule=name), 8)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    steps = (0, 7, 70, 130, 199)
    np.testing.assert_array_equal([schedule(s) for s in steps], [again(s) for s in steps])
