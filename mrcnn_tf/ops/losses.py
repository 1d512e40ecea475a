"""The losses of RPN, box head and mask head as pure functions (Faster eq. 1, Fast eq. 1-3, Mask 3).

All take float32; the functions named `*_loss` return a scalar. B images, S samples per image, K classes without
background, m side of a mask. Every sum has an explicit mask and a normalizer of at least 1, so a batch without objects
gives finite values.
"""
from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def smooth_l1(x: tf.Tensor, beta: float) -> tf.Tensor:
    """Return smooth L1 of each element: x^2 / (2 beta) if |x| < beta, else |x| - beta / 2; beta 0 gives |x|.

    Fast eq. 3 has beta 1.

    Example:
        >>> import tensorflow as tf
        >>> import mrcnn_tf as m
        >>> m.losses.smooth_l1(tf.constant([.5, -3.]), beta=1.).numpy().tolist()
        [0.125, 2.5]
    """
    size = tf.abs(x)
    if beta == 0:
        return size
    return tf.where(size < beta, .5 * size * size / beta, size - .5 * beta)


def _masked_mean(values: tf.Tensor, mask: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
    """Return the sum of the masked values, divided by `count`, or by the number of masked values if it is None."""
    mask = tf.cast(mask, values.dtype)
    count = tf.reduce_sum(mask) if count is None else count
    return tf.reduce_sum(values * mask) / tf.maximum(tf.cast(count, values.dtype), 1.)


def objectness_loss(logits: tf.Tensor, positive: tf.Tensor, sampled: tf.Tensor,
                    normalizer: tf.Tensor) -> tf.Tensor:
    """Return L_cls of Faster eq. 1, in its sigmoid form, over the sampled anchors.

    Args:
        logits: float32 [B, S].
        positive, sampled: bool [B, S].
        normalizer: scalar that divides the sum.
    """
    values = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(positive, logits.dtype), logits)
    return _masked_mean(values, sampled, normalizer)


def box_distance(deltas: tf.Tensor, targets: tf.Tensor, beta: float) -> tf.Tensor:
    """Return the sum of smooth L1 over the four differences: [B, S, 4], [B, S, 4] -> [B, S]."""
    return tf.reduce_sum(smooth_l1(deltas - targets, beta), axis=-1)


def box_loss(deltas: tf.Tensor, targets: tf.Tensor, positive: tf.Tensor, beta: float,
             normalizer: tf.Tensor) -> tf.Tensor:
    """Return the box regression loss: L_reg of Faster eq. 1, L_loc of Fast eq. 2.

    Args:
        deltas, targets: float32 [B, S, 4].
        positive: bool [B, S], samples that have a box target.
        beta: of `smooth_l1`.
        normalizer: scalar that divides the sum.
    """
    return _masked_mean(box_distance(deltas, targets, beta), positive, normalizer)


def classification_loss(logits: tf.Tensor, labels: tf.Tensor, sampled: tf.Tensor) -> tf.Tensor:
    """Return L_cls of Fast eq. 1, the mean cross-entropy over the samples.

    Args:
        logits: float32 [B, S, K + 1], background first.
        labels: int32 [B, S], 0 = background.
        sampled: bool [B, S].
    """
    return _masked_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), sampled)


def roi_losses(logits: tf.Tensor, labels: tf.Tensor, deltas: tf.Tensor, targets: tf.Tensor, beta: float) -> tf.Tensor:
    """Return the loss of each RoI (Fast eq. 1), which ranks RoIs for hard example mining: float32 [B, S].

    Args:
        logits: float32 [B, S, K + 1], background first.
        labels: int32 [B, S], 0 = background, which has no box loss.
        deltas, targets: float32 [B, S, 4].
        beta: of `smooth_l1`.
    """
    box = tf.where(labels > 0, box_distance(deltas, targets, beta), 0.)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits) + box


def mask_loss(logits: tf.Tensor, targets: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Return L_mask of Mask 3, the mean sigmoid cross-entropy over the cells of the positive RoIs.

    Args:
        logits: float32 [B, S, m, m], of each RoI's true class.
        targets: float32 [B, S, m, m], 0..1.
        positive: bool [B, S].
    """
    values = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return _masked_mean(tf.reduce_mean(values, axis=(2, 3)), positive)


def multinomial_mask_loss(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Return the mask loss with a softmax over classes and background in each cell (Mask table 2b).

    Args:
        logits: float32 [B, S, m, m, K + 1], background first.
        labels: int32 [B, S], 1..K.
        targets: float32 [B, S, m, m], 0..1, the part of each cell that the object covers.
        positive: bool [B, S].
    """
    scores = tf.nn.log_softmax(logits)
    inside = tf.gather(scores, labels, axis=4, batch_dims=2)
    values = -targets * inside - (1. - targets) * scores[..., 0]
    return _masked_mean(tf.reduce_mean(values, axis=(2, 3)), positive)


def of_class(values: tf.Tensor, labels: tf.Tensor, axis: int) -> tf.Tensor:
    """Return the entry of each sample's class along `axis`, which has K entries, or 1 for all classes.

    Args:
        values: [B, S, ...].
        labels: int32 [B, S], 1..K. Background, 0, gives the entry of class 1; mask it.
        axis: the axis of the classes, which the result does not have.
    """
    if values.shape[axis] == 1:
        return tf.squeeze(values, axis)
    index = tf.maximum(labels - 1, 0)

    @tf.custom_gradient
    def choose(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # TensorFlow's own gradient is a scatter, for which XLA holds three arrays of the size of `values`.
            chosen = tf.one_hot(index, values.shape[axis], True, False)                       # [B, S, K]
            for other in range(2, len(values.shape)):
                chosen = chosen if other == axis else tf.expand_dims(chosen, other)
            return tf.where(chosen, tf.expand_dims(upstream, axis), tf.zeros([], upstream.dtype))

        return tf.gather(values, index, axis=axis, batch_dims=2), gradient

    return choose(values)
