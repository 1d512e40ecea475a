"""Normalization layers by name, and a convolution followed by one."""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers import tracing, winograd
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.relu import relu
from mrcnn_tf.ops.arguments import check_choice

_KERAS_3 = keras.__version__.startswith('3')
# Without it, a bfloat16 policy would round the statistics in each read. Keras 2 and 3 have different names for it.
_NOT_CAST = {'autocast' if _KERAS_3 else 'experimental_autocast': False}
_UNCAST = '_value' if _KERAS_3 else '_variable'    # the TensorFlow variable behind one that is cast
_KINDS = ('none', 'frozen', 'batch', 'sync', 'group')
_GROUPS = 32    # of group normalization (Wu and He, 1803.08494)


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class FrozenBatchNormalization(keras.layers.Layer):
    """Batch normalization by stored statistics; no parameter is trained.

    Returns (x - moving_mean) / sqrt(moving_variance + epsilon) * gamma + beta, computed as one scale and one shift in
    float32.
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
        scale, shift = self.scale_and_shift()
        return x * tf.cast(scale, x.dtype) + tf.cast(shift, x.dtype)

    def scale_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what the input is multiplied by and what is added then, float32 [C] each."""
        gamma, beta, mean, variance = (tf.cast(w, tf.float32) for w in (
            self.gamma, self.beta, self.moving_mean, self.moving_variance))
        scale = gamma / tf.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'epsilon': self.epsilon}


class Norm(NamedTuple):
    """The normalization after a convolution.

    `kind` is one of:
        none: no normalization.
        frozen: by stored statistics, not trained.
        batch: trained, by the statistics of each replica's batch.
        sync: trained, by the statistics of all replicas.
        group: trained, by the statistics of 32 groups of channels in each image.
    """
    kind: str
    epsilon: float = 1e-5
    momentum: float = 0.9

    @classmethod
    def of(cls, config: BackboneConfig, kind: str | None = None) -> Norm:
        """Return the backbone's normalization, or another kind with its epsilon and momentum."""
        return cls(kind or config.norm, config.norm_epsilon, config.norm_momentum)

    @classmethod
    def parse(cls, norm: Norm | str | Sequence[Any]) -> Norm:
        """Return the normalization that a layer's argument `norm` names: a kind, a Norm or the fields of one.

        Raises:
            ValueError: an unknown kind.
        """
        parsed = cls(norm) if isinstance(norm, str) else cls(*norm)
        check_choice('Norm', 'kind', parsed.kind, _KINDS)
        return parsed

    def layer(self, name: str) -> keras.layers.Layer:
        """Return the Keras layer; `kind` must not be none."""
        if self.kind == 'frozen':
            return FrozenBatchNormalization(self.epsilon, name=name)
        if self.kind == 'group':
            return keras.layers.GroupNormalization(_GROUPS, epsilon=self.epsilon, name=name)
        return keras.layers.BatchNormalization(momentum=self.momentum, epsilon=self.epsilon,
                                               synchronized=self.kind == 'sync', name=name)


NO_NORM = Norm('none')


