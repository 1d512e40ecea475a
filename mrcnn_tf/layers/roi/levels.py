"""The base class of RoI layers, the level that a box is pooled from (FPN eq. 1), and all levels as one table of cells.

B images, N boxes per image, K = B * N, L levels, P output side, C channels. A single feature map is a pyramid of one
level.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops.tensor_shapes import dimensions


def assign_levels(boxes: tf.Tensor, count: int, canonical_size: float = 224., canonical_level: int = 4) -> tf.Tensor:
    """Return the level of each box by FPN eq. 1: [..., 4] px -> int32 [...], from 0 for P2 to count - 1."""
    # 1e-6 keeps a box of exactly 112, 224, ... px on the level that exact arithmetic gives.
    root = tf.sqrt(tf.maximum(box_ops.area(boxes), 1e-12))
    level = tf.floor(canonical_level + tf.math.log(root / canonical_size) / tf.math.log(2.) + 1e-6)
    return tf.cast(tf.clip_by_value(level - 2, 0, count - 1), tf.int32)


Size = tuple[int, int]     # rows and columns of bins; P denotes both


def both(size: int | Sequence[int]) -> Size:
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


class RoILayer(keras.layers.Layer):
    """Base class of RoI layers; a subclass implements `pool`.

    `call` takes feature maps [B, h, w, C], the finest first, and boxes float32 [B, N, 4] in px. It returns float32
    [B, N, P, P, C]. No gradient flows into the boxes.

    Args:
        size: P, or the numbers of rows and columns.
        strides: px per cell of each feature map, the finest first.
        canonical_size, canonical_level: of FPN eq. 1.
    """

    def __init__(self, size: int | Sequence[int], strides: Sequence[int], canonical_size: float = 224.,
                 canonical_level: int = 4, **kwargs: Any) -> None:
        super().__init__(**{'autocast': False, 'dtype': 'float32', **kwargs})
        self.size: Any = size
        self.strides = tuple(strides)
        self.canonical_size, self.canonical_level = canonical_size, canonical_level

    def call(self, features: Sequence[tf.Tensor], boxes: tf.Tensor) -> tf.Tensor:
        features = [tf.cast(f, tf.float32) for f in features]
        boxes, size = tf.stop_gradient(boxes), both(self.size)
        levels = assign_levels(boxes, len(features), self.canonical_size, self.canonical_level)
        pooled = self.pool(features, boxes, levels, size)
        return tf.reshape(pooled, [*boxes.shape[:2], *size, features[0].shape[-1]])

    def pool(self, features: list[tf.Tensor], boxes: tf.Tensor, levels: tf.Tensor, size: Size) -> tf.Tensor:
        """Pool float32 feature maps for boxes [B, N, 4] px on levels int32 [B, N]; return [K, P, P, C]."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'size': self.size, 'strides': self.strides,
                'canonical_size': self.canonical_size, 'canonical_level': self.canonical_level}


def extent(maps: Sequence[tf.Tensor], level: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return height, width and first row in `table` of each box's feature map: int32 [K] -> int32 [K, 1] each."""
    shapes = [dimensions(m) for m in maps]
    offsets = [sum(b * h * w for b, h, w, _ in shapes[:i]) for i in range(len(shapes))]
    height, width, offset = (tf.gather(tf.stack(values), level)[:, None] for values in (
        [h for _, h, _, _ in shapes], [w for _, _, w, _ in shapes], offsets))
    return height, width, offset


def table(maps: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(m, [-1, m.shape[-1]]) for m in maps], axis=0)


def split(table: tf.Tensor, maps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    counts = [m.shape[0] * m.shape[1] * m.shape[2] for m in maps]
    return [tf.reshape(part, m.shape) for part, m in zip(tf.split(table, counts), maps, strict=True)]


def rounded(edges: tf.Tensor) -> tf.Tensor:
    """Round to whole cells; halves are rounded away from zero."""
    return tf.sign(edges) * tf.floor(tf.abs(edges) + .5)
