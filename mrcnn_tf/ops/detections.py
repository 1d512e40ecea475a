"""Selection of the best D detections of each image from the box head's output (Mask R-CNN 3.1, inference).

B images, R RoIs per image, K classes without background, D detections kept per image.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.config import DetectionConfig
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import losses as loss_ops


class Selected(NamedTuple):
    """Detections, best first: boxes float32 [B, D, 4] px, scores float32 [B, D] in 0..1, labels int32 [B, D] in 1..K,
    valid bool [B, D]. Zeros where not valid.
    """
    boxes: tf.Tensor
    scores: tf.Tensor
    labels: tf.Tensor
    valid: tf.Tensor


class Candidates(NamedTuple):
    """Scored boxes of each RoI: boxes float32 [B, R, K or 1, 4] px, clipped to their images; scores float32
    [B, R, K + 1] in 0..1, background first; valid bool [B, R].
    """
    boxes: tf.Tensor
    scores: tf.Tensor
    valid: tf.Tensor


def candidates(rois: tf.Tensor, roi_valid: tf.Tensor, logits: tf.Tensor, deltas: tf.Tensor, sizes: tf.Tensor,
               box_weights: list[float]) -> Candidates:
    """Return the scores and boxes of every class for every RoI.

    Args:
        rois: float32 [B, R, 4] px; roi_valid: bool [B, R].
        logits: float32 [B, R, K + 1], background first; deltas: float32 [B, R, K or 1, 4].
        sizes: float32 [B, 2], height and width of each image in px, to which boxes are clipped.
        box_weights: of dy, dx, dh, dw; see `boxes.decode`.
    """
    boxes = box_ops.decode(deltas, rois[:, :, None, :], box_weights)                      # [B, R, K or 1, 4]
    clipped = box_ops.clip(tf.reshape(boxes, [boxes.shape[0], -1, 4]), sizes)
    return Candidates(tf.reshape(clipped, boxes.shape), tf.nn.softmax(logits), roi_valid)


def best_boxes(found: Candidates) -> tf.Tensor:
    """Return each RoI's box for its class of highest score: float32 [B, R, 4] px."""
    labels = tf.argmax(found.scores[:, :, 1:], axis=-1, output_type=tf.int32) + 1
    return loss_ops.of_class(found.boxes, labels, 2)


def select(found: Candidates, config: DetectionConfig, engine: str) -> Selected:
    """Return the best detections of each image: NMS within each class, then the best of all classes.

    With `config.box_voting_iou`, box voting then moves the boxes.

    Args:
        found: scored boxes, from `candidates`.
        config: limits and thresholds.
        engine: 'op' considers every candidate; 'xla' only the `config.pre_nms` of highest score, to limit its memory.
    """
    boxes, scores = found.boxes, found.scores[:, :, 1:]                                   # [B, R, K]
    usable = tf.reduce_all(boxes[..., 2:] - boxes[..., :2] >= config.min_side, axis=-1) & found.valid[:, :, None]
    scores = tf.where(usable & (scores > config.score_threshold), scores, box_ops.LOWEST)
    kept = _select_op(boxes, scores, config) if engine == 'op' else _select_xla(boxes, scores, config)
    return kept if config.box_voting_iou is None else _vote(kept, boxes, scores, config.box_voting_iou)


def _select_xla(boxes: tf.Tensor, scores: tf.Tensor, config: DetectionConfig) -> Selected:
    batch, number, classes = scores.shape
    boxes = tf.reshape(tf.broadcast_to(boxes, [batch, number, classes, 4]), [batch, -1, 4])
    top, index = tf.math.top_k(tf.reshape(scores, [batch, -1]), min(config.pre_nms, number * classes))
    boxes, labels = tf.gather(boxes, index, batch_dims=1), index % classes + 1
    kept, valid = box_ops.nms(boxes, top, config.nms_iou, config.max_detections, 'xla', groups=labels)
    boxes, top, labels = (tf.gather(x, kept, batch_dims=1) for x in (boxes, top, labels))
    return _padded(boxes, top, labels, valid, config.max_detections)


def _select_op(boxes: tf.Tensor, scores: tf.Tensor, config: DetectionConfig) -> Selected:
    kept, top, labels, count = tf.image.combined_non_max_suppression(
        boxes, scores, config.max_detections, config.max_detections, config.nms_iou,
        score_threshold=box_ops.LOWEST, clip_boxes=False)
    valid = tf.range(config.max_detections) < count[:, None]
    return _padded(kept, top, tf.cast(labels, tf.int32) + 1, valid, config.max_detections)


def _vote(kept: Selected, boxes: tf.Tensor, scores: tf.Tensor, iou: float) -> Selected:
    """Return the detections after bounding box voting (1505.01749).

    Each box becomes the mean, weighted by score, of the boxes of its class before NMS, itself included, whose IoU with
    it is above `iou`.

    Args:
        kept: the detections.
        boxes: float32 [B, R, K or 1, 4] px, before NMS.
        scores: float32 [B, R, K]; LOWEST where a box has no vote.
        iou: 0..1.
    """
    which = tf.maximum(kept.labels - 1, 0)                                                # [B, D]
    scores = tf.gather(tf.transpose(scores, [0, 2, 1]), which, batch_dims=1)              # [B, D, R]
    boxes = tf.transpose(boxes, [0, 2, 1, 3])                                             # [B, K or 1, R, 4]
    if boxes.shape[1] > 1:
        boxes = tf.gather(boxes, which, batch_dims=1)                                     # [B, D, R, 4]
    near = box_ops.iou(kept.boxes[:, :, None], boxes)[:, :, 0] > iou                      # [B, D, R]
    votes = tf.where(near & (scores > box_ops.LOWEST), scores, 0.)[..., None]
    total = tf.reduce_sum(votes, axis=2)                                                  # [B, D, 1]; 0 without an area
    mean = tf.math.divide_no_nan(tf.reduce_sum(votes * boxes, axis=2), total)
    return kept._replace(boxes=tf.where(total > 0., mean, kept.boxes))


def _padded(boxes: tf.Tensor, scores: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor, limit: int) -> Selected:
    missing = [[0, 0], [0, limit - boxes.shape[1]]]
    return Selected(tf.pad(tf.where(valid[..., None], boxes, 0.), [*missing, [0, 0]]),
                    tf.pad(tf.where(valid, scores, 0.), missing), tf.pad(tf.where(valid, labels, 0), missing),
                    tf.pad(valid, missing))
