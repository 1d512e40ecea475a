"""RoIPool (Fast R-CNN 2.1). B images, N boxes per image, K = B * N, L levels, P output side, C channels."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from mrcnn_tf.layers.roi import levels as cells
from mrcnn_tf.layers.roi.levels import RoILayer, Size, rounded
from mrcnn_tf.ops.tensor_shapes import dimensions


class PoolingPlan(NamedTuple):
    """The cells of each bin: rows first[0] .. last[0] - 1 and columns first[1] .. last[1] - 1 of its level."""
    level: tf.Tensor                       # int32 [K]
    image: tf.Tensor                       # int32 [K]
    first: tuple[tf.Tensor, tf.Tensor]     # of rows and of columns, int32 [K, P] each
    last: tuple[tf.Tensor, tf.Tensor]      # excluded; if it is at most `first`, the bin is empty


def pooling_plan(boxes: tf.Tensor, levels: tf.Tensor, strides: Sequence[float], maps: Sequence[tf.Tensor],
                 size: Size) -> PoolingPlan:
    """Return the cells of each bin of the K boxes (Fast 2.1).

    A box has the cells from round(first edge / stride) to round(last edge / stride), both included; halves are rounded
    away from zero. Bin p of P has the cells from floor(p * cells / P) to ceil((p + 1) * cells / P), so bins can
    overlap.

    Args:
        boxes: float32 [B, N, 4] px.
        levels: int32 [B, N], the level that each box is pooled from.
        strides: px per cell of each level.
        maps: the feature maps [B, h, w, C] of all levels.
        size: rows and columns of bins.
    """
    flat, level = tf.reshape(boxes, [-1, 4]), tf.reshape(levels, [-1])
    # Multiplied by the inverse: a division may be inexact in a graph, and a half must stay a half.
    edges = flat * tf.gather(tf.constant([1. / s for s in strides], tf.float32), level)[:, None]    # [K, 4], in cells
    edges = tf.cast(rounded(edges), tf.int32)
    height, width, _ = cells.extent(maps, level)
    down, across = (_bins(edges[:, axis::2], limit, size[axis]) for axis, limit in ((0, height), (1, width)))
    batch, number = dimensions(boxes)[:2]
    image = tf.repeat(tf.range(batch), number)
    return PoolingPlan(level, image, (down[0], across[0]), (down[1], across[1]))


def _bins(edges: tf.Tensor, limit: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first and the last cell (excluded) of each bin along one axis: int32 [K, 2], [K, 1] -> [K, P] each."""
    start = edges[:, :1]
    cells = tf.maximum(edges[:, 1:] - start + 1, 1)                                           # [K, 1]
    bins = tf.range(count)
    low, high = start + bins * cells // count, start + ((bins + 1) * cells + count - 1) // count
    return tf.clip_by_value(low, 0, limit), tf.clip_by_value(high, 0, limit)


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class RoIPool(RoILayer):
    """RoIPool: the maximum of each bin (Fast 2.1).

    The inputs are feature maps [B, h, w, C], the finest first, or a single one, and boxes [B, N, 4] in px of the image.
    The output is [B, N, P, P, C], bfloat16 or float16 if all maps are, otherwise float32. A bin outside the feature map
    has no cells and gives 0. The gradient goes to the cell with the largest value, in a tie to the first in row-major
    order; none flows into the boxes.

    Args:
        size: P in cells, or the numbers of rows and columns.
        strides: px per cell of each feature map, the finest first.
        canonical_size: px; a box of this size is pooled from `canonical_level` (FPN eq. 1).
        canonical_level: k0 of FPN eq. 1; level k has the stride 2 ** k.

    Raises:
        ValueError: an argument or an input is none of these.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.roi import RoIPool
        >>> cells = tf.reshape(tf.range(16.), [1, 4, 4, 1])
        >>> box = tf.constant([[[0., 0., 12., 12.]]])         # the cells 0 to 3 on both axes
        >>> RoIPool(size=2, strides=[4])(cells, box).numpy()[0, 0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """

    def pool(self, features: list[tf.Tensor], boxes: tf.Tensor, levels: tf.Tensor, size: Size) -> tf.Tensor:
        maps = [tf.cast(feature, tf.float32) for feature in features]
        return tf.cast(roi_pool(maps, pooling_plan(boxes, levels, self.strides, maps, size)), features[0].dtype)


def roi_pool(features: Sequence[tf.Tensor], plan: PoolingPlan) -> tf.Tensor:
    """Return the maximum of each bin: L feature maps float32 [B, h, w, C] -> [K, P, P, C], differentiable in them."""

    @tf.custom_gradient
    def pool(*maps: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        largest, row = _largest(maps, plan)
        return largest, lambda upstream: _to_rows(upstream, row, maps)

    return pool(*features)


def _largest(maps: Sequence[tf.Tensor], plan: PoolingPlan) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the maxima [K, P, P, C] and, int32, the rows of the table that have them, -1 for an empty bin."""
    table = cells.table(maps)
    height, width, offset = cells.extent(maps, plan.level)
    origin = (offset + plan.image[:, None] * height * width)[..., None]                       # [K, 1, 1]
    rows, columns = (tf.reduce_max(last - first, axis=1) for first, last in zip(plan.first, plan.last, strict=True))
    columns = tf.maximum(columns, 1)                                                          # [K], of the widest bin

    def step(s: tf.Tensor, best: tf.Tensor, best_row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        down = s // columns
        y = plan.first[0] + down[:, None]                                                     # [K, P]
        x = plan.first[1] + (s - down * columns)[:, None]
        inside = (y < plan.last[0])[:, :, None] & (x < plan.last[1])[:, None, :]              # [K, P, P]
        row = tf.where(inside, origin + (y * width)[:, :, None] + x[:, None, :], 0)
        value = tf.gather(table, row)
        larger = inside[..., None] & ((best_row < 0) | (value > best))
        return s + 1, tf.where(larger, value, best), tf.where(larger, row[..., None], best_row)

    count = tf.reduce_max(rows * columns)
    shape = [dimensions(plan.level)[0], plan.first[0].shape[1], plan.first[1].shape[1], table.shape[1]]
    _, best, best_row = tf.while_loop(lambda s, *_: s < count, step, (0, tf.zeros(shape), tf.fill(shape, -1)))
    return best, best_row


def _to_rows(upstream: tf.Tensor, row: tf.Tensor, maps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the gradients of the feature maps: add upstream [K, P, P, C] to row `row` of the table, per channel."""
    table = cells.table(maps)
    channels = table.shape[1]
    place = tf.reshape(tf.maximum(row, 0) * channels + tf.range(channels), [-1, 1])
    values = tf.reshape(tf.where(row >= 0, upstream, 0.), [-1])
    total = tf.tensor_scatter_nd_add(tf.zeros([tf.size(table)]), place, values)
    return cells.split(tf.reshape(total, [-1, channels]), maps)
