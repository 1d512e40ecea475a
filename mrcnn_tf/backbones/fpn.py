"""Feature pyramid (FPN 3): laterals, top-down sums, outputs."""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def _conv(filters: int, kernel: int, name: str) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(filters, kernel, padding='same', name=name,
                               kernel_initializer=keras.initializers.VarianceScaling(1., 'fan_in', 'uniform'))


class FeaturePyramid(keras.layers.Layer):
    """Maps by stride {4, 8, 16, 32} -> [P2, P3, P4, P5, P6], all with `channels`; P6 is every second cell of P5."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.laterals = [_conv(channels, 1, f'lateral{k}') for k in range(2, 6)]
        self.outputs = [_conv(channels, 3, f'output{k}') for k in range(2, 6)]

    def call(self, maps: dict[int, tf.Tensor]) -> list[tf.Tensor]:
        laterals = [conv(maps[stride]) for conv, stride in zip(self.laterals, sorted(maps), strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.insert(0, lateral + _upsample(merged[0]))
        pyramid = [conv(x) for conv, x in zip(self.outputs, merged, strict=True)]
        return [*pyramid, pyramid[-1][:, ::2, ::2]]


def _upsample(x: tf.Tensor) -> tf.Tensor:
    """Nearest neighbour by two: a stride of 32 divides every canvas, so the sides match."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


class PyramidBackbone(keras.layers.Layer):
    """A trunk under a feature pyramid: images [B, H, W, 3] -> [P2..P6] at `strides`."""

    strides = (4, 8, 16, 32, 64)

    def __init__(self, trunk: keras.layers.Layer, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trunk = trunk
        self.pyramid = FeaturePyramid(channels, name='fpn')

    def call(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return self.pyramid(self.trunk(images, training=training))
