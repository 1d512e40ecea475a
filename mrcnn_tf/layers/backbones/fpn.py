"""The necks that turn a backbone's feature maps into inputs of RPN and heads: an FPN (FPN 3), or none, for one map."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm
from mrcnn_tf.ops.tensor_shapes import dimensions


class FeaturePyramid(CompositeLayer):
    """The FPN: feature maps by stride {4, 8, 16, 32} -> [P2, P3, P4, P5, P6] with `channels` each.

    P6 is every second cell of P5.
    """

    def __init__(self, channels: int, norm: Norm = NO_NORM, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def conv(kernel: int, name: str) -> ConvNorm:
            return ConvNorm(norm, channels, kernel, activate=False, name=name,
                            initializer=keras.initializers.VarianceScaling(1., 'fan_in', 'uniform'))

        self.laterals = [conv(1, f'lateral{k}') for k in range(2, 6)]
        self.outputs = [conv(3, f'output{k}') for k in range(2, 6)]

    def call(self, maps: dict[int, tf.Tensor], training: bool = False) -> list[tf.Tensor]:
        laterals = [conv(maps[stride], training=training)
                    for conv, stride in zip(self.laterals, sorted(maps), strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.insert(0, add_upsampled(lateral, merged[0]))
        pyramid = [conv(x, training=training) for conv, x in zip(self.outputs, merged, strict=True)]
        return [*pyramid, pyramid[-1][:, ::2, ::2]]


@tf.custom_gradient
def add_upsampled(fine: tf.Tensor, coarse: tf.Tensor
                  ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """Return `fine + upsample(coarse)`, without the upsampled array: [B, 2 h, 2 w, C] from that and [B, h, w, C].

    The gradient of `coarse`, a sum over four cells, is four times their average, for which there is a faster kernel.
    """
    batch, height, width, channels = dimensions(coarse)
    shape = [batch, height, 2, width, 2, channels]

    def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if upstream.dtype == tf.float16:              # a quarter of a small value might be 0
            return upstream, tf.reduce_sum(tf.reshape(upstream, shape), [2, 4])
        return upstream, 4. * tf.nn.avg_pool2d(upstream, 2, 2, 'VALID')

    return tf.reshape(tf.reshape(fine, shape) + coarse[:, :, None, :, None], dimensions(fine)), gradients


def upsample(x: tf.Tensor) -> tf.Tensor:
    """Return `x` upsampled by two to nearest neighbors: [B, h, w, C] -> [B, 2 h, 2 w, C].

    The sides of every canvas are multiples of 32, so the result fits the next finer level.
    """
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


class BackboneWithFPN(CompositeLayer):
    """A backbone, `body`, with an FPN: images [B, H, W, 3] -> [P2..P6] at `strides`. RoIs are pooled from P2..P5."""

    strides = (4, 8, 16, 32, 64)
    pooled = 4

    def __init__(self, body: keras.layers.Layer, channels: int, norm: Norm = NO_NORM, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body, self.channels = body, channels
        self.pyramid = FeaturePyramid(channels, norm, name='fpn')

    def call(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return self.pyramid(self.body(images, training=training), training=training)


class BackboneWithoutNeck(CompositeLayer):
    """A backbone, `body`, without a neck: images [B, H, W, 3] -> [feature map of stride 16] (Faster 3; C4 and DC5)."""

    strides = (16,)
    pooled = 1

    def __init__(self, body: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body, self.channels = body, body.channels

    def call(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return [self.body(images, training=training)[16]]
