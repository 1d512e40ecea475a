"""Region proposals from the RPN's scores and deltas (Faster R-CNN 3.3), of one feature map or of a pyramid (FPN 4.1).

B images, L levels, A anchors of all levels, A_l of one, P proposals kept per image.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.config import RPNConfig
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops.tensor_shapes import dimensions


class Proposals(NamedTuple):
    """Region proposals and their validity mask, best first.

    boxes float32 [B, P, 4] px, clipped to the image; logits float32 [B, P]; valid bool [B, P].
    """
    boxes: tf.Tensor
    logits: tf.Tensor
    valid: tf.Tensor


class ProposalLimits(NamedTuple):
    """Which boxes become proposals.

    pre_nms: the best boxes of each level that enter NMS; post_nms: the largest number of proposals of an image;
    nms_iou: the IoU, 0..1, from which on NMS drops a box; min_side: px; boxes with a smaller side are dropped.
    """
    pre_nms: int
    post_nms: int
    nms_iou: float
    min_side: float

    @classmethod
    def of(cls, config: RPNConfig, training: bool) -> ProposalLimits:
        """Return the limits of `model.rpn` for training or for inference."""
        pre_nms, post_nms = (config.pre_nms_train, config.post_nms_train) if training else (
            config.pre_nms_test, config.post_nms_test)
        return cls(pre_nms, post_nms, config.nms_iou, config.min_side)


def propose(logits: Sequence[tf.Tensor], deltas: Sequence[tf.Tensor], anchors: tf.Tensor, sizes: tf.Tensor,
            config: RPNConfig, training: bool, engine: str) -> Proposals:
    """Return the proposals that a config's `model.rpn` asks for, in training or inference; see `best_proposals`."""
    return best_proposals(logits, deltas, anchors, sizes, ProposalLimits.of(config, training), engine)


def best_proposals(logits: Sequence[tf.Tensor], deltas: Sequence[tf.Tensor], anchors: tf.Tensor, sizes: tf.Tensor,
                   limits: ProposalLimits, engine: str) -> Proposals:
    """Return region proposals and their validity mask (Faster 3.3).

    NMS runs within each level; the best boxes of all levels are the proposals of the image. No gradient flows through
    them.

    Args:
        logits: float32 [B, A_l] of each level, from `RPNHead`; LOWEST marks an anchor that is not used. With the 'op'
            engine, A_l may be dynamic.
        deltas: float32 [B, A_l, 4] of each level.
        anchors: float32 [A, 4] px, those of the first level first.
        sizes: float32 [B, 2], height and width of each image in px.
        limits: before and after NMS.
        engine: of `boxes.nms`, 'op' or 'xla'.

    Returns:
        Proposals; P is `post_nms`, or `pre_nms` times the number of levels if that is smaller.

    Raises:
        ValueError: an unknown engine.
    """
    levels = [_best_of_level(*level, sizes, limits.pre_nms, limits.min_side) for level in zip(
        logits, deltas, tf.split(anchors, [dimensions(x)[1] for x in logits], num=len(logits)), strict=True)]
    boxes = tf.concat([b for b, _ in levels], axis=1)                    # [B, L, n, 4], n = pre_nms
    scores = tf.concat([s for _, s in levels], axis=1)                   # [B, L, n]
    batch, count, width = dimensions(scores)
    limit = min(limits.post_nms, width)
    kept, valid = box_ops.nms(tf.reshape(boxes, [-1, width, 4]), tf.reshape(scores, [-1, width]), limits.nms_iou,
                              limit, engine)
    kept, valid = (tf.reshape(x, [batch, count, limit]) for x in (kept, valid))
    boxes, scores = (tf.gather(x, kept, batch_dims=2) for x in (boxes, scores))
    scores = tf.where(valid, scores, box_ops.LOWEST)
    boxes, scores = tf.reshape(boxes, [batch, count * limit, 4]), tf.reshape(scores, [batch, count * limit])
    scores, best = tf.math.top_k(scores, min(limits.post_nms, count * limit))
    valid = scores > box_ops.LOWEST
    boxes = tf.where(valid[..., None], tf.gather(boxes, best, batch_dims=1), 0.)
    return Proposals(tf.stop_gradient(boxes), tf.stop_gradient(scores), valid)


def _best_of_level(logits: tf.Tensor, deltas: tf.Tensor, anchors: tf.Tensor, sizes: tf.Tensor, limit: int,
                   min_side: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the `limit` boxes of highest logit, decoded and clipped, [B, 1, limit, 4], and their logits [B, 1, limit].

    Boxes with a side below `min_side`, and missing boxes, have the logit LOWEST.
    """
    count = tf.minimum(limit, dimensions(logits)[1]) if logits.shape[1] is None else min(limit, logits.shape[1])
    scores, best = tf.math.top_k(logits, count)
    boxes = box_ops.decode(tf.gather(deltas, best, batch_dims=1), tf.gather(anchors, best))
    boxes = box_ops.clip(boxes, sizes)
    large = tf.reduce_all(boxes[..., 2:] - boxes[..., :2] >= min_side, axis=-1)
    scores = tf.where(large, scores, box_ops.LOWEST)
    missing = limit - count
    boxes = tf.pad(boxes, [[0, 0], [0, missing], [0, 0]])
    scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=box_ops.LOWEST)
    batch = logits.shape[0]
    return tf.ensure_shape(boxes, [batch, limit, 4])[:, None], tf.ensure_shape(scores, [batch, limit])[:, None]
