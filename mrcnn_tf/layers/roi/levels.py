"""The base class of RoI layers, the level that a box is pooled from (FPN eq. 1), and all levels as one table of cells.

B images, N boxes per image, K = B * N, L levels, P output side, C channels. A single feature map is a pyramid of one
level.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.layers.feature_maps import as_list
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops.arguments import check_counts, check_list, check_positive, check_shape
from mrcnn_tf.ops.tensor_shapes import dimensions

FPN_STRIDES = (4, 8, 16, 32)     # of P2 to P5, from which an FPN's heads pool (FPN 4.2)


def assign_levels(boxes: tf.Tensor, count: int, canonical_size: float = 224., canonical_level: int = 4,
                  finest: int = 2) -> tf.Tensor:
    """Return the index of the level that each box is pooled from, by FPN eq. 1.

    Args:
        boxes: float32 [..., 4] px.
        count: number of levels.
        canonical_size: px; a box of this size belongs to `canonical_level`.
        canonical_level: k0 of FPN eq. 1.
        finest: the level with index 0; 2 is P2.

    Returns:
        int32 [...], from 0 to count - 1.

    Example:
        >>> import tensorflow as tf
        >>> boxes = tf.constant([[0., 0., 224., 224.], [0., 0., 112., 112.], [0., 0., 9., 9.]])
        >>> assign_levels(boxes, count=4).numpy().tolist()
        [2, 1, 0]
    """
    # 1e-6 keeps a box of exactly 112, 224, ... px on the level that exact arithmetic gives.
    root = tf.sqrt(tf.maximum(box_ops.area(boxes), 1e-12))
    level = tf.floor(canonical_level + tf.math.log(root / canonical_size) / tf.math.log(2.) + 1e-6)
    return tf.cast(tf.clip_by_value(level - finest, 0, count - 1), tf.int32)


Size = tuple[int, int]     # rows and columns of bins; P denotes both


def both(size: int | Sequence[int]) -> Size:
    """Return the rows and columns of a size that is one number for both, or two."""
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


class RoILayer(keras.layers.Layer):
    """Base class of RoI layers; a subclass implements `pool`.

    Args:
        size: P in cells, or the numbers of rows and columns.
        strides: px per cell of each feature map, the finest first.
        canonical_size: px; a box of this size is pooled from `canonical_level` (FPN eq. 1).
        canonical_level: k0 of FPN eq. 1; level k has the stride 2 ** k.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, size: int | Sequence[int] = 7, strides: Sequence[float] = FPN_STRIDES,
                 canonical_size: float = 224., canonical_level: int = 4, **kwargs: Any) -> None:
        super().__init__(**{'autocast': False, 'dtype': 'float32', **kwargs})
        owner = type(self).__name__
        if not isinstance(size, int):
            check_list(owner, 'size', size, length=2)
        for side in both(size):
            check_counts(owner, size=side)
        check_list(owner, 'strides', strides)
        check_positive(owner, canonical_size=canonical_size)
        self.size: Any = size
        self.strides = tuple(strides)
        self.canonical_size, self.canonical_level = canonical_size, canonical_level

    def call(self, features: Sequence[tf.Tensor] | tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        """Return the pooled feature maps [B, N, P, P, C], bfloat16 or float16 if all maps are, otherwise float32.

        Args:
            features: [B, h, w, C], the finest first, or a single one.
            boxes: [B, N, 4] px; the values of padding are of no matter.
        """
        owner = type(self).__name__
        maps = as_list(owner, features, len(self.strides))
        kinds = {feature.dtype for feature in maps}
        if kinds not in ({tf.bfloat16}, {tf.float16}):      # of these, `pool` converts the cells that it reads
            maps = [tf.cast(feature, tf.float32) for feature in maps]
        check_shape(owner, 'boxes', boxes, '[B, N, 4]')
        boxes, size = tf.stop_gradient(tf.cast(boxes, tf.float32)), both(self.size)
        levels = assign_levels(boxes, len(maps), self.canonical_size, self.canonical_level,
                               round(math.log2(self.strides[0])))
        pooled = self.pool(maps, boxes, levels, size)
        return tf.reshape(pooled, [*dimensions(boxes)[:2], *size, maps[0].shape[-1]])

    def pool(self, features: list[tf.Tensor], boxes: tf.Tensor, levels: tf.Tensor, size: Size) -> tf.Tensor:
        """Pool feature maps of one type for boxes [B, N, 4] px on levels int32 [B, N]: [K, P, P, C] of that type."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'size': self.size if isinstance(self.size, int) else list(self.size),
                'strides': list(self.strides),
                'canonical_size': self.canonical_size, 'canonical_level': self.canonical_level}


def extent(maps: Sequence[tf.Tensor], level: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return height, width and first row in `table` of each box's feature map: int32 [K] -> int32 [K, 1] each."""
    shapes = [dimensions(m) for m in maps]
    offsets = [sum(b * h * w for b, h, w, _ in shapes[:i]) for i in range(len(shapes))]
    height, width, offset = (tf.gather(tf.stack(values), level)[:, None] for values in (
        [h for _, h, _, _ in shapes], [w for _, _, w, _ in shapes], offsets))
    return height, width, offset


def table(maps: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the cells of all levels and images as rows: L feature maps [B, h, w, C] -> [cells, C]."""
    return tf.concat([tf.reshape(m, [-1, m.shape[-1]]) for m in maps], axis=0)


def split(table: tf.Tensor, maps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the rows [cells, C] as feature maps of the shapes of `maps`; the inverse of `table`."""
    shapes = [dimensions(m) for m in maps]
    parts = tf.split(table, [b * h * w for b, h, w, _ in shapes], num=len(maps))
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def rounded(edges: tf.Tensor) -> tf.Tensor:
    """Round to whole cells; halves are rounded away from zero."""
    return tf.sign(edges) * tf.floor(tf.abs(edges) + .5)
