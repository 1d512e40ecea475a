"""Which level of a feature pyramid a box is pooled from (FPN eq. 1), and all levels as one table of cells.

B images, K boxes of all images, L levels, C channels. A single map is a pyramid of one level.
"""
from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mrcnn_tf import boxes as box_ops


def assign_levels(boxes: tf.Tensor, count: int, canonical_size: float = 224., canonical_level: int = 4) -> tf.Tensor:
    """FPN eq. 1 for levels P2..: [..., 4] px -> int32 [...], 0 for P2 up to count - 1."""
    # 1e-6 keeps a box of exactly 112, 224, ... px on the level that real arithmetic gives it.
    root = tf.sqrt(tf.maximum(box_ops.area(boxes), 1e-12))
    level = tf.floor(canonical_level + tf.math.log(root / canonical_size) / tf.math.log(2.) + 1e-6)
    return tf.cast(tf.clip_by_value(level - 2, 0, count - 1), tf.int32)


Size = tuple[int, int]     # rows and columns of bins; P stands for either


def both(size: int | Sequence[int]) -> Size:
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


def extent(maps: Sequence[tf.Tensor], level: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Rows and columns of each box's map and its first row in the table: level int32 [K] -> int32 [K, 1] each."""
    shapes = [m.shape for m in maps]
    offsets = [sum(b * h * w for b, h, w, _ in shapes[:i]) for i in range(len(shapes))]
    height, width, offset = (tf.gather(tf.constant(values), level)[:, None] for values in (
        [h for _, h, _, _ in shapes], [w for _, _, w, _ in shapes], offsets))
    return height, width, offset


def table(maps: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(m, [-1, m.shape[-1]]) for m in maps], axis=0)


def split(table: tf.Tensor, maps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    counts = [m.shape[0] * m.shape[1] * m.shape[2] for m in maps]
    return [tf.reshape(part, m.shape) for part, m in zip(tf.split(table, counts), maps, strict=True)]


def rounded(edges: tf.Tensor) -> tf.Tensor:
    """To whole cells, halves away from zero."""
    return tf.sign(edges) * tf.floor(tf.abs(edges) + .5)
