"""Settings of what is traced within a context, in the thread that traces it: replicas trace in threads of their own."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

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
        """Return a context, of operations that begin when `x` and the last `done` result are there.

        A result of another graph is not waited for: after a loop or a function, the order starts anew.
        """
        if tf.executing_eagerly():
            return contextlib.nullcontext()
        same = self._last is not None and self._last.graph is tf.compat.v1.get_default_graph()
        return tf.control_dependencies([x, self._last] if same else [x])

    def done(self, result: tf.Tensor) -> tf.Tensor:
        """Return `result`, for which the next computation waits."""
        self._last = None if tf.executing_eagerly() else result
        return result


class Order(NamedTuple):
    """The turns of large convolutions, and of all gradients: their own convolutions', and those of RoI layers.

    Gradients do not wait for results that they do not need, which TensorFlow then need not compute.
    """
    results: Turns
    gradients: Turns

    @classmethod
    def new(cls) -> Order:
        """Return an order in which nothing has been computed."""
        return cls(Turns(), Turns())


# None: there is no order.
_order: ContextVar[Order | None] = ContextVar('order', default=None)


def in_order(active: bool) -> AbstractContextManager[None]:
    """Return a context in which convolutions and gradients take turns if `active`."""
    return within(_order, Order.new() if active else None)


def order() -> Order:
    """Return the order of the current context; outside of one, a new order, in which nothing waits."""
    return _order.get() or Order.new()
