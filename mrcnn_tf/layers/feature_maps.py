"""Feature maps as a layer's input: one alone, or a list of those of a pyramid; and the cells around some of theirs.

B images, S samples per image, C channels.
"""
from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import tensorflow as tf

from mrcnn_tf.ops.arguments import check_shape
from mrcnn_tf.ops.tensor_shapes import dimensions


def as_list(owner: str, features: Sequence[tf.Tensor] | tf.Tensor, count: int | None = None) -> list[tf.Tensor]:
    """Return the feature maps as a list.

    Args:
        owner: the layer, for messages.
        features: feature maps [B, h, w, C], or a single one.
        count: how many the layer expects; None: any number.

    Raises:
        ValueError: a tensor has another number of axes, or there are more or fewer than `count`.
    """
    maps = list(features) if isinstance(features, (list, tuple)) else [features]
    for feature in maps:
        check_shape(owner, 'a feature map', feature, '[B, h, w, C]')
    if count is not None and len(maps) != count:
        raise ValueError(f'{owner}: got {len(maps)} feature maps; expected {count}, one for each level')
    return maps


def windows(features: Sequence[tf.Tensor], cells: tf.Tensor, radius: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the cells around some cells, and which of them are inside of the feature map.

    Where windows overlap, the gradient is summed in float32.

    Args:
        features: [B, h, w, C] for each level.
        cells: int32 [B, S], their numbers, row by row, those of the first level first.
        radius: r, in cells.

    Returns:
        [B S, 2 r + 1, 2 r + 1, C], zeros outside of the map, and bool [B S, 2 r + 1, 2 r + 1, 1].
    """
    side = 2 * radius + 1
    offsets = tf.range(-radius, radius + 1)
    found, insides = [], []
    for level in features:
        batch, height, width, channels = dimensions(level)
        rows, columns = (cells // width)[..., None] + offsets, (cells % width)[..., None] + offsets   # [B, S, side]
        here = (cells >= 0) & (cells < height * width)
        inside = (here[..., None, None] & ((rows >= 0) & (rows < height))[..., None]
                  & ((columns >= 0) & (columns < width))[..., None, :])
        image = tf.range(batch)[:, None, None, None] * (height * width)
        row = tf.where(inside, image + rows[..., None] * width + columns[..., None, :], -1)
        found.append(_rows_or_zeros(tf.reshape(level, [batch * height * width, channels]), row))
        insides.append(inside)
        cells -= height * width
    inside = functools.reduce(operator.or_, insides)
    return tf.reshape(tf.add_n(found), [-1, side, side, channels]), tf.reshape(inside, [-1, side, side, 1])


def _rows_or_zeros(table: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Return the rows of [n, C] at int32 [...], zeros at -1: [..., C]. The gradient is summed in float32."""
    @tf.custom_gradient
    def rows(table: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            total = tf.math.unsorted_segment_sum(tf.cast(upstream, tf.float32), index, dimensions(table)[0])
            return tf.cast(total, table.dtype)                             # the sum leaves -1 out

        values = tf.gather(table, tf.maximum(index, 0))
        return tf.where((index >= 0)[..., None], values, tf.zeros([], table.dtype)), gradient

    return rows(table)
