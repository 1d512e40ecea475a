"""Conversions of layouts, computed by hand, and parameters that do not fit the model."""
from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig, ModelConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.layers.normalization import ConvNorm, Norm
from mrcnn_tf.weights import rules
from mrcnn_tf.weights.rules import ClassMap, Rule, WeightsError


def variable(*shape: int) -> tf.Variable:
    layer = keras.layers.Layer()
    return layer.add_weight(name='w', shape=shape, initializer='zeros')


def test_yx_swaps_the_axes_of_box_regressions() -> None:
    rows = np.arange(8.).reshape(8, 1)                       # dx, dy, dw, dh of two anchors
    assert rules.YX(rows).ravel().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


def test_channels_last_reorders_a_dense_layer_after_a_feature_map() -> None:
    """The weight of channel c, row h, column w is 10 c + 2 h + w; the feature map has two channels of 2 x 2."""
    theirs = np.array([[0., 1, 2, 3, 10, 11, 12, 13]])
    assert rules.channels_last(2)(theirs)[:, 0].tolist() == [0, 10, 1, 11, 2, 12, 3, 13]


def test_kernel_transposes_convolutions() -> None:
    assert rules.KERNEL(np.zeros([5, 4, 3, 2])).shape == (3, 2, 4, 5)
    layer = keras.layers.Conv2DTranspose(4, 2, 2)
    layer.build((None, 1, 1, 3))
    assert rules.KERNEL(np.zeros([3, 4, 2, 2])).shape == tuple(layer.kernel.shape)      # theirs: in, out, h, w


def test_then_joins_conversions_and_descriptions() -> None:
    both = rules.YX.then(rules.DENSE)
    assert both.change == 'y before x; transposed to in, out'
    assert rules.SAME.then(rules.DENSE).change == rules.DENSE.change
    assert both(np.arange(4.).reshape(4, 1)).tolist() == [[1, 0, 3, 2]]


@pytest.mark.parametrize(('kind', 'names'), [
    ('none', ['c.weight', 'c.bias']), ('group', ['c.weight', 'n.weight', 'n.bias']),
    ('batch', ['c.weight', 'n.weight', 'n.bias', 'n.running_mean', 'n.running_var'])])
def test_rules_of_a_convolution_and_its_normalization(kind, names) -> None:
    layer = ConvNorm(Norm(kind), 32, 1)
    layer(tf.zeros([1, 1, 1, 2]))
    made = list(rules.conv_norm(layer, 'c', 'n'))
    assert [rule.name for rule in made] == names
    assert {id(rule.variable) for rule in made} == {id(v) for v in layer.variables}


def test_fill_reports_each_variable() -> None:
    first, second = variable(2, 2), variable(1)
    second.assign([7.])
    lines = rules.fill([Rule(first, 'a', rules.DENSE), Rule(second, 'b', rules.SAME)],
                       {'a': np.array([[1., -2.], [2., 4.]])}, fresh=[second])
    assert first.numpy().tolist() == [[1, 2], [-2, 4]] and second.numpy().tolist() == [7]
    assert lines[0][2:] == ((2, 2), 'transposed to in, out', -2., 4., 5.)
    assert lines[0].source == 'a' and lines[1].source == '' and lines[1].change == 'initialized at random'
    assert (lines[1].least, lines[1].largest, lines[1].norm) == (7, 7, 7)


@pytest.mark.parametrize(('state', 'message'), [
    ({}, 'no parameter b; the nearest name is a'),
    ({'b': np.zeros(3, np.int8)}, 'b contains int8, not floating-point numbers; give the weights as trained'),
    ({'b': np.array(['x'])}, 'b contains <U1, not floating-point numbers'),
    ({'b': np.zeros(3, np.complex64)}, 'b contains complex64, not floating-point numbers'),
    ({'b': np.zeros(3), 'other': np.zeros(1), 'another': np.zeros(1)}, 'does not use 2 parameters, such as other'),
    ({'b': np.zeros(4)}, r'b has the shape \[4\], which does not fit \[3\] of '),
    ({'b': np.array([0., np.nan, 0.])}, 'b contains values that are not finite'),
    ({'b': np.array([0., np.inf, 0.])}, 'b contains values that are not finite')])
