"""Top-down modulation (TDM, Shrivastava et al., 1612.06851): coarse feature maps modulate the finer ones.

T, L: the paper's top-down and lateral modules.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.layers.backbones.fpn import upsample
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm


class TopDownModulation(CompositeLayer):
    """Feature maps by stride -> the finest one, [B, H / s, W / s, 2 channels], modulated by all coarser ones.

    For each level, from coarse to fine (TDM 3): T, a 3x3 convolution of the coarser result, is upsampled by two and
    concatenated with L, a 3x3 convolution of the finer feature map; a 1x1 convolution gives the next result. Each
    convolution has a ReLU.

    Args:
        strides: of the feature maps to use, the finest first.
        channels: of T and of L.
    """

    def __init__(self, strides: Sequence[int], channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def conv(filters: int, kernel: int, name: str) -> ConvNorm:
            return ConvNorm(NO_NORM, filters, kernel, name=name)

        *self.strides, self.coarsest = strides
        finer = self.strides[::-1]
        self.top = [conv(channels, 3, f'top{stride}') for stride in finer]
        self.laterals = [conv(channels, 3, f'lateral{stride}') for stride in finer]
        self.joints = [conv(2 * channels, 1, f'joint{stride}') for stride in finer]

    def call(self, maps: dict[int, tf.Tensor], training: bool = False) -> tf.Tensor:
        x = maps[self.coarsest]
        for stride, top, lateral, joint in zip(self.strides[::-1], self.top, self.laterals, self.joints, strict=True):
            x = joint(tf.concat([upsample(top(x)), lateral(maps[stride])], axis=-1))
        return x


class BackboneWithTDM(CompositeLayer):
    """A backbone, `body`, with top-down modulation: images [B, H, W, 3] -> [feature map of `stride`]."""

    pooled = 1

    def __init__(self, body: keras.layers.Layer, channels: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body, self.channels, self.strides = body, 2 * channels, (stride,)
        self.modulation = TopDownModulation([s for s in body.strides if s >= stride], channels, name='tdm')

    def call(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        return [self.modulation(self.body(images, training=training), training=training)]
