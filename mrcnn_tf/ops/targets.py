"""The targets of the losses: matching, sampling, mask targets. No gradient flows through them.

B images, N candidates (anchors or RoIs), G ground-truth slots, S samples, T true masks, m side of a mask target.
Matches: 1 positive, 0 negative, -1 ignored.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import rng
from mrcnn_tf.ops.loops import repeat
from mrcnn_tf.ops.roi_samples import samples_per_bin
from mrcnn_tf.ops.tensor_shapes import dimensions

ROUNDING = 1e-6      # of a mask target: where half of a bin's samples lie in the mask, the cell counts as set


class Matches(NamedTuple):
    """label int32 [B, N]: 1, 0, -1; matched_gt_index int32 [B, N] into G (0 where there is none)."""
    label: tf.Tensor
    matched_gt_index: tf.Tensor


@tf.function(jit_compile=True, autograph=False)
def match(candidates: tf.Tensor, gt_boxes: tf.Tensor, usable: tf.Tensor, crowd: tf.Tensor, positive_iou: float,
          negative_iou: float, low_quality: bool, crowd_iof: float, background_iou: float = 0.) -> Matches:
    """Label candidates by their overlap with the ground truth (Faster 3.1.2, Fast 2.3).

    A candidate is positive if its IoU is at least `positive_iou`, negative if it is at least `background_iou` and below
    `negative_iou`, else ignored. With `low_quality`, the candidates that overlap an object most (all that tie) are
    positive as well; each is assigned to the object that it overlaps most itself. Negatives with more than `crowd_iof`
    of their area in a crowd are ignored.

    A loop compares the candidates with one object at a time, up to the last slot that is in use: the memory is a few
    arrays [B, N], whatever G is.

    Args:
        candidates: float32 [N, 4] or [B, N, 4].
        gt_boxes: float32 [B, G, 4].
        usable, crowd: bool [B, G], which slots hold an object, a crowd.
    """
    batch, slots = gt_boxes.shape[:2]
    shape = [batch, candidates.shape[-2]]

    def overlap_of(g: tf.Tensor | int) -> tf.Tensor:
        return tf.where(usable[:, g, None], box_ops.iou(gt_boxes[:, g, None], candidates)[:, 0], -1.)

    def compare(g: tf.Tensor | int, running: _Running) -> _Running:
        g = tf.minimum(g, slots - 1)                                                          # again: changes nothing
        overlap, best, matched, forced = running
        larger = overlap > best                                                               # ties: the first object
        best, matched = tf.where(larger, overlap, best), tf.where(larger, g, matched)
        if low_quality:
            highest = tf.reduce_max(overlap, axis=1, keepdims=True)                           # [B, 1]
            forced |= (overlap == highest) & (highest > 0.)
        return _Running(overlap_of(tf.minimum(g + 1, slots - 1)), best, matched, forced)

    start = _Running(overlap_of(0), tf.fill(shape, -1.), tf.zeros(shape, tf.int32), tf.fill(shape, False))
    _, best, matched, forced = repeat(_used_slots(usable), compare, start)
    negative = (best < negative_iou) & (tf.nn.relu(best) >= background_iou)                   # -1 without objects
    label = tf.where((best >= positive_iou) | forced, 1, tf.where(negative, 0, -1))
    if crowd_iof < 1:
        label = tf.where((label == 0) & (_largest_share(candidates, gt_boxes, crowd, shape) > crowd_iof), -1, label)
    return Matches(label, tf.where(label == 1, matched, 0))


def _largest_share(candidates: tf.Tensor, gt_boxes: tf.Tensor, crowd: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Return the largest part of each candidate's area that lies in one crowd, float32 [B, N].

    A loop of its own: most images have no crowd.
    """
    order = tf.argsort(tf.cast(crowd, tf.int32), axis=1, direction='DESCENDING', stable=True)
    boxes, crowd = (tf.gather(values, order, batch_dims=1) for values in (gt_boxes, crowd))

    def step(g: tf.Tensor | int, largest: tf.Tensor) -> tf.Tensor:
        g = tf.minimum(g, boxes.shape[1] - 1)
        # An object's overlap with a crowd counts over the candidate's area: a crowd is many objects.
        common = box_ops.intersection(boxes[:, g, None], candidates)[:, 0]                     # [B, N]
        share = common / tf.maximum(box_ops.area(candidates), 1e-6)
        return tf.maximum(largest, tf.where(crowd[:, g, None], share, 0.))

    return repeat(_used_slots(crowd), step, tf.zeros(shape))


