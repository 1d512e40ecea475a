"""VGG-16's published size, its stride, and what stays frozen."""
from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.backbones import build_backbone


def test_published_size_and_one_map_of_stride_16() -> None:
    """14,714,688 parameters without the classifier, as the paper's table and keras.applications have it."""
    backbone = build_backbone(BackboneConfig(name='vgg16', maps='c5', frozen_stages=0))
    (found,) = backbone(tf.zeros([1, 64, 96, 3]))
    assert found.shape == [1, 4, 6, 512] and backbone.channels == 512 and backbone.strides == (16,)
    assert sum(np.prod(v.shape) for v in backbone.trainable_variables) == 14_714_688


def test_maps_are_those_of_keras_applications() -> None:
    """The same weights give the same conv5_3; theirs are random, made here."""
    theirs = keras.applications.VGG16(include_top=False, weights=None, input_shape=(64, 64, 3))
    ours = build_backbone(BackboneConfig(name='vgg16', maps='c5'))
    x = tf.constant(np.random.default_rng(0).uniform(-99, 99, (1, 64, 64, 3)), tf.float32)
    ours(x)
    convs = [layer for layer in theirs.layers if layer.get_weights()]
    for conv, other in zip(sum(ours.body.stages, []), convs, strict=True):
        conv.conv.set_weights(other.get_weights())
    expected = keras.Model(theirs.input, theirs.get_layer('block5_conv3').output)(x)
    assert float(tf.reduce_max(expected)) > 1e-3
    np.testing.assert_allclose(ours(x)[0], expected, rtol=1e-4, atol=1e-5 * float(tf.reduce_max(expected)))


def test_frozen_blocks() -> None:
    backbone = build_backbone(BackboneConfig(name='vgg16', maps='c5', frozen_stages=2)).body
    backbone(tf.zeros([1, 32, 32, 3]))
    assert [bool(conv.trainable_variables) for convs in backbone.stages for conv in convs] == [False] * 4 + [True] * 9
