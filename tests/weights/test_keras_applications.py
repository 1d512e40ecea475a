"""The trunk computes what keras.applications computes with the same weights."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.backbones.resnet import ResNet
from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.weights import keras_applications
from mrcnn_tf.weights.keras_applications import copy_trunk, load_imagenet
from mrcnn_tf.weights.torchvision import WeightsError

IMAGES = np.random.default_rng(0).normal(0, 50, [1, 64, 96, 3]).astype(np.float32)


def test_trunk_equals_keras_applications():
    """All four stages, with random weights, biases and statistics that are not trivial."""
    source = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(64, 96, 3))
    rng = np.random.default_rng(1)
    for layer in source.layers:
        if layer.name.endswith('_bn'):
            shape = layer.get_weights()[0].shape
            layer.set_weights([rng.uniform(.5, 1, shape), rng.normal(0, .2, shape), rng.normal(0, .2, shape),
                               rng.uniform(.5, 2, shape)])
        elif layer.name.endswith('_conv'):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(0, .3, bias.shape)])
    outputs = [source.get_layer(f'conv{stage}_block{last}_out').output
               for stage, last in ((2, 3), (3, 4), (4, 6), (5, 3))]
    expected = keras.Model(source.input, outputs)(IMAGES)
    trunk = ResNet(BackboneConfig(name='resnet50', norm_epsilon=1.001e-5))
    trunk(tf.zeros([1, 64, 64, 3]))
    copy_trunk(source, trunk)
    for ours, theirs in zip(trunk(tf.constant(IMAGES)).values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(tf.reduce_max(tf.abs(theirs))))


@pytest.mark.parametrize('config', [BackboneConfig(name='resnet18'), BackboneConfig(stride_in_1x1=False)])
def test_weights_that_do_not_exist(config):
    with pytest.raises(WeightsError, match='imagenet') as error:
        load_imagenet(ResNet(config), config)
    assert '\n' not in str(error.value)


def test_no_network(monkeypatch):
    """One line that names the remedy."""
    def fail(**_):
        raise Exception('URL fetch failure on https://example.invalid: None -- unreachable')  # noqa: TRY002

    monkeypatch.setattr(keras_applications.keras.applications, 'ResNet50', fail)
    config = BackboneConfig()
    with pytest.raises(WeightsError, match=r'cannot be fetched .*\.keras/models') as error:
        load_imagenet(ResNet(config), config)
    assert '\n' not in str(error.value)
