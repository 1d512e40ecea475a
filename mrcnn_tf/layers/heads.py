"""The heads, which predict classes and boxes (Fast 2, FPN 4.2) and masks (Mask fig. 4) for each RoI.

B images, R RoIs per image, K classes without background, P side of a RoI's feature map, C channels.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig, BoxHeadConfig, MaskHeadConfig
from mrcnn_tf.layers.backbones import trunk_class
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm
from mrcnn_tf.ops import rng


def _normal(stddev: float) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=stddev)


class Res5Head(keras.layers.Layer):
    """The last stage of the backbone, applied to each RoI and shared by box and mask head (Mask fig. 4, left).

    Takes pooled feature maps [B, R, P, P, C] and returns [B, R, P / 2, P / 2, C']. With a ResNet, the stage is res5 and
    C' is 2 C.
    """

    def __init__(self, config: BackboneConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = trunk_class(config).last_stage(config)
        for block in self.blocks:
            block.trainable = config.frozen_stages < 5

    def call(self, pooled: tf.Tensor, training: bool = False) -> tf.Tensor:
        x, restore = _flat(pooled)
        for block in self.blocks:
            x = block(x, training=training)
        return restore(x)


class BoxHead(keras.layers.Layer):
    """The box head: class logits and box deltas for each RoI.

    Takes pooled feature maps [B, R, P, P, C]. Returns float32 logits [B, R, K + 1], background first, and float32
    deltas [B, R, K, 4], or [B, R, 1, 4] if class-agnostic. `config` has the numbers of convolutions and of fully
    connected layers; without the latter, global average pooling replaces them. In training with dropout, `call` needs
    `seed`, int32 [n].
    """

    def __init__(self, config: BoxHeadConfig, num_classes: int, norm: Norm = NO_NORM, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def hidden(name: str) -> keras.layers.Dense:
            return keras.layers.Dense(config.width, activation='relu', name=name,
                                      kernel_initializer=keras.initializers.VarianceScaling(1., 'fan_in', 'uniform'))

        self.dropout = config.dropout
        self.regressions = 1 if config.class_agnostic else num_classes
        self.convs = [ConvNorm(norm, config.convolution_width, 3, name=f'conv{i + 1}')
                      for i in range(config.convolutions)]
        self.hidden = [hidden(f'fc{i + 6}') for i in range(config.fully_connected)]    # numbered as in VGG
        self.classes = keras.layers.Dense(num_classes + 1, name='classes', kernel_initializer=_normal(.01))
        self.deltas = keras.layers.Dense(4 * self.regressions, name='deltas', kernel_initializer=_normal(.001))

    def call(self, pooled: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None
             ) -> tuple[tf.Tensor, tf.Tensor]:
        x, restore = _flat(pooled)
        for conv in self.convs:
            x = conv(x, training=training)
        x = tf.reshape(x, [x.shape[0], -1]) if self.hidden else tf.reduce_mean(x, axis=[1, 2])
        for number, layer in enumerate(self.hidden):
            x = layer(x)
            if training and self.dropout:
                x = dropped(x, self.dropout, rng.substream(seed, number))
        logits, deltas = (restore(tf.cast(layer(x), tf.float32)) for layer in (self.classes, self.deltas))
        return logits, tf.reshape(deltas, [*deltas.shape[:2], self.regressions, 4])


class MaskHead(keras.layers.Layer):
    """The mask head: mask logits for each RoI.

    Takes pooled feature maps [B, R, P, P, C] and returns float32 [B, R, 2 P, 2 P, K]. The last axis is 1 if
    class-agnostic, and K + 1, background first, with `config.classifier` softmax.
    """

    def __init__(self, config: MaskHeadConfig, num_classes: int, norm: Norm = NO_NORM, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        msra = keras.initializers.VarianceScaling(2., 'fan_out', 'untruncated_normal')
        self.convs = [ConvNorm(norm, config.width, 3, name=f'conv{i + 1}') for i in range(config.convolutions)]
        self.upsample = keras.layers.Conv2DTranspose(config.width, 2, 2, activation='relu', name='upsample',
                                                     kernel_initializer=msra)
        channels = num_classes + 1 if config.classifier == 'softmax' else 1 if config.class_agnostic else num_classes
        self.masks = keras.layers.Conv2D(channels, 1, name='masks', kernel_initializer=_normal(.001))

    def call(self, pooled: tf.Tensor, training: bool = False) -> tf.Tensor:
        x, restore = _flat(pooled)
        for conv in self.convs:
            x = conv(x, training=training)
        return restore(tf.cast(self.masks(self.upsample(x)), tf.float32))


def dropped(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Return `x` after dropout: each element is 0 with probability `rate`, else divided by 1 - rate; seed int32 [n]."""
    return tf.where(rng.uniform(tuple(x.shape), seed) < rate, tf.zeros([], x.dtype), x / (1 - rate))


def _flat(pooled: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Return [B, R, ...] as [B R, ...], and the function that turns [B R, ...] back into [B, R, ...]."""
    batch, rois = pooled.shape[:2]
    return tf.reshape(pooled, [batch * rois, *pooled.shape[2:]]), lambda x: tf.reshape(x, [batch, rois, *x.shape[1:]])
