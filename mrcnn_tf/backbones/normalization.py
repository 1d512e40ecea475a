"""Normalisation layers of a trunk, by name."""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig

# A policy of bfloat16 would otherwise round the statistics whenever they are read. Keras 2 and 3 name it differently.
_NOT_CAST = {'autocast' if keras.__version__.startswith('3') else 'experimental_autocast': False}


class FrozenBatchNormalization(keras.layers.Layer):
    """Batch normalisation by stored statistics, none of its parameters trained.

    (x - moving_mean) / sqrt(moving_variance + epsilon) * gamma + beta, folded to one scale and shift in float32.
    """

    def __init__(self, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, shape: Any) -> None:
        def weight(name: str, value: str) -> Any:
            return self.add_weight(name=name, shape=(shape[-1],), initializer=value, trainable=False, dtype='float32',
                                   **_NOT_CAST)

        self.gamma, self.beta = weight('gamma', 'ones'), weight('beta', 'zeros')
        self.moving_mean, self.moving_variance = weight('moving_mean', 'zeros'), weight('moving_variance', 'ones')
        super().build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        gamma, beta, mean, variance = (tf.cast(w, tf.float32) for w in (
            self.gamma, self.beta, self.moving_mean, self.moving_variance))
        scale = gamma / tf.sqrt(variance + self.epsilon)
        return x * tf.cast(scale, x.dtype) + tf.cast(beta - mean * scale, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'epsilon': self.epsilon}


def normalization(config: BackboneConfig, name: str) -> keras.layers.Layer:
    """frozen: stored statistics; batch: trained, statistics of each replica; sync: trained, of all replicas."""
    if config.norm == 'frozen':
        return FrozenBatchNormalization(config.norm_epsilon, name=name)
    return keras.layers.BatchNormalization(momentum=config.norm_momentum, epsilon=config.norm_epsilon,
                                           synchronized=config.norm == 'sync', name=name)
