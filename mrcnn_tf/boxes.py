"""Boxes: areas, overlaps, coding, suppression. Pure functions on tensors of static shape.

A box is float32 [y1, x1, y2, x2] in absolute pixels, edges continuous, height = y2 - y1 (no added pixel). A delta is
(dy, dx, dh, dw). N, M boxes; K kept; C classes; leading batch dimensions are written `...`.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

MAX_LOG_SCALE = math.log(1000 / 16)   # cap of dh and dw: a side grows at most 62.5-fold
LOWEST = -1e30                        # score of what must not be chosen; finite, so that arithmetic with it is


def area(boxes: tf.Tensor) -> tf.Tensor:
    """[..., 4] -> [...]; 0 for a box turned inside out."""
    sides = tf.nn.relu(boxes[..., 2:] - boxes[..., :2])
    return sides[..., 0] * sides[..., 1]


def intersection(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Common area of each pair: [..., N, 4], [..., M, 4] -> [..., N, M]."""
    ay1, ax1, ay2, ax2 = (a[..., :, None, i] for i in range(4))            # [..., N, 1]
    by1, bx1, by2, bx2 = (b[..., None, :, i] for i in range(4))            # [..., 1, M]
    height = tf.nn.relu(tf.minimum(ay2, by2) - tf.maximum(ay1, by1))       # [..., N, M]
    width = tf.nn.relu(tf.minimum(ax2, bx2) - tf.maximum(ax1, bx1))
    return height * width


def iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Intersection over union of each pair, 0..1, 0 where both are empty: [..., N, 4], [..., M, 4] -> [..., N, M]."""
    common = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - common
    return tf.math.divide_no_nan(common, union)


def iof(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Intersection over the area of `a` (foreground), 0..1: [..., N, 4], [..., M, 4] -> [..., N, M]."""
    return tf.math.divide_no_nan(intersection(a, b), area(a)[..., :, None])


def clip(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Moves every edge into its image. boxes [B, N, 4], sizes [B, 2] (height, width) -> [B, N, 4]."""
    limits = tf.concat([sizes, sizes], axis=-1)[:, None, :]                # [B, 1, 4]
    return tf.clip_by_value(boxes, 0., limits)


def inside(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Whether no edge lies beyond the image. boxes [N, 4] or [B, N, 4], sizes [B, 2] (height, width) -> bool [B, N]."""
    return tf.reduce_all((boxes[..., :2] >= 0.) & (boxes[..., 2:] <= sizes[:, None, :]), axis=-1)


def encode(boxes: tf.Tensor, references: tf.Tensor, weights: Sequence[float] = (1., 1., 1., 1.)) -> tf.Tensor:
    """Deltas that turn `boxes` into `references` (Faster eq. 2), times `weights`: [..., 4], [..., 4] -> [..., 4].

    An empty box or reference gives finite values, not NaN: its sides count as at least a thousandth of a pixel.
    """
    sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3)
    goals = tf.maximum(references[..., 2:] - references[..., :2], 1e-3)
    shift = (references[..., :2] + .5 * goals - boxes[..., :2] - .5 * sides) / sides
    return tf.concat([shift, tf.math.log(goals / sides)], axis=-1) * tf.constant(list(weights), boxes.dtype)


def decode(deltas: tf.Tensor, boxes: tf.Tensor, weights: Sequence[float] = (1., 1., 1., 1.)) -> tf.Tensor:
    """Inverse of `encode`, dh and dw capped at MAX_LOG_SCALE: [..., 4], [..., 4] (broadcast) -> [..., 4]."""
    deltas = deltas / tf.constant(list(weights), deltas.dtype)
    sides = boxes[..., 2:] - boxes[..., :2]
    centers = boxes[..., :2] + .5 * sides + deltas[..., :2] * sides
    half = .5 * sides * tf.exp(tf.minimum(deltas[..., 2:], MAX_LOG_SCALE))
    return tf.concat([centers - half, centers + half], axis=-1)


def nms(boxes: tf.Tensor, scores: tf.Tensor, threshold: float, limit: int, engine: str,
        groups: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Greedy non-maximum suppression: a box falls if its IoU with a kept one of higher score exceeds `threshold`.

    Args:
        boxes: float32 [M, N, 4]; M independent sets.
        scores: float32 [M, N]; a score of LOWEST marks padding, which is never kept.
        limit: K, the most that are kept in a set.
        engine: 'op' runs TensorFlow's kernel a set at a time, 'xla' fixed-size arithmetic that XLA compiles.
        groups: int32 [M, N] or None; boxes of different groups do not suppress each other.

    Returns:
        indices int32 [M, K] into N, best score first (ties: the first), and valid bool [M, K].
    """
    limit = min(limit, boxes.shape[1])
    if engine == 'op' and groups is None:
        return _nms_op(boxes, scores, threshold, limit)
    order = tf.argsort(scores, axis=-1, direction='DESCENDING', stable=True)          # [M, N]
    boxes, scores = (tf.gather(x, order, batch_dims=1) for x in (boxes, scores))
    suppresses = iou(boxes, boxes) > threshold                                        # [M, N, N]
    if groups is not None:
        groups = tf.gather(groups, order, batch_dims=1)
        suppresses &= groups[:, :, None] == groups[:, None, :]
    kept = _greedy(suppresses, scores > LOWEST)
    # The kept ones move to the front in their order; top_k takes the lowest index of equals.
    valid, chosen = tf.math.top_k(tf.cast(kept, tf.float32), limit)
    return tf.gather(order, chosen, batch_dims=1), valid > 0


def _greedy(suppresses: tf.Tensor, eligible: tf.Tensor) -> tf.Tensor:
    """Which boxes survive, given suppresses [M, N, N] between boxes in order of score and eligible [M, N].

    A box is kept unless an earlier kept box suppresses it. Iterating that rule from "all" reaches its only fixed
    point after as many rounds as the longest chain of suppressions, a handful in practice, where the usual loop
    takes N.
    """
    earlier = tf.linalg.band_part(tf.ones(suppresses.shape[1:], tf.float32), 0, -1) - tf.eye(suppresses.shape[1])
    matrix = tf.cast(suppresses, tf.float32) * earlier                                # [M, earlier, later]

    def once(kept: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        hits = tf.einsum('mij,mi->mj', matrix, tf.cast(kept, tf.float32))
        update = eligible & (hits < .5)
        return update, tf.reduce_any(update != kept)

    kept, _ = tf.while_loop(lambda _, changed: changed, once, (eligible, tf.constant(True)))
    return kept


def _nms_op(boxes: tf.Tensor, scores: tf.Tensor, threshold: float, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
    def one(pair: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        index, count = tf.raw_ops.NonMaxSuppressionV4(
            boxes=pair[0], scores=pair[1], max_output_size=limit, iou_threshold=threshold,
            score_threshold=LOWEST, pad_to_max_output_size=True)
        return tf.ensure_shape(index, [limit]), tf.range(limit) < count

    return tf.map_fn(one, (boxes, scores), fn_output_signature=(
        tf.TensorSpec([limit], tf.int32), tf.TensorSpec([limit], tf.bool)), parallel_iterations=8)
