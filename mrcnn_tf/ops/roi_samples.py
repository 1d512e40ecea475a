"""The adaptive number of samples of RoIAlign and of mask targets (Mask 3)."""
from __future__ import annotations

import tensorflow as tf


def samples_per_bin(sides: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Return the adaptive number of samples per bin along an axis, ceil(side / size), as float32; 0 if the side is 0.

    The plain quotient would be wrong: XLA and TensorFlow's graph optimizer multiply by the reciprocal of a constant,
    and 21 / 7 becomes more than 3.
    """
    near = tf.round(sides / tf.cast(size, tf.float32))
    return tf.nn.relu(near + tf.cast(near * tf.cast(size, tf.float32) < sides, tf.float32))
