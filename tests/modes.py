"""The ways in which a function of tensors is run: each must give the same numbers."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
