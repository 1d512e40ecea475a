"""Box operations: areas, overlaps, encoding, clipping, non-maximum suppression. Pure functions on tensors.

A box is float32 [y1, x1, y2, x2] in absolute pixels. Edges are continuous: height = y2 - y1, without an added pixel. A
delta is (dy, dx, dh, dw). B images; N, M boxes; K kept boxes; `...` stands for leading batch dimensions.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.ops.arguments import check_choice
from mrcnn_tf.ops.loops import TOGETHER
from mrcnn_tf.ops.tensor_shapes import dimensions

ENGINES = ('op', 'xla')               # of `nms` and of the RoI layers
MAX_LOG_SCALE = math.log(1000 / 16)   # upper limit of dh and dw: a side grows at most 62.5-fold
TILE = 1024                           # boxes that 'xla' NMS compares with all others at a time
LOWEST = -1e30                        # score of entries that must not be chosen; finite, so that sums stay finite


def area(boxes: tf.Tensor) -> tf.Tensor:
    """Return the area of each box in px^2: [..., 4] -> [...]. The area of an inverted box is 0.

    Example:
        >>> area(tf.constant([[0., 0., 4., 6.]])).numpy().tolist()
        [24.0]
    """
    sides = tf.nn.relu(boxes[..., 2:] - boxes[..., :2])
    return sides[..., 0] * sides[..., 1]


def intersection(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Return the common area of each pair in px^2: [..., N, 4], [..., M, 4] -> [..., N, M]."""
    ay1, ax1, ay2, ax2 = (a[..., :, None, i] for i in range(4))            # [..., N, 1]
    by1, bx1, by2, bx2 = (b[..., None, :, i] for i in range(4))            # [..., 1, M]
    height = tf.nn.relu(tf.minimum(ay2, by2) - tf.maximum(ay1, by1))       # [..., N, M]
    width = tf.nn.relu(tf.minimum(ax2, bx2) - tf.maximum(ax1, bx1))
    return height * width


def iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Return the intersection over union of each pair, in 0..1: [..., N, 4], [..., M, 4] -> [..., N, M].

    The value is 0 if both boxes are empty.

    Example:
        >>> iou(tf.constant([[0., 0., 4., 6.]]), tf.constant([[0., 0., 2., 6.], [4., 0., 8., 6.]])).numpy().tolist()
        [[0.5, 0.0]]
    """
    common = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - common
    return tf.math.divide_no_nan(common, union)


def iof(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Return the intersection over the area of `a`, in 0..1: [..., N, 4], [..., M, 4] -> [..., N, M]."""
    return tf.math.divide_no_nan(intersection(a, b), area(a)[..., :, None])


def clip(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Clip boxes to their images: boxes [B, N, 4], sizes [B, 2] (height, width in px) -> [B, N, 4].

    Example:
        >>> clip(tf.constant([[[-5., 2., 50., 60.]]]), tf.constant([[30., 40.]])).numpy().tolist()
        [[[0.0, 2.0, 30.0, 40.0]]]
    """
    limits = tf.concat([sizes, sizes], axis=-1)[:, None, :]                # [B, 1, 4]
    return tf.clip_by_value(boxes, 0., limits)


def to_original(boxes: tf.Tensor, sizes: tf.Tensor, original_sizes: tf.Tensor) -> tf.Tensor:
    """Return boxes of resized images in px of the original images, clipped to them: float32 [B, N, 4].

    Args:
        boxes: float32 [B, N, 4], px of the resized images.
        sizes: [B, 2], height and width of the resized images, px.
        original_sizes: [B, 2], height and width of the original images, px.

    Example:
        >>> to_original(tf.constant([[[10., 5., 40., 60.]]]), tf.constant([[40, 50]]), tf.constant([[80, 50]])).numpy()
        array([[[20.,  5., 80., 50.]]], dtype=float32)
    """
    limits = tf.cast(tf.tile(original_sizes, [1, 2])[:, None], tf.float64)             # [B, 1, 4]
    scaled = tf.cast(boxes, tf.float64) * (limits / tf.cast(tf.tile(sizes, [1, 2])[:, None], tf.float64))
    return tf.cast(tf.clip_by_value(scaled, 0., limits), tf.float32)


def inside(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Return whether each box lies inside its image, as bool [B, N].

    Args:
        boxes: [N, 4] or [B, N, 4], px.
        sizes: [B, 2], height and width of each image, px.
    """
    return tf.reduce_all((boxes[..., :2] >= 0.) & (boxes[..., 2:] <= sizes[:, None, :]), axis=-1)


def encode(boxes: tf.Tensor, references: tf.Tensor, weights: Sequence[float] = (1., 1., 1., 1.)) -> tf.Tensor:
    """Return the deltas from `boxes` to `references` (Faster eq. 2), times `weights`: [..., 4], [..., 4] -> [..., 4].

    Sides are at least a thousandth of a pixel, so that an empty box or reference gives finite values, not NaN.

    Example:
        >>> encode(tf.constant([[0., 0., 4., 8.]]), tf.constant([[2., 0., 6., 8.]])).numpy().tolist()
        [[0.5, 0.0, 0.0, 0.0]]
    """
    sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3)
    target_sides = tf.maximum(references[..., 2:] - references[..., :2], 1e-3)
    shift = (references[..., :2] + .5 * target_sides - boxes[..., :2] - .5 * sides) / sides
    return tf.concat([shift, tf.math.log(target_sides / sides)], axis=-1) * tf.constant(list(weights), boxes.dtype)


