"""What is predicted for each RoI: classes and boxes (Fast 2, FPN 4.2), masks (Mask fig. 4).

B images, R RoIs an image, K classes without background, P side of the pooled map.
"""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import BoxHeadConfig, MaskHeadConfig


def _normal(stddev: float) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=stddev)


class BoxHead(keras.layers.Layer):
    """Pooled maps [B, R, P, P, C] -> float32 class logits [B, R, K + 1] and deltas [B, R, K, 4] (1 if agnostic)."""

    def __init__(self, config: BoxHeadConfig, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def hidden(name: str) -> keras.layers.Dense:
            return keras.layers.Dense(config.width, activation='relu', name=name,
                                      kernel_initializer=keras.initializers.VarianceScaling(1., 'fan_in', 'uniform'))

        self.regressions = 1 if config.class_agnostic else num_classes
        self.fc6, self.fc7 = hidden('fc6'), hidden('fc7')
        self.classes = keras.layers.Dense(num_classes + 1, name='classes', kernel_initializer=_normal(.01))
        self.deltas = keras.layers.Dense(4 * self.regressions, name='deltas', kernel_initializer=_normal(.001))

    def call(self, pooled: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch, rois = pooled.shape[:2]
        x = self.fc7(self.fc6(tf.reshape(pooled, [batch * rois, -1])))
        logits, deltas = (tf.cast(layer(x), tf.float32) for layer in (self.classes, self.deltas))
        return tf.reshape(logits, [batch, rois, -1]), tf.reshape(deltas, [batch, rois, self.regressions, 4])


class MaskHead(keras.layers.Layer):
    """Pooled maps [B, R, P, P, C] -> float32 mask logits [B, R, 2 P, 2 P, K] (1 if agnostic)."""

    def __init__(self, config: MaskHeadConfig, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def msra() -> keras.initializers.Initializer:
            return keras.initializers.VarianceScaling(2., 'fan_out', 'untruncated_normal')

        self.convs = [keras.layers.Conv2D(config.width, 3, padding='same', activation='relu', name=f'conv{i + 1}',
                                          kernel_initializer=msra()) for i in range(config.convolutions)]
        self.upsample = keras.layers.Conv2DTranspose(config.width, 2, 2, activation='relu', name='upsample',
                                                     kernel_initializer=msra())
        self.masks = keras.layers.Conv2D(1 if config.class_agnostic else num_classes, 1, name='masks',
                                         kernel_initializer=_normal(.001))

    def call(self, pooled: tf.Tensor) -> tf.Tensor:
        batch, rois = pooled.shape[:2]
        x = tf.reshape(pooled, [batch * rois, *pooled.shape[2:]])
        for conv in self.convs:
            x = conv(x)
        x = tf.cast(self.masks(self.upsample(x)), tf.float32)
        return tf.reshape(x, [batch, rois, *x.shape[1:]])
