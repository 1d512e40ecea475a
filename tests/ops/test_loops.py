"""Loops with several steps between two looks at their condition."""
from __future__ import annotations

import pytest
import tensorflow as tf

from mrcnn_tf.ops.loops import repeat
from tests.modes import MODES


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('count', [0, 1, 4, 5])
def test_every_step_runs_once_and_in_order(mode: str, count: int) -> None:
    """The digits 1 to `count`; steps beyond it find 0, which they leave out."""
    def digits(count: tf.Tensor) -> tf.Tensor:
        values = tf.where(tf.range(12) < count, tf.range(1, 13), 0)
        return repeat(count, lambda i, total: tf.where(values[i] > 0, 10 * total + values[i], total), tf.constant(0))

    assert int(MODES[mode](digits)(tf.constant(count))) == int('0' + '12345'[:count])


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('count', 'steps'), [(0, 0), (1, 4), (4, 4), (5, 8)])
def test_the_number_of_steps_is_rounded_up(mode: str, count: int, steps: int) -> None:
    """So the condition is computed once for four steps."""
    found = MODES[mode](lambda count: repeat(count, lambda _, total: total + 1, tf.constant(0)))(tf.constant(count))
    assert int(found) == steps