def decode(deltas: tf.Tensor, boxes: tf.Tensor, weights: Sequence[float] = (1., 1., 1., 1.)) -> tf.Tensor:
    """Apply deltas to boxes, the inverse of `encode`: [..., 4], [..., 4] (broadcast) -> [..., 4] in px.

    dh and dw are limited to MAX_LOG_SCALE.

    Example:
        >>> decode(tf.constant([[0.5, 0., 0., 0.]]), tf.constant([[0., 0., 4., 8.]])).numpy().tolist()
        [[2.0, 0.0, 6.0, 8.0]]
    """
    deltas = deltas / tf.constant(list(weights), deltas.dtype)
    sides = boxes[..., 2:] - boxes[..., :2]
    centers = boxes[..., :2] + .5 * sides + deltas[..., :2] * sides
    half = .5 * sides * tf.exp(tf.minimum(deltas[..., 2:], MAX_LOG_SCALE))
    return tf.concat([centers - half, centers + half], axis=-1)


def nms(boxes: tf.Tensor, scores: tf.Tensor, threshold: float, limit: int, engine: str = 'op',
        groups: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the boxes that greedy non-maximum suppression keeps (Faster 3.3).

    A box is dropped if its IoU with a kept box of higher score exceeds `threshold`.

    Args:
        boxes: float32 [M, N, 4], M independent sets, or [N, 4], a single one; N is static.
        scores: float32 [M, N] or [N]; a score of LOWEST marks padding, which is never kept.
        threshold: IoU, 0..1.
        limit: the largest number of boxes kept per set.
        engine: 'op' runs TensorFlow's kernel on one set at a time, 'xla' fixed-size arithmetic that XLA compiles.
        groups: int32 like `scores`, or None; boxes of different groups do not suppress each other.

    Returns:
        indices int32 [M, K] into N, best score first (ties: the first), and valid bool [M, K]; K is `limit`, or N if
        that is smaller. Both are [K] for a single set.

    Raises:
        ValueError: an unknown engine, or `boxes` of another or of an unknown shape.

    Example:
        >>> import tensorflow as tf
        >>> boxes = tf.constant([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 30., 30.]])
        >>> index, valid = nms(boxes, tf.constant([0.8, 0.9, 0.7]), threshold=0.5, limit=3)
        >>> index[valid].numpy().tolist()
        [1, 2]
    """
    check_choice('nms', 'engine', engine, ENGINES)
    if len(boxes.shape) == 2:
        single = nms(boxes[None], scores[None], threshold, limit, engine, None if groups is None else groups[None])
        return single[0][0], single[1][0]
    if len(boxes.shape) != 3 or boxes.shape[1] is None:
        raise ValueError(f'nms: boxes has the shape {tuple(boxes.shape)}; expected [M, N, 4] or [N, 4] with a static N')
    limit = min(limit, boxes.shape[1])
    if engine == 'op' and groups is None:
        return _nms_op(boxes, scores, threshold, limit)
    order = tf.argsort(scores, axis=-1, direction='DESCENDING', stable=True)          # [M, N]
    boxes, scores = (tf.gather(x, order, batch_dims=1) for x in (boxes, scores))
    groups = None if groups is None else tf.gather(groups, order, batch_dims=1)
    kept = _greedy(_Sorted(boxes, scores > LOWEST, groups), threshold, limit)
    # top_k moves the kept boxes to the front and keeps their order, because it takes the lowest index first in a tie.
    valid, chosen = tf.math.top_k(tf.cast(kept, tf.float32), limit)
    return tf.gather(order, chosen, batch_dims=1), valid > 0


class _Sorted(NamedTuple):
    """Boxes of M sets, sorted by score: float32 [..., M, N, 4]; which may be kept: bool [..., M, N]; groups or None."""
    boxes: tf.Tensor
    eligible: tf.Tensor
    groups: tf.Tensor | None

    def tiles(self, size: int) -> _Sorted:
        """Return the boxes in tiles of `size`, [t, M, size, ...]; boxes that are not eligible fill the last tile."""
        def split(x: tf.Tensor) -> tf.Tensor:
            padding = [[0, 0], [0, -x.shape[1] % size]] + [[0, 0]] * (len(x.shape) - 2)
            tiles = tf.reshape(tf.pad(x, padding), [tf.shape(x)[0], -(-x.shape[1] // size), size, *x.shape[2:]])
            return tf.transpose(tiles, [1, 0, *range(2, len(tiles.shape))])

        return _Sorted(*(None if x is None else split(x) for x in self))

    def suppresses(self, later: _Sorted, threshold: float) -> tf.Tensor:
        """Return whether each box overlaps each one of `later` by more than `threshold`: bool [..., M, N, N']."""
        overlap = iou(self.boxes, later.boxes) > threshold
        if self.groups is None or later.groups is None:
            return overlap
        return overlap & (self.groups[..., :, None] == later.groups[..., None, :])


def _greedy(boxes: _Sorted, threshold: float, limit: int) -> tf.Tensor:
    """Return which boxes are kept, bool [M, N]: the first `limit` of a set, and perhaps more.

    A loop decides on one tile of boxes after another, so that no array has more than a tile's overlaps. It ends when
    all sets have `limit` boxes.
    """
    number = boxes.boxes.shape[1]
    tiles = boxes.tiles(max(1, min(TILE, number)))
    count, sets, size = dimensions(tiles.eligible)

    def decide(t: tf.Tensor | int, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tile = _Sorted(*(None if x is None else x[t] for x in tiles))
        dropped = tf.reduce_any(tiles.suppresses(tile, threshold) & kept[..., None], axis=[0, 2])         # [M, size]
        found = _greedy_tile(tile.suppresses(tile, threshold), tile.eligible & ~dropped)
        return t + 1, tf.where(tf.range(count)[:, None, None] == t, found, kept)

    def unfinished(t: tf.Tensor | int, kept: tf.Tensor) -> tf.Tensor:
        enough = tf.reduce_sum(tf.cast(kept, tf.int32), axis=[0, 2]) >= limit
        return (t < count) & ~tf.reduce_all(enough)

    _, kept = tf.while_loop(unfinished, decide, (0, tf.zeros_like(tiles.eligible)))
    return tf.reshape(tf.transpose(kept, [1, 0, 2]), [sets, count * size])[:, :number]


def _greedy_tile(suppresses: tf.Tensor, eligible: tf.Tensor) -> tf.Tensor:
    """Return which boxes are kept, bool [M, n], given suppresses bool [M, n, n] and eligible bool [M, n].

    Boxes are sorted by score. A box is kept unless an earlier kept box suppresses it. Starting from all boxes, the
    repeated rule reaches its only fixed point in as many rounds as the longest chain of suppressions has boxes: few in
    practice, where the usual loop takes n.
    """
    earlier = tf.linalg.band_part(tf.ones(suppresses.shape[1:], tf.float32), 0, -1) - tf.eye(suppresses.shape[1])
    matrix = tf.cast(suppresses, tf.float32) * earlier                                # [M, earlier, later]

    def rounds(kept: tf.Tensor, changed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for _ in range(TOGETHER):     # between two reads of the condition, see `loops`; unrolled: the arrays are small
            before = kept
            hits = tf.einsum('mij,mi->mj', matrix, tf.cast(before, tf.float32))
            kept = eligible & (hits < .5)
        return kept, tf.reduce_any(kept != before)

    kept, _ = tf.while_loop(lambda _, changed: changed, rounds, (eligible, tf.constant(True)))
    return kept


def _nms_op(boxes: tf.Tensor, scores: tf.Tensor, threshold: float, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
    def one(pair: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        index, count = tf.raw_ops.NonMaxSuppressionV4(
            boxes=pair[0], scores=pair[1], max_output_size=limit, iou_threshold=threshold,
            score_threshold=LOWEST, pad_to_max_output_size=True)
        return tf.ensure_shape(index, [limit]), tf.range(limit) < count

    return tf.map_fn(one, (boxes, scores), fn_output_signature=(
        tf.TensorSpec([limit], tf.int32), tf.TensorSpec([limit], tf.bool)), parallel_iterations=8)
