"""Loops whose number of iterations depends on data."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

TOGETHER = 4     # steps between two looks at the number


def repeat(count: tf.Tensor, step: Callable[[tf.Tensor | int, Any], Any], start: Any) -> Any:
    """Return the state after step(i, state) for i = 0, 1, 2, ... up to at least count - 1.

    On a GPU under XLA, the host reads the condition of a loop before each iteration, and the GPU waits: 20 to 50 us,
    where a step of small arrays takes 5. It reads nothing if XLA knows how often the loop runs. So an iteration is a
    loop of TOGETHER steps, and **the last one may run steps of i >= count**: they must not change the state. The steps
    are not unrolled: XLA on a CPU would hold the arrays of all of them.

    Args:
        count: int32, a scalar.
        step: of i and a state, which it returns with the same shapes and dtypes.
        start: the first state.

    Example:
        >>> import tensorflow as tf
        >>> values = tf.constant([3., 1., 2., 0., 0., 0., 0., 0.])     # 0 adds nothing
        >>> float(repeat(tf.constant(3), lambda i, total: total + values[i], 0.))
        6.0
    """
    def loop(steps: tf.Tensor | int, once: Callable[[tf.Tensor | int, Any], Any], state: Any, stride: int = 1) -> Any:
        return tf.while_loop(lambda i, _: i < steps, lambda i, state: (i + stride, once(i, state)), (0, state),
                             parallel_iterations=1)[1]

    return loop(count, lambda first, state: loop(TOGETHER, lambda i, state: step(first + i, state), state), start,
                TOGETHER)
