"""The region proposal network (Faster R-CNN 3.1), applied to every level of a feature pyramid (FPN 4.1).

B images, L levels, A anchors of all levels, a anchors per cell, P proposals kept per image.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mrcnn_tf.config import RPNConfig
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops.tensor_shapes import dimensions


class RPNHead(keras.layers.Layer):
    """The RPN head: 3x3 convolutions, then 1x1 convolutions for objectness and deltas (Faster fig. 3).

    All levels share the weights. Takes feature maps [B, h, w, C] and returns two lists with an entry per level: float32
    logits [B, h * w * a] and float32 deltas [B, h * w * a, 4].

    Args:
        channels: of the 3x3 convolutions.
        anchors_per_cell: a.
        convolutions: number of 3x3 convolutions.
        classifier: 'sigmoid', one score per anchor; 'softmax', two, background first, whose difference is the logit.
    """

    def __init__(self, channels: int, anchors_per_cell: int, convolutions: int = 1, classifier: str = 'sigmoid',
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def conv(filters: int, kernel: int, name: str, activation: str | None = None) -> keras.layers.Conv2D:
            return keras.layers.Conv2D(filters, kernel, padding='same', activation=activation, name=name,
                                       kernel_initializer=keras.initializers.RandomNormal(stddev=.01))

        self.convs = [conv(channels, 3, f'conv{i + 1}', 'relu') for i in range(convolutions)]
        self.scores = 2 if classifier == 'softmax' else 1
        self.objectness = conv(self.scores * anchors_per_cell, 1, 'objectness')
        self.deltas = conv(4 * anchors_per_cell, 1, 'deltas')

    def call(self, features: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        logits, deltas = [], []
        for x in features:
            for conv in self.convs:
                x = conv(x)
            batch = x.shape[0]
            scores = tf.reshape(tf.cast(self.objectness(x), tf.float32), [batch, -1, self.scores])
            logits.append(scores[..., 0] if self.scores == 1 else scores[..., 1] - scores[..., 0])
            deltas.append(tf.reshape(tf.cast(self.deltas(x), tf.float32), [batch, -1, 4]))
        return logits, deltas


class Proposals(NamedTuple):
    """Region proposals and their validity mask, best first.

    boxes float32 [B, P, 4] px, clipped to the image; logits float32 [B, P]; valid bool [B, P].
    """
    boxes: tf.Tensor
    logits: tf.Tensor
    valid: tf.Tensor


def propose(logits: Sequence[tf.Tensor], deltas: Sequence[tf.Tensor], anchors: tf.Tensor, sizes: tf.Tensor,
            config: RPNConfig, training: bool, engine: str) -> Proposals:
    """Return region proposals and their validity mask (Faster 3.3).

    NMS runs within each level; the best boxes of all levels are the proposals of the image.

    Args:
        logits, deltas: from `RPNHead`, an entry per level. With the 'op' engine, the number of anchors may be dynamic.
        A
            logit of LOWEST marks an anchor that is not used.
        anchors: float32 [A, 4] px.
        sizes: float32 [B, 2], height and width of each image in px.
        config: limits before and after NMS, for training and inference.
        training: which of these limits to use.
        engine: of `boxes.nms`, 'op' or 'xla'.
    """
    before = config.pre_nms_train if training else config.pre_nms_test
    after = config.post_nms_train if training else config.post_nms_test
    levels = [_best_of_level(*level, sizes, before, config.min_side) for level in zip(
        logits, deltas, tf.split(anchors, [dimensions(x)[1] for x in logits], num=len(logits)), strict=True)]
    boxes = tf.concat([b for b, _ in levels], axis=1)                    # [B, L, n, 4], n = before
    scores = tf.concat([s for _, s in levels], axis=1)                   # [B, L, n]
    batch, count, width = scores.shape
    kept, valid = box_ops.nms(tf.reshape(boxes, [-1, width, 4]), tf.reshape(scores, [-1, width]),
                              config.nms_iou, min(after, width), engine)
    boxes = tf.gather(boxes, tf.reshape(kept, [batch, count, -1]), batch_dims=2)
    scores = tf.gather(scores, tf.reshape(kept, [batch, count, -1]), batch_dims=2)
    scores = tf.where(tf.reshape(valid, scores.shape), scores, box_ops.LOWEST)
    boxes, scores = tf.reshape(boxes, [batch, -1, 4]), tf.reshape(scores, [batch, -1])
    scores, best = tf.math.top_k(scores, min(after, scores.shape[1]))
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
