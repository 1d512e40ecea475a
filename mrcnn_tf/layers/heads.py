"""The heads: RPN head (Faster 3.1), box head (Fast 2, FPN 4.2) and mask head (Mask fig. 4).

B images, R RoIs per image, K classes without background, P side of a RoI's feature map, C channels; A_l anchors of a
level, a of a cell.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig, BoxHeadConfig, MaskHeadConfig, RPNConfig
from mrcnn_tf.config.backbones import BACKBONES
from mrcnn_tf.layers.backbones import backbone_class
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.feature_maps import as_list, windows
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm
from mrcnn_tf.layers.recomputation import run_stage
from mrcnn_tf.layers.relu import relu
from mrcnn_tf.layers.winograd import convolved
from mrcnn_tf.ops import rng
from mrcnn_tf.ops.arguments import check_choice, check_counts, check_fraction, check_shape
from mrcnn_tf.ops.tensor_shapes import dimensions

CLASSIFIERS = ('sigmoid', 'softmax')
Activation = Callable[[tf.Tensor], tf.Tensor]


def _normal(stddev: float) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=stddev)


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class RPNHead(CompositeLayer):
    """The RPN head: 3x3 convolutions, then 1x1 convolutions for objectness and deltas (Faster fig. 3).

    All levels share the weights. The input is a feature map [B, h, w, C] or a list of them, of one C; h and w are in
    cells. The output is two lists with an entry per level: float32 logits [B, h * w * a], and float32 deltas
    [B, h * w * a, 4], the (dy, dx, dh, dw) of Faster eq. 2.

    Args:
        channels: of the 3x3 convolutions.
        anchors_per_cell: a.
        convolutions: number of 3x3 convolutions.
        classifier: 'sigmoid', one score per anchor; 'softmax', two, background first, whose difference is the logit.

    Raises:
        ValueError: an argument or the input is none of these.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.heads import RPNHead
        >>> head = RPNHead(channels=8, anchors_per_cell=3)
        >>> logits, deltas = head([tf.zeros([2, 4, 6, 8]), tf.zeros([2, 2, 3, 8])])
        >>> [tuple(x.shape) for x in logits], [tuple(x.shape) for x in deltas]
        ([(2, 72), (2, 18)], [(2, 72, 4), (2, 18, 4)])
    """

    def __init__(self, channels: int = 256, anchors_per_cell: int = 3, convolutions: int = 1,
                 classifier: str = 'sigmoid', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_counts('RPNHead', channels=channels, anchors_per_cell=anchors_per_cell, convolutions=convolutions)
        check_choice('RPNHead', 'classifier', classifier, CLASSIFIERS)
        self.channels, self.anchors_per_cell, self.classifier = channels, anchors_per_cell, classifier

        def conv(filters: int, kernel: int, name: str, activation: Activation | None = None
                 ) -> keras.layers.Conv2D:
            return keras.layers.Conv2D(filters, kernel, padding='same', activation=activation, name=name,
                                       kernel_initializer=_normal(.01))

        self.convs = [conv(channels, 3, f'conv{i + 1}', relu) for i in range(convolutions)]
        self.scores = 2 if classifier == 'softmax' else 1
        self.objectness = conv(self.scores * anchors_per_cell, 1, 'objectness')
        self.deltas = conv(4 * anchors_per_cell, 1, 'deltas')

    @classmethod
    def of(cls, config: RPNConfig, channels: int, anchors_per_cell: int, **kwargs: Any) -> RPNHead:
        """Return the head that a config's `model.rpn` describes."""
        return cls(channels, anchors_per_cell, config.convolutions, config.classifier, **kwargs)

    def call(self, features: Sequence[tf.Tensor] | tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        logits, deltas = zip(*(self._level(feature) for feature in as_list('RPNHead', features)), strict=True)
        return list(logits), list(deltas)

    def _level(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return logits [B, h * w * a] and deltas [B, h * w * a, 4] of one level."""
        for conv in self.convs:
            x = convolved(conv, x)
        batch, height, width, _ = dimensions(x)
        logits, deltas = self._outputs(x)
        anchors = height * width * self.anchors_per_cell
        return tf.reshape(logits, [batch, anchors]), tf.reshape(deltas, [batch, anchors, 4])

    def _outputs(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return logits [N, h, w, a] and deltas [N, h, w, a, 4] from the last 3x3 convolution [N, h, w, channels]."""
        shape, scored = [*dimensions(x)[:3], self.anchors_per_cell], self.scores * self.anchors_per_cell
        # One convolution instead of two: most of its time is reading the feature map.
        kernels, biases = zip(_weights(self.objectness, x), _weights(self.deltas, x), strict=True)
        outputs = tf.nn.bias_add(tf.nn.conv2d(x, tf.concat(kernels, -1), 1, 'VALID'), tf.concat(biases, -1))
        outputs = tf.cast(outputs, tf.float32)
        scores = tf.reshape(outputs[..., :scored], [*shape, self.scores])
        logits = scores[..., 0] if self.scores == 1 else scores[..., 1] - scores[..., 0]
        return logits, tf.reshape(outputs[..., scored:], [*shape, 4])

    def at(self, features: Sequence[tf.Tensor], anchors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what `call` returns for some anchors alone, from the cells that these depend on.

        The RPN's losses read few of its anchors (Faster 3.1.3), so their gradient needs a convolution of few cells,
        not two of the whole feature maps. The weights must exist.

        Args:
            features: as for `call`, a list.
            anchors: int32 [B, S], their numbers in the order of `call`, those of the first level first.

        Returns:
            Logits float32 [B, S] and deltas float32 [B, S, 4].

        Example:
            >>> import tensorflow as tf
            >>> from mrcnn_tf.layers.heads import RPNHead
            >>> head, maps = RPNHead(channels=8, anchors_per_cell=3), [tf.ones([1, 4, 6, 8])]
            >>> logits, deltas = head(maps)
            >>> tuple(each.shape for each in head.at(maps, tf.constant([[0, 71]])))
            (TensorShape([1, 2]), TensorShape([1, 2, 4]))
        """
        x, inside = windows(features, anchors // self.anchors_per_cell, len(self.convs))
        x = tf.cast(x, self.compute_dtype)
        for conv in self.convs:
            kernel, bias = _weights(conv, x)
            x, inside = relu(tf.nn.conv2d(x, kernel, 1, 'VALID') + bias), inside[:, 1:-1, 1:-1]
            x = tf.where(inside, x, tf.zeros([], x.dtype))    # the next convolution pads the map with zeros
        batch, samples = dimensions(anchors)
        logits, deltas = (tf.reshape(each, [batch, samples, self.anchors_per_cell, *each.shape[4:]])
                          for each in self._outputs(x))
        of_cell = anchors % self.anchors_per_cell
        return tf.gather(logits, of_cell, batch_dims=2), tf.gather(deltas, of_cell, batch_dims=2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'channels': self.channels, 'anchors_per_cell': self.anchors_per_cell,
                'convolutions': len(self.convs), 'classifier': self.classifier}


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class Res5Head(CompositeLayer):
    """The last stage of the backbone, applied to each RoI and shared by box and mask head (Mask fig. 4, left).

    The input is pooled feature maps [B, R, P, P, C], the output [B, R, P / 2, P / 2, C']. With a ResNet, the stage is
    res5 and C' is 2 C.

    Args:
        backbone: name of the backbone, as in `model.backbone.name`.
        norm: normalization of the convolutions, a kind of `Norm` or a `Norm`.
        stride_in_1x1: of a bottleneck, the first convolution has the stride, not the 3x3 one.
        frozen: whether the stage is not trained.

    Raises:
        ValueError: an argument or the input is none of these.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.heads import Res5Head
        >>> tuple(Res5Head('resnet18')(tf.zeros([1, 2, 4, 4, 256])).shape)
        (1, 2, 2, 2, 512)
    """

    def __init__(self, backbone: str = 'resnet50', norm: Norm | str | Sequence[Any] = 'frozen',
                 stride_in_1x1: bool = True, frozen: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice('Res5Head', 'backbone', backbone, [name for name, each in BACKBONES.items() if 'c4' in each.maps])
        self.backbone, self.norm, self.stride_in_1x1 = backbone, Norm.parse(norm), stride_in_1x1
        self.frozen = frozen
        kind, epsilon, momentum = self.norm
        config = BackboneConfig(name=backbone, maps='c4', norm=kind, norm_epsilon=epsilon, norm_momentum=momentum,
                                stride_in_1x1=stride_in_1x1)
        self.blocks = backbone_class(config).last_stage(config)
        for block in self.blocks:
            block.trainable = not frozen

    @classmethod
    def of(cls, config: BackboneConfig, **kwargs: Any) -> Res5Head:
        """Return the last stage of the backbone that a config's `model.backbone` describes."""
        return cls(config.name, Norm.of(config), config.stride_in_1x1, config.frozen_stages >= 5, **kwargs)

    def call(self, pooled: tf.Tensor, training: bool = False) -> tf.Tensor:
        x, restore = _flat('Res5Head', pooled)
        return restore(run_stage(self.blocks, x, training))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'backbone': self.backbone, 'norm': list(self.norm),
                'stride_in_1x1': self.stride_in_1x1, 'frozen': self.frozen}


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class BoxHead(CompositeLayer):
    """The box head: class logits and box deltas for each RoI (Fast 2; FPN 4.2).

    The input is pooled feature maps [B, R, P, P, C]. The output is float32 logits [B, R, K + 1], background first, and
    float32 deltas [B, R, K, 4], or [B, R, 1, 4] if class-agnostic: the (dy, dx, dh, dw) of Faster eq. 2.

    Args:
        num_classes: K.
        width: units of each fully connected layer.
        fully_connected: number of fully connected layers; 0: global average pooling replaces them.
        convolutions: number of 3x3 convolutions before them.
        convolution_width: channels of each convolution.
        norm: normalization of the convolutions, a kind of `Norm` or a `Norm`.
        dropout: rate, 0..1, after each fully connected layer in training.
        class_agnostic: one box for all classes instead of one per class.

    Raises:
        ValueError: an argument or the input is none of these.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.heads import BoxHead
        >>> logits, deltas = BoxHead(num_classes=3, width=8)(tf.zeros([1, 5, 7, 7, 4]))
        >>> tuple(logits.shape), tuple(deltas.shape)
        ((1, 5, 4), (1, 5, 3, 4))
    """

    def __init__(self, num_classes: int, width: int = 1024, fully_connected: int = 2, convolutions: int = 0,
                 convolution_width: int = 256, norm: Norm | str | Sequence[Any] = NO_NORM, dropout: float = 0.,
                 class_agnostic: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_counts('BoxHead', num_classes=num_classes, width=width, convolution_width=convolution_width)
        check_counts('BoxHead', least=0, fully_connected=fully_connected, convolutions=convolutions)
        check_fraction('BoxHead', dropout=dropout)
        self.num_classes, self.width, self.convolution_width = num_classes, width, convolution_width
        self.norm, self.dropout, self.class_agnostic = Norm.parse(norm), dropout, class_agnostic

        def hidden(name: str) -> keras.layers.Dense:
            return keras.layers.Dense(width, activation=relu, name=name,
                                      kernel_initializer=keras.initializers.VarianceScaling(1., 'fan_in', 'uniform'))

        self.regressions = 1 if class_agnostic else num_classes
        self.convs = [ConvNorm(self.norm, convolution_width, 3, name=f'conv{i + 1}') for i in range(convolutions)]
        self.hidden = [hidden(f'fc{i + 6}') for i in range(fully_connected)]          # numbered as in VGG
        self.classes = keras.layers.Dense(num_classes + 1, name='classes', kernel_initializer=_normal(.01))
        self.deltas = keras.layers.Dense(4 * self.regressions, name='deltas', kernel_initializer=_normal(.001))

    @classmethod
    def of(cls, config: BoxHeadConfig, num_classes: int, norm: Norm = NO_NORM, **kwargs: Any) -> BoxHead:
        """Return the head that a config's `model.box_head` describes."""
        return cls(num_classes, config.width, config.fully_connected, config.convolutions, config.convolution_width,
                   norm, config.dropout, config.class_agnostic, **kwargs)

    def call(self, pooled: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None
             ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return logits and deltas.

        Args:
            pooled: [B, R, P, P, C].
            training: whether dropout and normalization run as in training.
            seed: int32 [n], or [B, n] by image, of the dropout, which is then the same on each device; None:
                TensorFlow's generator.
        """
        x, restore = _flat('BoxHead', pooled)
        for conv in self.convs:
            x = conv(x, training=training)
        x = tf.reshape(x, [dimensions(x)[0], math.prod(x.shape[1:])]) if self.hidden else tf.reduce_mean(x, axis=[1, 2])
        for number, layer in enumerate(self.hidden):
            x = layer(x)
            if training and self.dropout:
                x = dropped(x, self.dropout, None if seed is None else rng.substream(seed, number))
        logits, deltas = (restore(tf.cast(layer(x), tf.float32)) for layer in (self.classes, self.deltas))
        return logits, tf.reshape(deltas, [*dimensions(deltas)[:2], self.regressions, 4])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'num_classes': self.num_classes, 'width': self.width,
                'fully_connected': len(self.hidden), 'convolutions': len(self.convs),
                'convolution_width': self.convolution_width, 'norm': list(self.norm), 'dropout': self.dropout,
                'class_agnostic': self.class_agnostic}


class _Doubling(keras.layers.Conv2DTranspose):
    """A transposed 2x2 convolution of stride 2, of which the four cells of an input cell stay beside each other.

    [N, h, w, C] -> [N, h, 4 w, filters], by a 1x1 convolution: the cells do not overlap. With what follows, bias, ReLU
    and a 1x1 convolution, it takes 0.4 of the time of TensorFlow's transposed convolution in bfloat16, 0.8 in float32.
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = tf.transpose(self.kernel, [3, 0, 1, 2])                               # [C, 2, 2, filters]
        x = tf.nn.conv2d(x, tf.reshape(kernel, [1, 1, kernel.shape[0], -1]), 1, 'VALID')
        x = self.activation(tf.nn.bias_add(x, tf.tile(self.bias, [4])))
        count, rows, columns, _ = dimensions(x)
        return tf.reshape(x, [count, rows, 4 * columns, self.filters])


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class MaskHead(CompositeLayer):
    """The mask head: mask logits for each RoI (Mask fig. 4, right).

    The input is pooled feature maps [B, R, P, P, C], the output float32 [B, R, 2 P, 2 P, K]. The last axis is 1 if
    class-agnostic, and K + 1, background first, if `classifier` is softmax.

    Args:
        num_classes: K.
        width: channels of each convolution.
        convolutions: number of 3x3 convolutions before the transposed one.
        norm: normalization of the convolutions, a kind of `Norm` or a `Norm`.
        class_agnostic: one mask for all classes instead of one per class.
        classifier: 'sigmoid', independent masks; 'softmax' over the classes of each cell (Mask table 2b).

    Raises:
        ValueError: an argument or the input is none of these.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.heads import MaskHead
        >>> tuple(MaskHead(num_classes=3, width=4)(tf.zeros([1, 2, 14, 14, 4])).shape)
        (1, 2, 28, 28, 3)
    """

    def __init__(self, num_classes: int, width: int = 256, convolutions: int = 4,
                 norm: Norm | str | Sequence[Any] = NO_NORM, class_agnostic: bool = False, classifier: str = 'sigmoid',
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_counts('MaskHead', num_classes=num_classes, width=width)
        check_counts('MaskHead', least=0, convolutions=convolutions)
        check_choice('MaskHead', 'classifier', classifier, CLASSIFIERS)
        self.num_classes, self.width, self.norm = num_classes, width, Norm.parse(norm)
        self.class_agnostic, self.classifier = class_agnostic, classifier
        msra = keras.initializers.VarianceScaling(2., 'fan_out', 'untruncated_normal')
        self.convs = [ConvNorm(self.norm, width, 3, name=f'conv{i + 1}') for i in range(convolutions)]
        self.upsample = _Doubling(width, 2, 2, activation=relu, name='upsample', kernel_initializer=msra)
        channels = num_classes + 1 if classifier == 'softmax' else 1 if class_agnostic else num_classes
        self.masks = keras.layers.Conv2D(channels, 1, name='masks', kernel_initializer=_normal(.001))

    @classmethod
    def of(cls, config: MaskHeadConfig, num_classes: int, norm: Norm = NO_NORM, **kwargs: Any) -> MaskHead:
        """Return the head that a config's `model.mask_head` describes."""
        return cls(num_classes, config.width, config.convolutions, norm, config.class_agnostic, config.classifier,
                   **kwargs)

    def call(self, pooled: tf.Tensor, training: bool = False, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Return mask logits, of all classes or of one for each RoI.

        Args:
            pooled: [B, R, P, P, C].
            training: whether normalization runs as in training.
            labels: int32 [B, R], 1..K (0 counts as 1): the output has the class of each RoI alone, [B, R, 2 P, 2 P, 1].
                Not with the classifier 'softmax', which needs all.

        Raises:
            ValueError: labels with the classifier 'softmax', or another shape of the input.
        """
        if labels is not None and self.classifier == 'softmax':
            raise ValueError("MaskHead: labels with the classifier 'softmax', whose probabilities need the logits of "
                             'all classes; leave labels out')
        x, restore = _flat('MaskHead', pooled)
        for conv in self.convs:
            x = conv(x, training=training)
        x = self.upsample(x)                                                           # [B R, P, 4 P, width]
        one = labels is not None and not self.class_agnostic
        logits = tf.cast(self._of_class(x, tf.reshape(labels, [-1])) if one else self.masks(x), tf.float32)
        count, rows, columns, classes = dimensions(logits)
        return restore(tf.nn.depth_to_space(tf.reshape(logits, [count, rows, columns // 4, 4 * classes]), 2))

    def _of_class(self, x: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Return what `masks` returns for one class of each RoI: [N, h, w, 1] from [N, h, w, C] and labels [N]."""
        kernel, bias = _weights(self.masks, x)
        # A product, not a gather, whose gradient would be sparse, and summed in half precision.
        chosen = tf.one_hot(tf.maximum(labels - 1, 0), self.num_classes, dtype=x.dtype)                  # [N, K]
        kernel = tf.matmul(chosen, tf.squeeze(kernel, [0, 1]), transpose_b=True)                         # [N, C]
        count, rows, columns, channels = dimensions(x)
        logits = tf.matmul(tf.reshape(x, [count, rows * columns, channels]), kernel[:, :, None])
        logits += tf.matmul(chosen, bias[:, None])[:, None]
        return tf.reshape(logits, [count, rows, columns, 1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'num_classes': self.num_classes, 'width': self.width,
                'convolutions': len(self.convs), 'norm': list(self.norm), 'class_agnostic': self.class_agnostic,
                'classifier': self.classifier}


def dropped(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Return `x` after dropout: each element is 0 with probability `rate`, else divided by 1 - rate.

    Args:
        x: any shape.
        rate: 0..1.
        seed: int32 [n], or [B, n] where the first axis of `x` has the same number of entries of each image; None:
            TensorFlow's generator.
    """
    if seed is None:
        return tf.nn.dropout(x, rate)
    shape = dimensions(x)
    images = [seed.shape[0], math.prod(shape) // seed.shape[0]] if seed.shape.rank == 2 else shape
    numbers = tf.reshape(rng.uniform(images, seed), shape)
    return tf.where(numbers < rate, tf.zeros([], x.dtype), x / (1 - rate))


def _weights(layer: keras.layers.Conv2D, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return kernel and bias of a convolution of `x`, of the dtype of `x`; if it has none yet, create them."""
    if not layer.built:
        layer(x[:1])
    return tf.cast(layer.kernel, x.dtype), tf.cast(layer.bias, x.dtype)


def _flat(owner: str, pooled: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Return [B, R, ...] as [B R, ...], and the function that turns [B R, ...] back into [B, R, ...]."""
    check_shape(owner, 'the input', pooled, '[B, R, P, P, C]')
    batch, rois, *rest = dimensions(pooled)
    return tf.reshape(pooled, [batch * rois, *rest]), lambda x: tf.reshape(x, [batch, rois, *dimensions(x)[1:]])
