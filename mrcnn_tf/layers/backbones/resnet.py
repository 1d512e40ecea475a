"""ResNet (He et al., 1512.03385) and ResNeXt (Xie et al., 1611.05431): stages res2..res5 at strides 4, 8, 16, 32.

All padding is symmetric, as published weights need it. With stride 2, 'same' would pad only at the right and bottom.
"""
from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.normalization import ConvNorm, Norm
from mrcnn_tf.layers.recomputation import detached, run_stage
from mrcnn_tf.layers.relu import relu


class Form(NamedTuple):
    """The architecture of one ResNet."""
    blocks: tuple[int, int, int, int]    # number of blocks in res2, ... res5
    bottleneck: bool
    groups: int = 1                      # of the 3x3 convolution in a bottleneck
    width: int = 64                      # channels of the same convolution in res2; doubles from stage to stage

    def channels(self, index: int) -> int:
        """Return the channels of the feature map of stage `index`, 0 for res2."""
        return (256 if self.bottleneck else 64) * 2 ** index


FORMS = {
    'resnet18': Form((2, 2, 2, 2), False),
    'resnet34': Form((3, 4, 6, 3), False),
    'resnet50': Form((3, 4, 6, 3), True),
    'resnet101': Form((3, 4, 23, 3), True),
    'resnext101_32x8d': Form((3, 4, 23, 3), True, 32, 32 * 8),
    'resnext101_64x4d': Form((3, 4, 23, 3), True, 64, 64 * 4),
}


class ResidualBlock(CompositeLayer):
    """A residual block of two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1 convolutions.

    Args:
        width: channels of the 3x3 convolution in a bottleneck.
        filters: channels of the block's output.
        project: whether the shortcut is a convolution.
        dilation: of the 3x3 convolutions.
    """

    def __init__(self, config: BackboneConfig, width: int, filters: int, stride: int, project: bool,
                 dilation: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        norm, form = Norm.of(config), FORMS[config.name]
        if form.bottleneck:
            outer, inner = (stride, 1) if config.stride_in_1x1 else (1, stride)
            self.convs = [
                ConvNorm(norm, width, 1, outer, name='conv1'),
                ConvNorm(norm, width, 3, inner, groups=form.groups, dilation=dilation, name='conv2'),
                ConvNorm(norm, filters, 1, activate=False, name='conv3')]
        else:
            self.convs = [ConvNorm(norm, filters, 3, stride, dilation=dilation, name='conv1'),
                          ConvNorm(norm, filters, 3, activate=False, dilation=dilation, name='conv2')]
        self.shortcut = ConvNorm(norm, filters, 1, stride, activate=False, name='shortcut') if project else None

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        identity = self.shortcut(x, training=training) if self.shortcut else x
        for conv in self.convs:
            x = conv(x, training=training)
        return relu(x + identity)


def stage(config: BackboneConfig, index: int, dilation: int = 1) -> list[ResidualBlock]:
    """Return the blocks of a stage, from res2 (index 0) to res5 (index 3).

    The first block halves the sides of the feature map, except in res2 and in dilated stages.
    """
    form = FORMS[config.name]
    width, filters = form.width * 2 ** index, form.channels(index)
    stride, project = 2 if index and dilation == 1 else 1, index > 0 or form.bottleneck
    return [ResidualBlock(config, width, filters, 1 if number else stride, project and not number, dilation,
                          name=f'res{index + 2}_{number}') for number in range(form.blocks[index])]


class ResNet(CompositeLayer):
    """Normalized images [B, H, W, 3] -> feature maps by stride {4: [B, H/4, W/4, C], 8: ..., 16: ..., 32: ...}.

    With `config.maps` c4, the last stride is 16, with res4. With c5 it is 16 too, with a res5 that is dilated instead
    of strided. The first `config.frozen_stages` stages, from the stem on, are not trained; nor is their normalization.
    """

    def __init__(self, config: BackboneConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = ConvNorm(Norm.of(config), 64, 7, 2, name='stem')
        dilations = {'c4': (1, 1, 1), 'c5': (1, 1, 1, 2)}.get(config.maps, (1, 1, 1, 1))
        self.strides = (4, 8, 16, 16 if config.maps == 'c5' else 32)[:len(dilations)]
        self.stages = [stage(config, index, dilation) for index, dilation in enumerate(dilations)]
        self.blocks = [*itertools.chain(*self.stages)]    # Keras 2 saves no layers in lists of lists
        self.channels = FORMS[config.name].channels(len(self.stages) - 1)    # of the last map
        parts: list[list[keras.layers.Layer]] = [[self.stem], *self.stages]
        for layer in itertools.chain(*parts[:config.frozen_stages]):
            layer.trainable = False

    def call(self, x: tf.Tensor, training: bool = False) -> dict[int, tf.Tensor]:
        x = tf.pad(self.stem(x, training=training), [[0, 0], [1, 1], [1, 1], [0, 0]])   # after ReLU, 0 is neutral
        x = tf.nn.max_pool2d(x, 3, 2, 'VALID')
        maps: dict[int, tf.Tensor] = {}
        layers: list[keras.layers.Layer] = [self.stem]
        for stride, blocks in zip(self.strides, self.stages, strict=True):
            layers += blocks
            x = maps[stride] = detached(run_stage(blocks, x, training), layers)
        return maps

    @staticmethod
    def last_stage(config: BackboneConfig) -> list[ResidualBlock]:
        """Return the blocks of res5, which the heads apply to each RoI with `maps: c4`."""
        return stage(config, 3)
