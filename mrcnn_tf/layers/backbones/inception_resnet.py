"""Inception-ResNet-v2 (Szegedy et al., 1602.07261): feature maps of strides 4, 8, 16, 32.

All padding is TensorFlow's 'same', so that each stride divides the sides; G-RMI aligns its feature maps in this way
(Huang et al., 1611.10012). The ImageNet classifier has no padding in its stem and where it halves the sides.
"""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm
from mrcnn_tf.layers.recomputation import detached, run_stage
from mrcnn_tf.layers.relu import relu

PADDING = 'same'
REPEATS = (10, 20, 10)     # numbers of block35, block17 and block8

# Filters and kernel of each convolution, a tuple per branch.
Branch = tuple[tuple[int, int | tuple[int, int]], ...]
BLOCK35: tuple[Branch, ...] = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
BLOCK17: tuple[Branch, ...] = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
BLOCK8: tuple[Branch, ...] = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))
MIXED_5B: tuple[Branch, ...] = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
MIXED_6A: tuple[Branch, ...] = (((384, 3),), ((256, 1), (256, 3), (384, 3)))
MIXED_7A: tuple[Branch, ...] = (((256, 1), (384, 3)), ((256, 1), (288, 3)), ((256, 1), (288, 3), (320, 3)))


class Mixed(CompositeLayer):
    """Branches of convolutions and a pooling branch, concatenated: [B, H, W, C] -> [B, H, W, C'].

    With `halves`, the last convolution of each branch and the max pooling have stride 2: the output is
    [B, H / 2, W / 2, C']. Without it, the pooling is average pooling followed by a convolution.
    """

    def __init__(self, norm: Norm, branches: Sequence[Branch], halves: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branches = [_convolutions(norm, branch, 2 if halves else 1, f'branch{number}')
                         for number, branch in enumerate(branches)]
        self.averaged = None if halves else ConvNorm(norm, 64, 1, name='averaged')

    @property
    def convs(self) -> list[ConvNorm]:
        """All convolutions, branch by branch."""
        return [*itertools.chain(*self.branches), *([self.averaged] if self.averaged else [])]

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        branches = [_run(convs, x, training) for convs in self.branches]
        pooled = self.averaged(tf.nn.avg_pool2d(x, 3, 1, 'SAME'), training=training) if self.averaged else _halved(x)
        return tf.concat([*branches, pooled], axis=-1)


class Residual(CompositeLayer):
    """A residual block: x + scale * (1x1 convolution of the concatenated branches), with a ReLU if `activate`."""

    def __init__(self, norm: Norm, branches: Sequence[Branch], channels: int, scale: float, activate: bool = True,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branches = [_convolutions(norm, branch, 1, f'branch{number}') for number, branch in enumerate(branches)]
        self.up = ConvNorm(NO_NORM, channels, 1, activate=False, name='up')
        self.scale, self.activate = scale, activate

    @property
    def convs(self) -> list[ConvNorm]:
        """The convolutions of the branches, branch by branch."""
        return list(itertools.chain(*self.branches))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        branches = tf.concat([_run(convs, x, training) for convs in self.branches], axis=-1)
        x = x + self.scale * self.up(branches, training=training)
        return relu(x) if self.activate else x


class InceptionResNetV2(CompositeLayer):
    """Images [B, H, W, 3] in -1..1 -> feature maps by stride {4: [B, H/4, W/4, 192], 8: 320, 16: 1088, 32: 1536}.

    With `config.maps` c4, the last stride is 16. `config.frozen_stages` counts the strides from 2 on.
    """

    def __init__(self, config: BackboneConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        norm = Norm.of(config)
        stages: list[list[keras.layers.Layer]] = [
            [ConvNorm(norm, 32, 3, 2, padding=PADDING, name='conv1'),
             ConvNorm(norm, 32, 3, padding=PADDING, name='conv2'), ConvNorm(norm, 64, 3, name='conv3')],
            [ConvNorm(norm, 80, 1, name='conv4'), ConvNorm(norm, 192, 3, padding=PADDING, name='conv5')],
            [Mixed(norm, MIXED_5B, False, name='mixed_5b'), *_blocks(norm, 'block35', BLOCK35, REPEATS[0], 320, .17)],
            [Mixed(norm, MIXED_6A, name='mixed_6a'), *_blocks(norm, 'block17', BLOCK17, REPEATS[1], 1088, .1)]]
        self.stages = stages if config.maps == 'c4' else [*stages, self.last_stage(config)]
        self.blocks = [*itertools.chain(*self.stages)]    # Keras 2 saves no layers in lists of lists
        self.strides = (4, 8, 16, 32)[:len(self.stages) - 1]
        self.channels = 1088 if config.maps == 'c4' else 1536
        for layer in itertools.chain(*self.stages[:config.frozen_stages]):
            layer.trainable = False

    def call(self, x: tf.Tensor, training: bool = False) -> dict[int, tf.Tensor]:
        maps: dict[int, tf.Tensor] = {}
        layers: list[keras.layers.Layer] = []
        for stride, stage in zip((2, *self.strides), self.stages, strict=True):
            layers += stage
            x = run_stage(stage, _halved(x) if stride in (4, 8) else x, training)
            x = maps[stride] = detached(x, layers)
        return {stride: maps[stride] for stride in self.strides}

    @staticmethod
    def last_stage(config: BackboneConfig) -> list[keras.layers.Layer]:
        """Return the layers from stride 16 to 32, which the heads apply to each RoI with `maps: c4`."""
        norm = Norm.of(config)
        return [Mixed(norm, MIXED_7A, name='mixed_7a'), *_blocks(norm, 'block8', BLOCK8, REPEATS[2] - 1, 2080, .2),
                Residual(norm, BLOCK8, 2080, 1., False, name='block8_10'), ConvNorm(norm, 1536, 1, name='conv_7b')]


def _blocks(norm: Norm, name: str, branches: Sequence[Branch], count: int, channels: int, scale: float
            ) -> list[Residual]:
    return [Residual(norm, branches, channels, scale, name=f'{name}_{number}') for number in range(1, count + 1)]


def _convolutions(norm: Norm, branch: Branch, stride: int, name: str) -> list[ConvNorm]:
    """Return the convolutions of a branch; the last one has the stride."""
    *before, (filters, kernel) = branch
    return [*(ConvNorm(norm, *conv, name=f'{name}_{number}') for number, conv in enumerate(before)),
            ConvNorm(norm, filters, kernel, stride, padding=PADDING if stride > 1 else 'same', name=f'{name}_last')]


def _run(layers: Sequence[keras.layers.Layer], x: tf.Tensor, training: bool) -> tf.Tensor:
    for layer in layers:
        x = layer(x, training=training)
    return x


def _halved(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(x, 3, 2, PADDING.upper())
