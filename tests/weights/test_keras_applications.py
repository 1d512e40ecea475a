"""With imported weights, the backbones give the feature maps of keras.applications."""
from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf import config
from mrcnn_tf.config import BackboneConfig, ModelConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.layers.backbones import inception_resnet
from mrcnn_tf.layers.heads import Res5Head
from mrcnn_tf.weights import keras_applications
from mrcnn_tf.weights.keras_applications import copy, load_imagenet
from mrcnn_tf.weights.rules import WeightsError, variable_path

IMAGES = np.random.default_rng(0).normal(0, 50, [1, 64, 96, 3]).astype(np.float32)
WIDTH = 64


def model_of(backbone: BackboneConfig, kind: str = 'faster_rcnn') -> Detector:
    settings = ModelConfig(kind=kind, backbone=backbone)
    if backbone.maps != 'fpn':
        settings.anchors.sizes = [[32., 64.]]
        settings.box_head.fully_connected = 0
    return build_detector(settings)


@pytest.mark.parametrize('maps', ['fpn', 'c4'])
def test_resnet_equals_keras_applications(maps):
    """All four stages, with random weights, biases and statistics."""
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
    model = model_of(BackboneConfig(name='resnet50', norm_epsilon=1.001e-5, maps=maps))
    report = copy(source, model)
    maps_found = list(model.backbone.body(tf.constant(IMAGES)).values())
    if model.box.roi_features.res5_head:
        maps_found.append(model.box.roi_features.res5_head(maps_found[-1][:, None])[:, 0])
    for ours, theirs in zip(maps_found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(tf.reduce_max(tf.abs(theirs))))
    fresh = {line.ours.split('/')[0] for line in report if not line.source}
    assert {line.ours for line in report} == {variable_path(v) for v in model.variables}
    assert not any('stem' in line.ours or 'res2' in line.ours for line in report if not line.source) and fresh
    if maps == 'c4':                                       # res5 is a head's, which the RPN alone does not have
        alone = model_of(BackboneConfig(name='resnet50', norm_epsilon=1.001e-5, maps=maps), kind='rpn')
        assert all('rpn_head/' in line.ours for line in copy(source, alone) if not line.source)
        np.testing.assert_array_equal(alone.backbone.body.stem.conv.kernel, model.backbone.body.stem.conv.kernel)


def shorten_inception(monkeypatch):
    """To save time, give both Inception-ResNets one block of each kind, and the last one."""
    module = sys.modules[keras.applications.InceptionResNetV2.__module__]
    monkeypatch.setattr(module, 'range', lambda start, _: range(start, start + 1), raising=False)
    monkeypatch.setattr(inception_resnet, 'REPEATS', (1, 1, 2))


def test_inception_resnet_equals_keras_applications(monkeypatch):
    """The feature maps of stride 16 and 32, with random weights and their padding."""
    shorten_inception(monkeypatch)
    source = keras.applications.InceptionResNetV2(include_top=False, weights=None, input_shape=(107, 139, 3))
    rng = np.random.default_rng(1)
    for layer in source.layers:
        weights = layer.get_weights()
        if len(weights) == 3:                                        # normalisation without a scale
            layer.set_weights([rng.normal(0, .2, weights[0].shape), rng.normal(0, .2, weights[0].shape),
                               rng.uniform(.5, 2, weights[0].shape)])
        elif len(weights) == 2:
            layer.set_weights([weights[0], rng.normal(0, .3, weights[1].shape)])
    settings = BackboneConfig(name='inception_resnet_v2', norm_epsilon=1e-3, maps='c4')
    model = model_of(settings)
    report = copy(source, model)
    monkeypatch.setattr(inception_resnet, 'PADDING', 'valid')
    backbone, head = inception_resnet.InceptionResNetV2(settings), Res5Head.of(settings)
    x = tf.constant(rng.uniform(-1, 1, [1, 107, 139, 3]), tf.float32)
    found = backbone(x)[16]
    head(found[:, None])
    backbone.set_weights(model.backbone.body.get_weights())
    head.set_weights(model.box.roi_features.res5_head.get_weights())
    found = backbone(x)[16]
    expected = keras.Model(source.input, [source.get_layer('block17_1_ac').output, source.output])(x)
    for ours, theirs in zip((found, head(found[:, None])[:, 0]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(tf.reduce_max(tf.abs(theirs))))
    assert {line.ours for line in report} == {variable_path(v) for v in model.variables}
    assert not any('trunk' in line.ours or 'res5' in line.ours for line in report if not line.source)


def narrow_vgg(monkeypatch):
    """To save memory, give their VGG-16 hidden layers of `WIDTH` instead of 4096 units."""
    module = sys.modules[keras.applications.VGG16.__module__]

    class Layers:
        def __getattr__(self, name):
            return getattr(layers, name)

        @staticmethod
        def Dense(units, **rest):    # noqa: N802    # Keras' name
            return layers.Dense(WIDTH if units == 4096 else units, **rest)

    layers = module.layers
    monkeypatch.setattr(module, 'layers', Layers())


@pytest.mark.slow
def test_vgg16_also_imports_the_hidden_layers(monkeypatch):
    """Their classifier gives the same numbers as our backbone with a 7 x 7 feature map and the two hidden layers."""
    narrow_vgg(monkeypatch)
    source = keras.applications.VGG16(weights=None)
    rng = np.random.default_rng(1)
    for layer in source.layers:
        if layer.name.startswith('fc'):
            kernel, bias = layer.get_weights()
            layer.set_weights([10 * kernel, rng.normal(0, .1, bias.shape)])
    settings = config.load('faster_rcnn_vgg16', [f'model.box_head.width={WIDTH}']).model
    model = build_detector(settings)
    report = copy(source, model)
    images = tf.constant(rng.normal(0, 50, [1, 224, 224, 3]), tf.float32)
    pooled = tf.nn.max_pool2d(model.backbone(images)[0], 2, 2, 'VALID')
    hidden = model.box.heads[0].hidden[1](model.box.heads[0].hidden[0](tf.reshape(pooled, [1, -1])))
    expected = keras.Model(source.input, source.get_layer('fc2').output)(images)
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=1e-4 * float(tf.reduce_max(expected)))
    assert {line.ours.split('/')[-3] for line in report if not line.source} <= {'rpn_head', 'box_head'}


