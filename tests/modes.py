"""The ways in which a function of tensors is run: each must give the same numbers. And how to look inside of one."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import tensorflow as tf

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def _eager(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _graph(function: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(function, autograph=False)


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(function, autograph=False, jit_compile=True)


MODES: Mapping[str, Wrapper] = {'eager': _eager, 'graph': _graph, 'jit': _jit}
ENGINES_AND_MODES = [('op', 'eager'), ('op', 'graph'), ('xla', 'eager'), ('xla', 'graph'), ('xla', 'jit')]


def ours(xyxy: Any) -> Any:
    """The reference's x1, y1, x2, y2, or dx, dy, dw, dh, in this project's order: y before x."""
    return xyxy[..., [1, 0, 3, 2]]


def tolerance(expected: Any) -> float:
    """What the reference's tables are held to: 2e-5 of the largest value, of 1 at least."""
    return 2e-5 * max(1., abs(expected).max(initial=0.))


def wrapped(function: Callable[..., Any], jit: bool) -> Callable[..., Any]:
    """In a graph, compiled by XLA or not."""
    return MODES['jit' if jit else 'graph'](function)


def with_gradient(function: Callable[..., tf.Tensor], *inputs: tf.Tensor, cotangent: Any) -> tuple:
    """function(*inputs) and the gradients of its product with the cotangent."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out = function(*inputs)
    return out, *tape.gradient(out, inputs, tf.cast(cotangent, out.dtype))


def gradients_of(function: Callable[..., tuple], *values: tf.Tensor) -> tuple:
    """The losses that `function` returns, and the gradients of their sum."""
    with tf.GradientTape() as tape:
        tape.watch(values)
        parts = function(*values)
        total = tf.add_n(list(parts))
    return parts, tape.gradient(total, values)


@contextlib.contextmanager
def recorded(module: Any, name: str) -> Iterator[list[Any]]:
    """What each call of `module.name` returns inside of the block, in order; tensors of a graph while it is traced."""
    results: list[Any] = []
    original = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        results.append(original(*args, **kwargs))
        return results[-1]

    with mock.patch.object(module, name, call):
        yield results
