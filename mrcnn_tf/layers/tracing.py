"""Settings of what is traced within a context, in the thread that traces it: replicas trace in threads of their own."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import tensorflow as tf

T = TypeVar('T')
# Whether the forward and the backward pass are programs of their own: what the second needs are results of the first.
apart = ContextVar('apart', default=False)


@contextlib.contextmanager
def within(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Set a variable, and restore it afterwards.

    Example:
        >>> from contextvars import ContextVar
        >>> fast = ContextVar('fast', default=False)
        >>> with within(fast, True):
        ...     fast.get()
        True
        >>> fast.get()
        False
    """
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class Turns:
    """An order of computations in a graph, where TensorFlow would run them side by side, with more memory."""

    def __init__(self) -> None:
        self._last: tf.Tensor | None = None

    def wait(self, x: tf.Tensor) -> Any:
        """Return a context, of operations that begin when `x` and the last `done` result of their graph are there."""
        if tf.executing_eagerly():
            return contextlib.nullcontext()
        same = self._last is not None and self._last.graph is tf.compat.v1.get_default_graph()    # not that of a loop
        return tf.control_dependencies([x, self._last] if same else [x])

    def done(self, result: tf.Tensor) -> tf.Tensor:
        """Return `result`, for which the next computation waits."""
        self._last = None if tf.executing_eagerly() else result
        return result


# Of convolutions and of the gradients of RoI layers, on a CPU and without XLA; None: there is no order.
turns: ContextVar[Turns | None] = ContextVar('turns', default=None)