def _used_slots(used: tf.Tensor) -> tf.Tensor:
    """Return one more than the last slot of any image that is True in bool [B, G], int32 []."""
    return tf.reduce_max(tf.where(used, tf.range(1, used.shape[1] + 1), 0))


class _Running(NamedTuple):
    """What `match` knows of the candidates before it compares them with an object, each [B, N].

    The loop carries the overlap with that object from the iteration before: an overlap that XLA computed twice, with
    two roundings, would not equal its own maximum.
    """
    overlap: tf.Tensor    # float32, with the object
    best: tf.Tensor       # float32, the largest IoU so far
    matched: tf.Tensor    # int32, the object of it
    forced: tf.Tensor     # bool, whether no candidate overlaps some object more


class Samples(NamedTuple):
    """index int32 [B, S] into the candidates; positive, valid bool [B, S]."""
    index: tf.Tensor
    positive: tf.Tensor
    valid: tf.Tensor


def sample(label: tf.Tensor, limit: int, fraction: float, seed: tf.Tensor) -> tuple[Samples, int]:
    """Return random samples of the candidates, and the largest number of positives (Faster 3.1.3, Fast 2.3).

    An image has at most `limit` samples, of which at most `limit * fraction` are positive. Negatives take the places
    that positives leave. Positives come first, so the slots beyond the returned number hold none.

    Args:
        label: int32 [B, N], from `match`.
        limit: number of slots.
        fraction: 0..1.
        seed: int32 [n], or [B, n] by image.
    """
    number = label.shape[1]
    max_positives = min(int(limit * fraction), number)
    limit = min(limit, number)
    max_positives = min(max_positives, limit)
    keys = rng.uniform(tuple(label.shape), seed)
    ranked, index = tf.math.top_k(tf.where(label == 1, keys, -1.), max_positives)             # [B, max_positives]
    positive = ranked >= 0.
    negative_quota = limit - tf.reduce_sum(tf.cast(positive, tf.int32), axis=1, keepdims=True)
    ranked, others = tf.math.top_k(tf.where(label == 0, keys, -1.), limit)
    negative = (ranked >= 0.) & (tf.range(limit) < negative_quota)
    # Slot s holds the s-th positive, or else a negative; slots without either point at candidate 0, not valid.
    shift = limit - max_positives
    slot_positive = tf.pad(positive, [[0, 0], [0, shift]])
    order = tf.argsort(tf.cast(tf.concat([slot_positive, negative], 1), tf.int32), direction='DESCENDING', stable=True)
    both = tf.concat([tf.pad(index, [[0, 0], [0, shift]]), others], axis=1)                   # [B, 2 limit]
    chosen = tf.gather(tf.concat([slot_positive, negative], 1), order[:, :limit], batch_dims=1)
    index = tf.gather(both, order[:, :limit], batch_dims=1)
    first = tf.range(limit) < limit - negative_quota
    return Samples(tf.where(chosen, index, 0), chosen & first, chosen), max_positives