LAST = {'resnet50': (('conv2_block3_out', 'conv3_block4_out', 'conv4_block6_out', 'conv5_block3_out'), False),
        'vgg16': (('block3_conv3', 'block4_conv3', 'block5_conv3'), True),
        'inception_resnet_v2': (('block17_1_ac', 'conv_7b_ac'), False)}


@pytest.mark.slow
@pytest.mark.parametrize('name', LAST)
def test_from_a_photograph_to_the_features(monkeypatch, tmp_path, name):
    """Channel order, mean, epsilon, strides and padding are theirs, for an image whose sides no stride divides."""
    outputs, with_head = LAST[name]
    shorten_inception(monkeypatch)
    narrow_vgg(monkeypatch)
    build = getattr(keras.applications, keras_applications.SOURCES[name])
    source = build(weights=None, include_top=with_head)
    rng = np.random.default_rng(2)
    for layer in source.layers:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):           # a scale, where it has one, and three more
            low, high = ([.5] if layer.scale else []) + [-.2, -.2, .5], ([1.] if layer.scale else []) + [.2, .2, 2.]
            layer.set_weights([rng.uniform(*limits, weights[0].shape) for limits in zip(low, high, strict=True)])
        elif len(weights) == 2:
            layer.set_weights([weights[0], rng.normal(0, .1, weights[1].shape)])
    source.save_weights(tmp_path / 'theirs.weights.h5')
    monkeypatch.setattr(keras.applications, keras_applications.SOURCES[name],
                        lambda weights, **rest: build(weights=str(tmp_path / 'theirs.weights.h5'), **rest))
    config_name, overrides = keras_applications.settings(name)
    width = [f'model.box_head.width={WIDTH}'] * (name == 'vgg16')
    model = build_detector(config.load(config_name, [*overrides, *width]).model)
    load_imagenet(model)
    backbone, head = model.backbone.body, model.box.roi_features.res5_head if model.box else None
    if name == 'inception_resnet_v2':                                    # theirs is not padded at the border
        monkeypatch.setattr(inception_resnet, 'PADDING', 'valid')
        backbone, head = type(backbone)(model.settings.backbone), Res5Head.of(model.settings.backbone)

    image = tf.constant(rng.integers(0, 256, (1, 139, 171, 3)), tf.float32)
    normalized = model.normalize(image, tf.constant([[139., 171.]]))
    features = backbone(normalized)
    if name == 'inception_resnet_v2':
        head(features[16][:, None])
        backbone.set_weights(model.backbone.body.get_weights())
        head.set_weights(model.box.roi_features.res5_head.get_weights())
        features = {16: backbone(normalized)[16]}
    found = [*features.values(), *([head(features[16][:, None])[:, 0]] if head else [])]
    uneven = build(weights=None, include_top=False, input_shape=(139, 171, 3))
    uneven.set_weights(source.get_weights()[:len(uneven.get_weights())])
    preprocess = sys.modules[build.__module__].preprocess_input
    expected = keras.Model(uneven.input, [uneven.get_layer(each).output for each in outputs])(
        preprocess(image.numpy().copy()))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(tf.reduce_max(tf.abs(theirs))))


@pytest.mark.parametrize('backbone', [BackboneConfig(name='resnet18'), BackboneConfig(stride_in_1x1=False)])
def test_backbones_without_imagenet_weights_are_refused(backbone):
    with pytest.raises(WeightsError, match='imagenet') as error:
        load_imagenet(model_of(backbone))
    assert '\n' not in str(error.value)


def test_a_failed_download_names_the_remedy(monkeypatch):
    def fail(**_):
        raise Exception('URL fetch failure on https://example.invalid: None -- unreachable')  # noqa: TRY002

    monkeypatch.setattr(keras_applications.keras.applications, 'ResNet50', fail)
    with pytest.raises(WeightsError, match=r'cannot be fetched .*\.keras/models') as error:
        load_imagenet(model_of(BackboneConfig()))
    assert '\n' not in str(error.value)