class ConvNorm(CompositeLayer):
    """A convolution, then normalization, then ReLU if `activate`. The convolution has a bias if `norm` is none.

    Padding is symmetric by default, or TensorFlow's `padding`, 'same' or 'valid'.
    """

    def __init__(self, norm: Norm, filters: int, kernel: int | tuple[int, int], stride: int = 1, activate: bool = True,
                 groups: int = 1, dilation: int = 1, initializer: Any = None, padding: str | None = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = kernel // 2 if padding is None and stride > 1 and isinstance(kernel, int) else 0
        self._paddings = [[0, 0], [self.padding] * 2, [self.padding] * 2, [0, 0]]
        self.activate = activate
        self.conv = keras.layers.Conv2D(
            filters, kernel, stride, padding or ('valid' if stride > 1 else 'same'), dilation_rate=dilation,
            groups=groups, use_bias=norm.kind == 'none', name='conv',
            kernel_initializer=initializer or keras.initializers.VarianceScaling(2., 'fan_out', 'untruncated_normal'))
        self.norm = None if norm.kind == 'none' else norm.layer('norm')

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if folded := (_folded.get() or {}).get(id(self)):
            x = self._with_weights(tf.cast(x, folded[0].dtype), *folded)
        elif training and isinstance(self.norm, FrozenBatchNormalization) and self.norm.built:
            x = self._scaled(x, self.norm)
        else:
            x = winograd.convolved(self.conv, tf.pad(x, self._paddings) if self.padding else x)
            if isinstance(self.norm, keras.layers.BatchNormalization):
                x = self.norm(x, training=training)
            elif self.norm:
                x = self.norm(x)
        return relu(x) if self.activate else x

    def _scaled(self, x: tf.Tensor, norm: FrozenBatchNormalization) -> tf.Tensor:
        """Return the normalized convolution of `x` in training: the scale multiplies the kernel, not the result."""
        scale, shift = norm.scale_and_shift()
        kernel = tf.cast(tf.cast(_uncast(self.conv.kernel), tf.float32) * scale, x.dtype)
        return self._with_weights(x, kernel, tf.cast(shift, x.dtype))

    def _with_weights(self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        conv = self.conv
        if winograd.pays(conv, x):
            return winograd.convolution(x, kernel, bias)
        if self.padding and winograd.used() and x.dtype == tf.float32 and conv.groups == 1:
            # Without a padded copy. Gradients in other types take ten times as long; grouped ones were not measured.
            return tf.nn.bias_add(tf.nn.conv2d(x, kernel, conv.strides, self._paddings), bias)
        return tf.nn.bias_add(conv.convolution_op(tf.pad(x, self._paddings) if self.padding else x, kernel), bias)

    def folded_weights(self) -> tuple[tf.Variable, tf.Variable] | None:
        """Return new variables: the kernel and the bias of the convolution and its batch normalization together.

        They are computed in float64 and rounded once, to the type of the convolution. None: there is another
        normalization, or the layer has no weights yet.
        """
        norm: Any = self.norm
        if not (self.conv.built and isinstance(norm, (FrozenBatchNormalization, keras.layers.BatchNormalization))):
            return None
        kernel, mean, variance = map(_stored, (self.conv.kernel, norm.moving_mean, norm.moving_variance))
        gamma, beta = (default if weight is None else _stored(weight)
                       for weight, default in ((norm.gamma, 1.), (norm.beta, 0.)))
        scale = gamma / np.sqrt(variance + norm.epsilon)
        dtype = self.conv.compute_dtype
        return (tf.Variable(tf.cast(kernel * scale, dtype), trainable=False, name='kernel'),
                tf.Variable(tf.cast(beta - mean * scale, dtype), trainable=False, name='bias'))


def _uncast(weight: Any) -> Any:
    """Return a weight as it is stored: within the call of a layer, Keras would cast it to the layer's precision."""
    return getattr(weight, _UNCAST, weight)


def _stored(weight: Any) -> np.ndarray:
    return np.asarray(tf.convert_to_tensor(_uncast(weight)), np.float64)


FoldedWeights = dict[int, tuple[tf.Variable, tf.Variable]]    # by the id of a ConvNorm

_folded: ContextVar[FoldedWeights | None] = ContextVar('folded', default=None)    # while folding


def folded_weights(layer: keras.layers.Layer) -> FoldedWeights:
    """Return the folded weights of each `ConvNorm` with batch normalization in a layer; group normalization has none.

    The layer must exist as long as they are used.
    """
    found = {id(each): each.folded_weights() for each in layer._flatten_layers() if isinstance(each, ConvNorm)}
    return {key: weights for key, weights in found.items() if weights}


def folded_normalization(weights: FoldedWeights) -> AbstractContextManager[None]:
    """Return a context that traces each `ConvNorm` of an inference as one convolution: batch normalization is folded.

    Args:
        weights: `folded_weights`, which all functions that are traced with it share. They are made before: TensorFlow
            would trace a function that makes variables twice.
    """
    return tracing.within(_folded, weights)