def hardest(label: tf.Tensor, boxes: tf.Tensor, losses: tf.Tensor, limit: int, nms_iou: float, engine: str) -> Samples:
    """Return the candidates of largest loss, at most `limit` per image, the largest first (1604.03540 3.2).

    Of candidates that overlap by more than `nms_iou`, only the one of largest loss is a sample: they would count one
    loss many times.

    Args:
        label: int32 [B, N], from `match`.
        boxes: float32 [B, N, 4] px.
        losses: float32 [B, N].
        limit: number of slots.
        nms_iou: 0..1.
        engine: of `boxes.nms`, 'op' or 'xla'.
    """
    # A loss that is not finite counts as the largest. Without it, nobody would see that training has failed.
    keys = tf.where(tf.math.is_finite(losses), losses, -box_ops.LOWEST)
    index, valid = box_ops.nms(boxes, tf.where(label >= 0, keys, box_ops.LOWEST), nms_iou, limit, engine)
    index = tf.where(valid, index, 0)
    return Samples(index, valid & (gather_matched(label, index) == 1), valid)


def gather_matched(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Return the values [B, G, ...] at index int32 [B, S]: [B, S, ...]."""
    return tf.gather(values, index, batch_dims=1)


def mask_targets(rois: tf.Tensor, masks: tf.Tensor, mask_boxes: tf.Tensor, size: int, aligned: bool,
                 binary: bool) -> tf.Tensor:
    """Return the mask of each RoI's object inside the RoI, by RoIAlign with adaptive samples (Mask 3.1).

    The result is float32 [T, m, m] in 0..1. A mask is stored over a part of the image, usually the object's box; with
    masks over the whole image this is the arithmetic of the reference implementations. RoIAlign is separable, so rows
    and columns are two matrices.

    Args:
        rois: float32 [T, 4] px; masks: [T, h, w] in 0..255 or 0..1 by dtype (uint8 or float32).
        mask_boxes: float32 [T, 4] px, the part that each mask covers.
        size: m; aligned: dialect of RoIAlign; binary: cut at 0.5.
    """
    if masks.dtype == tf.uint8:
        masks = tf.cast(masks, tf.float32) / 255.
    rows, columns = (_axis_weights(rois[:, axis::2], mask_boxes[:, axis::2], masks.shape[1 + axis], size, aligned)
                     for axis in (0, 1))
    targets = tf.einsum('tph,thw,tqw->tpq', rows, masks, columns)
    return tf.cast(targets >= .5 - ROUNDING, tf.float32) if binary else targets


def _axis_weights(roi: tf.Tensor, extent: tf.Tensor, cells: int, size: int, aligned: bool) -> tf.Tensor:
    """Return the weight of each cell of a mask in each bin of a RoI along one axis: [T, 2], [T, 2] -> [T, m, cells]."""
    side = roi[:, 1] - roi[:, 0]
    if not aligned:
        side = tf.maximum(side, 1.)
    bins = (side / size)[:, None]                                                             # [T, 1], px
    samples = tf.maximum(samples_per_bin(side, size)[:, None], 1.)                            # [T, 1]
    # The unaligned dialect takes pixel i to lie at i, where its centre is at i + 0.5.
    start = roi[:, :1] + (0. if aligned else .5)
    cells_per_px = cells / tf.maximum(extent[:, 1:] - extent[:, :1], 1e-3)
    numbers = tf.range(cells, dtype=tf.float32)

    def step(s: tf.Tensor | int, total: tf.Tensor) -> tf.Tensor:
        offset = tf.cast(s, tf.float32)
        px = start + bins * (tf.range(size, dtype=tf.float32) + (offset + .5) / samples)      # [T, m]
        position = (px - extent[:, :1]) * cells_per_px - .5
        inside = (position >= -1.) & (position <= cells) & (offset < samples)
        position = tf.clip_by_value(position, 0., cells - 1.)
        hat = tf.nn.relu(1. - tf.abs(position[:, :, None] - numbers))                         # [T, m, cells]
        return total + tf.where(inside[:, :, None], hat, 0.)

    rounds = tf.cast(tf.reduce_max(samples), tf.int32)
    total = repeat(rounds, step, tf.zeros([dimensions(samples)[0], size, cells]))
    return total / samples[:, :, None]

