"""The five losses, as pure functions: Faster eq. 1, Fast eq. 1-3, Mask 3.

All take float32 and return a scalar. B images, S samples an image, K classes. Every sum runs under an explicit mask and
has a normaliser of at least 1, so a batch without objects gives finite values.
"""
from __future__ import annotations

import tensorflow as tf


def smooth_l1(x: tf.Tensor, beta: float) -> tf.Tensor:
    """x^2 / (2 beta) below beta, |x| - beta / 2 above (Fast eq. 3 has beta 1); beta 0 is |x|."""
    size = tf.abs(x)
    if beta == 0:
        return size
    return tf.where(size < beta, .5 * size * size / beta, size - .5 * beta)


def _masked_mean(values: tf.Tensor, mask: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
    """Sum of values where mask, over `count` or else the number of them."""
    mask = tf.cast(mask, values.dtype)
    count = tf.reduce_sum(mask) if count is None else count
    return tf.reduce_sum(values * mask) / tf.maximum(tf.cast(count, values.dtype), 1.)


def objectness_loss(logits: tf.Tensor, positive: tf.Tensor, sampled: tf.Tensor,
                    normalizer: tf.Tensor) -> tf.Tensor:
    """L_cls of Faster eq. 1 (sigmoid form) over sampled anchors: logits, positive, sampled [B, S]."""
    values = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(positive, logits.dtype), logits)
    return _masked_mean(values, sampled, normalizer)


def box_distance(deltas: tf.Tensor, targets: tf.Tensor, beta: float) -> tf.Tensor:
    """The smooth L1 of the four differences together: [B, S, 4], [B, S, 4] -> [B, S]."""
    return tf.reduce_sum(smooth_l1(deltas - targets, beta), axis=-1)


def box_loss(deltas: tf.Tensor, targets: tf.Tensor, positive: tf.Tensor, beta: float,
             normalizer: tf.Tensor) -> tf.Tensor:
    """L_reg of Faster eq. 1 and L_loc of Fast eq. 2: deltas, targets [B, S, 4], positive [B, S]."""
    return _masked_mean(box_distance(deltas, targets, beta), positive, normalizer)


def classification_loss(logits: tf.Tensor, labels: tf.Tensor, sampled: tf.Tensor) -> tf.Tensor:
    """L_cls of Fast eq. 1, mean over samples: logits [B, S, K + 1], labels int32 [B, S], 0 = background."""
    return _masked_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), sampled)


def roi_losses(logits: tf.Tensor, labels: tf.Tensor, deltas: tf.Tensor, targets: tf.Tensor, beta: float) -> tf.Tensor:
    """Fast eq. 1 of each RoI, by which the hardest are found: float32 [B, S].

    logits [B, S, K + 1], labels int32 [B, S], 0 = background, which has no box; deltas, targets [B, S, 4].
    """
    box = tf.where(labels > 0, box_distance(deltas, targets, beta), 0.)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits) + box


def mask_loss(logits: tf.Tensor, targets: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """L_mask of Mask 3, mean over cells: logits of the true class and targets (0..1) [B, S, m, m], positive [B, S]."""
    values = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return _masked_mean(tf.reduce_mean(values, axis=(2, 3)), positive)


def multinomial_mask_loss(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Mask table 2b, softmax: classes compete for each cell, and with the background.

    logits [B, S, m, m, K + 1], background first, labels int32 [B, S] in 1..K, targets (0..1) [B, S, m, m] of what the
    object holds of a cell, positive [B, S].
    """
    scores = tf.nn.log_softmax(logits)
    inside = tf.gather(scores, labels, axis=4, batch_dims=2)
    values = -targets * inside - (1. - targets) * scores[..., 0]
    return _masked_mean(tf.reduce_mean(values, axis=(2, 3)), positive)


def of_class(values: tf.Tensor, labels: tf.Tensor, axis: int) -> tf.Tensor:
    """The entry of each sample's class along `axis`, which holds K classes, or 1 for all of them.

    values [B, S, ...], labels int32 [B, S] in 1..K; background takes the first (mask it).
    """
    if values.shape[axis] == 1:
        return tf.squeeze(values, axis)
    return tf.gather(values, tf.maximum(labels - 1, 0), axis=axis, batch_dims=2)
