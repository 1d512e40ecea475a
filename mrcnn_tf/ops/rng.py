"""A random number generator: a hash of position and seed, with equal results on every device, compiled or not.

TensorFlow's generators give other numbers under XLA. A seed is int32 [n], for any n; one more word gives an independent
stream.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


def uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Return uniform random numbers of this shape, float32, 0 <= x < 1 in steps of 2^-24.

    Args:
        shape: of the numbers.
        seed: int32 [n]; or [B, n], a seed for each entry of the first axis, whose numbers then depend on that seed and
            not on the place in the batch.
    """
    ranks = len(shape) - 1
    shape = [1, *shape[1:]] if seed.shape.rank == 2 else shape
    keys = _mixed(tf.reshape(tf.cast(tf.range(1, math.prod(shape) + 1), tf.uint32), shape))
    for word in tf.unstack(tf.bitcast(seed, tf.uint32), axis=-1):
        keys = _mixed(tf.bitwise.bitwise_xor(keys, tf.reshape(word, [-1, *[1] * ranks]) if word.shape.rank else word))
    return tf.cast(tf.bitwise.right_shift(keys, tf.constant(8, tf.uint32)), tf.float32) / 2. ** 24


def substream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """Return the seed of an independent stream: int32 [..., n] -> int32 [..., n + 1]."""
    return tf.concat([seed, tf.zeros_like(seed[..., :1]) + number], axis=-1)


def of_images(seed: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Return a seed for each image: int32 [n] and ids int64 [B] -> int32 [B, n + 2]."""
    upper = tf.bitwise.right_shift(ids, tf.constant(32, tf.int64))
    words = [tf.cast(part, tf.int32)[:, None] for part in (ids, upper)]
    return tf.concat([tf.tile(seed[None], [ids.shape[0], 1]), *words], axis=1)


def _mixed(x: tf.Tensor) -> tf.Tensor:
    """Return MurmurHash3's finalizer of uint32 `x`: each bit of the result depends on all bits of `x`."""
    for shift, factor in ((16, 0x85ebca6b), (13, 0xc2b2ae35), (16, 1)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x *= tf.constant(factor, tf.uint32)
    return x
