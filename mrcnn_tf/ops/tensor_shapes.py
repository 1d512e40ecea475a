"""Dimensions of tensors whose height and width may be known only when a graph runs."""
from __future__ import annotations

from typing import Any

import tensorflow as tf

Dimension = Any    # an int, or an int32 scalar


def dimensions(x: tf.Tensor) -> list[Dimension]:
    """The size of each axis of `x`: an int where the shape is static, an int32 scalar where it is not."""
    static = x.shape.as_list()
    if None not in static:
        return static
    dynamic = tf.shape(x)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(static)]
