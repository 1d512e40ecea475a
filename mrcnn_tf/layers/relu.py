"""ReLU with a gradient that XLA computes from the output alone.

TensorFlow's gradient asks where the output is positive. For a GPU, XLA simplifies `max(x, 0) > 0` to `x > 0`. So it
keeps the input, beside the output that the gradient of the next convolution needs, and cannot leave the ReLU to cuDNN's
convolution. It does not simplify `max(x, 0) != 0`. docs/performance.md says what that saves.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar

import tensorflow as tf

from mrcnn_tf.layers import tracing

_active = ContextVar('gradient_from_output', default=False)


def gradient_from_output(active: bool) -> AbstractContextManager[None]:
    """Return a context in which the gradient of `relu` is for XLA, if `active` and one program computes both passes.

    Where they are programs of their own, the second reads results of the first. There, TensorFlow's gradient needs the
    output alone, and a `tf.custom_gradient` the input too.
    """
    return tracing.within(_active, active and not tracing.apart.get())


def relu(x: tf.Tensor) -> tf.Tensor:
    """Return max(x, 0). Its gradient is 0 where the output is 0, within `gradient_from_output(True)` too.

    A layer that Keras makes again from its config has Keras's relu, which takes more memory under XLA.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.relu import gradient_from_output, relu
        >>> x = tf.constant([-2., 0., 3.])
        >>> with gradient_from_output(True), tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = relu(x)
        >>> y.numpy(), tape.gradient(y, x).numpy()
        (array([0., 0., 3.], dtype=float32), array([0., 0., 1.], dtype=float32))
    """
    return _relu_for_xla(x) if _active.get() else tf.nn.relu(x)


@tf.custom_gradient
def _relu_for_xla(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    y, zero = tf.nn.relu(x), tf.zeros([], x.dtype)
    return y, lambda upstream: tf.where(tf.not_equal(y, zero), upstream, zero)
