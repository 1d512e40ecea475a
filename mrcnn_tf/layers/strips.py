"""The gradient of a kernel from strips of a large feature map, for a CPU. Only the order of the sum changes.

oneDNN rearranges a whole image of bfloat16 before it computes the gradient of a kernel. Strips of the image, as images
of their own, fit into the processor's cache: docs/performance.md has the times. In float32 they gain little and
take memory.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar

import tensorflow as tf

from mrcnn_tf.layers import tracing

ROWS = 8             # of a strip
LARGE = 2 ** 22      # values of an image from which on strips are faster
_active = ContextVar('strips', default=False)


def kernel_gradients_in_strips(active: bool) -> AbstractContextManager[None]:
    """Return a context in which `pays` may be True, if `active` and without a GPU. XLA has its own convolutions."""
    return tracing.within(_active, active and not tf.config.list_physical_devices('GPU'))


def pays(x: tf.Tensor) -> bool:
    """Return whether `convolution` of the feature map [B, h, w, C] trains faster than TensorFlow's."""
    image = x.shape[1:]
    return (_active.get() and x.dtype == tf.bfloat16 and image.is_fully_defined() and math.prod(image) >= LARGE
            and image[0] % ROWS == 0)


def convolution(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Return a 3x3 convolution with bias, of stride 1 and with zeros around the map: [B, h, w, C] -> [B, h, w, D].

    Args:
        x: the feature map, of static h, w and C; h is a multiple of ROWS.
        kernel: [3, 3, C, D].
        bias: [D].
    """
    @tf.custom_gradient
    def function(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
                 ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            of_x = tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream,
                                                  strides=[1] * 4, padding='SAME')
            upstream = tf.reshape(upstream, [-1, ROWS, *upstream.shape[2:]])
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(input=_strips(x), filter_sizes=kernel.shape, strides=[1] * 4,
                                                        out_backprop=upstream, padding='VALID')
            return of_x, of_kernel, tf.raw_ops.BiasAddGrad(out_backprop=upstream)

        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, 'SAME'), bias), gradients

    return function(x, kernel, bias)


def _strips(x: tf.Tensor) -> tf.Tensor:
    """Return strips of ROWS rows with a border of one cell on each side: [B h / ROWS, ROWS + 2, w + 2, C]."""
    _, height, width, channels = x.shape
    rows = tf.range(0, height, ROWS)[:, None] + tf.range(ROWS + 2)
    strips = tf.gather(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), rows, axis=1)
    return tf.reshape(strips, [-1, ROWS + 2, width + 2, channels])