def test_parameters_that_do_not_fit_change_nothing(state, message) -> None:
    first, second = variable(1), variable(3)
    with pytest.raises(WeightsError, match=message) as error:
        rules.fill([Rule(first, 'a', rules.SAME), Rule(second, 'b', rules.SAME)], {'a': np.ones(1), **state})
    assert '\n' not in str(error.value)
    assert first.numpy().tolist() == [0]


def test_a_failed_conversion_is_reported_as_a_wrong_shape() -> None:
    with pytest.raises(WeightsError, match=r'b has the shape \[3\], which, y before x, does not fit \[4\]'):
        rules.fill([Rule(variable(4), 'b', rules.YX)], {'b': np.zeros(3)})


def test_parameters_of_the_unused_pattern_are_ignored() -> None:
    rules.fill([Rule(variable(1), 'a', rules.SAME)], {'a': np.ones(1), 'n.num_batches_tracked': np.ones(1)},
               unused='num_batches_tracked$')


def predictors(classifier: str = 'sigmoid', agnostic: bool = False) -> Detector:
    """A Mask R-CNN of two classes whose predictors have the weights 9."""
    config = ModelConfig(num_classes=2, backbone=BackboneConfig(name='resnet18'))
    config.box_head.class_agnostic = config.mask_head.class_agnostic = agnostic
    config.mask_head.classifier = classifier
    model = build_detector(config)
    for layer in (model.box.heads[0].classes, model.box.heads[0].deltas, model.branches[0].head.masks):
        layer.set_weights([np.full(weight.shape, 9.) for weight in layer.get_weights()])
    return model


@pytest.mark.parametrize(('settings', 'expected'), [
    ({}, ([0, 9, 3], [9, 9, 9, 9, 8, 9, 10, 11], [9, 2])),
    ({'classifier': 'softmax'}, ([0, 9, 3], [9, 9, 9, 9, 8, 9, 10, 11], [0, 9, 3])),
    ({'agnostic': True}, ([0, 9, 3], [0, 1, 2, 3], [0]))], ids=['sigmoid', 'softmax', 'class-agnostic'])
def test_predictors_by_class(settings, expected) -> None:
    """Their biases are 0, 1, 2, ... for three classes. Our first class keeps 9, the second one gets their third."""
    model = predictors(**settings)
    columns = {'classes': 4, 'deltas': 4 if settings.get('agnostic') else 12, 'masks': len(expected[2]) + 1}
    if settings.get('agnostic'):
        columns['masks'] = 1
    layers = model.box.heads[0].classes, model.box.heads[0].deltas, model.branches[0].head.masks
    biases = [Rule(layer.bias, name, rules.SAME) for layer, name in zip(layers, columns, strict=True)]
    state = {name: np.arange(float(count)) for name, count in columns.items()}
    lines = rules.fill_detector(model, biases, state, ClassMap((None, 3), 'a at random, b as c'))
    assert tuple(layer.bias.numpy().tolist() for layer in layers) == expected
    changes = ['a at random, b as c' if line.source == 'classes' or not settings.get('agnostic') else ''
               for line in lines]
    assert [line.change for line in lines] == changes
    with pytest.raises(WeightsError, match=r'classes has the shape \[3\], which does not fit \[3\]'):
        rules.fill_detector(model, biases, {**state, 'classes': np.arange(3.)}, ClassMap((None, 3), ''))


def test_variable_path_on_both_stacks() -> None:
    assert rules.variable_path(SimpleNamespace(path='a/b', name='a/b:0')) == 'a/b'
