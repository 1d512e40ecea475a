"""ResNet-18/34/50/101 (He et al., 1512.03385): stages res2..res5 at strides 4, 8, 16, 32.

All padding is symmetric, as published weights expect ('same' pads a stride of 2 at the right and bottom only).
"""
from __future__ import annotations

import itertools
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.backbones.normalization import normalization
from mrcnn_tf.config import BackboneConfig

BLOCKS = {'resnet18': (2, 2, 2, 2), 'resnet34': (3, 4, 6, 3), 'resnet50': (3, 4, 6, 3), 'resnet101': (3, 4, 23, 3)}
BOTTLENECKS = ('resnet50', 'resnet101')


class ConvNorm(keras.layers.Layer):
    """Convolution without bias, symmetrically padded, then normalisation, then ReLU if `activate`."""

    def __init__(self, config: BackboneConfig, filters: int, kernel: int, stride: int = 1, activate: bool = True,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding, self.activate = kernel // 2 if stride > 1 else 0, activate
        self.conv = keras.layers.Conv2D(
            filters, kernel, stride, 'valid' if stride > 1 else 'same', use_bias=False, name='conv',
            kernel_initializer=keras.initializers.VarianceScaling(2., 'fan_out', 'untruncated_normal'))
        self.norm = normalization(config, 'norm')

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if self.padding:
            x = tf.pad(x, [[0, 0], [self.padding] * 2, [self.padding] * 2, [0, 0]])
        x = self.norm(self.conv(x), training=training) if _is_trained(self.norm) else self.norm(self.conv(x))
        return tf.nn.relu(x) if self.activate else x


def _is_trained(norm: keras.layers.Layer) -> bool:
    return isinstance(norm, keras.layers.BatchNormalization)


class ResidualBlock(keras.layers.Layer):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1 to four times `width`."""

    def __init__(self, config: BackboneConfig, width: int, stride: int, project: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.name in BOTTLENECKS:
            outer, inner = (stride, 1) if config.stride_in_1x1 else (1, stride)
            self.convs = [ConvNorm(config, width, 1, outer, name='conv1'),
                          ConvNorm(config, width, 3, inner, name='conv2'),
                          ConvNorm(config, 4 * width, 1, activate=False, name='conv3')]
        else:
            self.convs = [ConvNorm(config, width, 3, stride, name='conv1'),
                          ConvNorm(config, width, 3, activate=False, name='conv2')]
        filters = 4 * width if config.name in BOTTLENECKS else width
        self.shortcut = ConvNorm(config, filters, 1, stride, activate=False, name='shortcut') if project else None

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        identity = self.shortcut(x, training=training) if self.shortcut else x
        for conv in self.convs:
            x = conv(x, training=training)
        return tf.nn.relu(x + identity)


class ResNet(keras.layers.Layer):
    """Images [B, H, W, 3], normalised -> maps by stride {4: [B, H/4, W/4, c], 8, 16, 32}.

    `config.frozen_stages` counts from the stem what is not trained, normalisation included.
    """

    def __init__(self, config: BackboneConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = ConvNorm(config, 64, 7, 2, name='stem')
        self.stages = [self._stage(config, index, count) for index, count in enumerate(BLOCKS[config.name])]
        parts: list[list[keras.layers.Layer]] = [[self.stem], *self.stages]
        for layer in itertools.chain(*parts[:config.frozen_stages]):
            layer.trainable = False

    @staticmethod
    def _stage(config: BackboneConfig, index: int, count: int) -> list[ResidualBlock]:
        projects = index > 0 or config.name in BOTTLENECKS
        return [ResidualBlock(config, 64 * 2 ** index, 2 if index and not block else 1, projects and not block,
                              name=f'res{index + 2}_{block}') for block in range(count)]

    def call(self, x: tf.Tensor, training: bool = False) -> dict[int, tf.Tensor]:
        x = tf.pad(self.stem(x, training=training), [[0, 0], [1, 1], [1, 1], [0, 0]])   # ReLU's: 0 is no larger
        x = tf.nn.max_pool2d(x, 3, 2, 'VALID')
        maps = {}
        for index, blocks in enumerate(self.stages):
            for block in blocks:
                x = block(x, training=training)
            maps[4 * 2 ** index] = x
        return maps
