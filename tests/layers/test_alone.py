"""Each layer as a user takes it into a model of their own: eagerly, in a functional model whose batch is unknown, in a
graph and under XLA; saved, loaded and cloned."""
from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.layers.anchors import AnchorGenerator
from mrcnn_tf.layers.heads import BoxHead, MaskHead, Res5Head, RPNHead
from mrcnn_tf.layers.normalization import FrozenBatchNormalization, Norm
from mrcnn_tf.layers.proposals import ProposalLayer
from mrcnn_tf.layers.roi import RoIAlign, RoIPool, RoIWarp
from tests.modes import MODES

# Without the axis of the batch. Two levels of strides 4 and 8 in an image of 32 x 32 px, with an anchor per cell.
SHAPES = {'fine': (8, 8, 2), 'coarse': (4, 4, 2), 'boxes': (3, 4), 'pooled': (3, 2, 2, 2), 'fine_logits': (64,),
          'coarse_logits': (16,), 'fine_deltas': (64, 4), 'coarse_deltas': (16, 4), 'sizes': (2,),
          'res4': (2, 2, 2, 256)}


class Case(NamedTuple):
    """A layer, the names of its inputs, and how it is called on them."""
    layer: Callable[[], keras.layers.Layer]
    inputs: tuple[str, ...]
    call: Callable[..., Any]


def roi_case(layer: Callable[..., keras.layers.Layer], **arguments: Any) -> Case:
    return Case(lambda: layer(2, (4, 8), canonical_size=8., canonical_level=2, **arguments),
                ('fine', 'coarse', 'boxes'), lambda layer, fine, coarse, boxes: layer([fine, coarse], boxes))


def anchors_of(*maps: Any) -> Any:
    return AnchorGenerator([[8.], [16.]], [1.], (4, 8), name='anchors')(list(maps))


def propose(layer: Any, *x: Any) -> Any:
    return layer(x[:2], x[2:4], anchors_of(*x[4:6]), x[6])


def proposal_case(engine: str) -> Case:
    return Case(lambda: ProposalLayer(20, 5, .5, 1., engine),
                ('fine_logits', 'coarse_logits', 'fine_deltas', 'coarse_deltas', 'fine', 'coarse', 'sizes'), propose)


CASES = {
    'AnchorGenerator': Case(lambda: AnchorGenerator([[8.], [16., 20.]], [.5, 2.], (4, 8), True, .5, 'size_major'),
                            ('fine', 'coarse'), lambda layer, *maps: layer(list(maps))),
    'RPNHead': Case(lambda: RPNHead(5, 2, 2, 'softmax'), ('fine', 'coarse'), lambda layer, *maps: layer(list(maps))),
    'RoIAlign_op': roi_case(RoIAlign, sampling_ratio=2, aligned=False),
    'RoIAlign_xla': roi_case(RoIAlign, engine='xla', aggregate='max'),
    'RoIWarp_op': roi_case(RoIWarp, aggregate='max'),
    'RoIWarp_xla': roi_case(RoIWarp, sampling_ratio=1, engine='xla'),
    'RoIPool': roi_case(RoIPool),
    'ProposalLayer_op': proposal_case('op'),
    'ProposalLayer_xla': proposal_case('xla'),
    'BoxHead': Case(lambda: BoxHead(3, 6, 1, 1, 4, Norm('batch', .1, .8), .5, True), ('pooled',),
                    lambda layer, pooled: layer(pooled)),
    'BoxHead_without_hidden_layers': Case(lambda: BoxHead(3, fully_connected=0), ('pooled',),
                                          lambda layer, pooled: layer(pooled)),
    'MaskHead': Case(lambda: MaskHead(3, 4, 1, 'frozen', False, 'softmax'), ('pooled',),
                     lambda layer, pooled: layer(pooled)),
    'Res5Head': Case(lambda: Res5Head('resnet18', 'batch', False, True), ('res4',), lambda layer, res4: layer(res4)),
}
COMPILED = [name for name in CASES if not name.endswith('_op')]


def values(case: Case, batch: int) -> list[tf.Tensor]:
    """Random inputs; boxes lie in and across the image."""
    rng = np.random.default_rng(batch)

    def value(name: str) -> np.ndarray:
        if name == 'boxes':
            corner = rng.uniform(-4, 24, (batch, 3, 2))
            return np.concatenate([corner, corner + rng.uniform(2, 20, (batch, 3, 2))], -1)
        return np.tile([[32., 20.]], [batch, 1]) if name == 'sizes' else rng.normal(size=(batch, *SHAPES[name]))

    return [tf.constant(value(name), tf.float32) for name in case.inputs]


def functional(case: Case, layer: keras.layers.Layer) -> keras.Model:
    inputs = [keras.Input(SHAPES[name], name=name) for name in case.inputs]
    return keras.Model(inputs, case.call(layer, *inputs))


def assert_equal(ours: Any, expected: Any, tolerance: float = 0.) -> None:
    ours, expected = tf.nest.flatten(ours), tf.nest.flatten(expected)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=tolerance)


@pytest.mark.parametrize('name', CASES)
def test_in_a_functional_model_of_unknown_batch(name) -> None:
    """The model gives for batches of 1 and 3 what the layer gives eagerly."""
    case = CASES[name]
    layer = case.layer()
    model = functional(case, layer)
    for batch in (1, 3):
        inputs = values(case, batch)
        assert_equal(model(inputs), case.call(layer, *inputs), 1e-5)


@pytest.mark.parametrize(('name', 'mode'), [
    *((name, 'graph') for name in CASES), *((name, 'jit') for name in COMPILED)])
def test_in_a_graph_and_under_xla(name, mode) -> None:
    case = CASES[name]
    layer = case.layer()
    inputs = values(case, 2)
    expected = case.call(layer, *inputs)                       # creates the weights
    assert_equal(MODES[mode](lambda *x: case.call(layer, *x))(*inputs), expected, 1e-5)


@pytest.mark.parametrize('name', CASES)
def test_saved_loaded_and_cloned(name, tmp_path: pathlib.Path) -> None:
    """A loaded model has the layer's arguments and weights, a clone its arguments."""
    case = CASES[name]
    model = functional(case, case.layer())
    inputs = values(case, 2)
    expected = model(inputs)
    model.save(tmp_path / 'model.keras')
    assert_equal(keras.models.load_model(tmp_path / 'model.keras')(inputs), expected)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_equal(clone(inputs), expected)


@pytest.mark.parametrize('name', CASES)
def test_the_config_holds_every_argument(name) -> None:
    layer = CASES[name].layer()
    config = layer.get_config()
    arguments = set(inspect.signature(type(layer).__init__).parameters) - {'self', 'kwargs'}
    assert arguments <= set(config)
    assert type(layer).from_config(config).get_config() == config


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_fit_with_keras_own_choice_of_xla(engine) -> None:
    """Gradients flow through RoIAlign to a convolution before it, although the batch is unknown."""
    image, boxes = keras.Input((16, 16, 3)), keras.Input((2, 4))
    feature = keras.layers.Conv2D(2, 3, 4, 'same')(image)
    pooled = RoIAlign(2, strides=[4], engine=engine)(feature, boxes)
    model = keras.Model([image, boxes], BoxHead(2, width=64, fully_connected=1, dropout=.5)(pooled))
    model.compile('sgd', ['mse', 'mse'])
    kernel = model.trainable_weights[0].numpy()
    model.fit([np.ones([3, 16, 16, 3]), np.tile([0., 0., 16., 16.], [3, 2, 1])],
              [np.ones([3, 2, 3]), np.ones([3, 2, 2, 4])], batch_size=2, verbose=0)
    assert (model.trainable_weights[0].numpy() != kernel).any()


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_a_detector_made_of_the_layers(engine, tmp_path: pathlib.Path) -> None:
    """RPN, RoIAlign and both heads in one functional model: `predict` with a last batch of one image, `save`."""
    image, sizes = keras.Input((32, 32, 3)), keras.Input((2,))
    fine = keras.layers.Conv2D(4, 3, 4, 'same')(image)
    features = [fine, keras.layers.Conv2D(4, 3, 2, 'same')(fine)]
    anchors = AnchorGenerator([[8.], [16.]], [1.], strides=[4, 8])(features)
    logits, deltas = RPNHead(4, anchors_per_cell=1)(features)
    boxes, scores, valid = ProposalLayer(post_nms=5, engine=engine)(logits, deltas, anchors, sizes)
    box_head, mask_head = BoxHead(num_classes=2, width=8), MaskHead(num_classes=2, width=4)
    classes, refinements = box_head(RoIAlign(3, strides=[4, 8], engine=engine)(features, boxes))
    masks = mask_head(RoIAlign(4, strides=[4, 8], engine=engine)(features, boxes))
    model = keras.Model([image, sizes], [boxes, scores, valid, classes, refinements, masks])
    inputs = [np.random.default_rng(0).uniform(size=(3, 32, 32, 3)).astype(np.float32), np.full([3, 2], 32.)]
    outputs = model.predict(inputs, batch_size=2, verbose=0)
    assert [x.shape for x in outputs] == [(3, 5, 4), (3, 5), (3, 5), (3, 5, 3), (3, 5, 2, 4), (3, 5, 8, 8, 2)]
    model.save(tmp_path / 'detector.keras')
    loaded = keras.models.load_model(tmp_path / 'detector.keras')
    assert_equal(loaded.predict(inputs, batch_size=2, verbose=0), outputs)


def test_the_defaults_are_those_of_an_fpn() -> None:
    """P2 to P6 of 64 x 64 px: 3 anchors in each of 256 + 64 + 16 + 4 + 1 cells; the heads pool from P2 to P5."""
    pyramid = [tf.zeros([1, 64 // stride, 64 // stride, 4]) for stride in (4, 8, 16, 32, 64)]
    boxes = tf.constant([[[0., 0., 32., 32.]]])
    anchors = AnchorGenerator()(pyramid)
    assert anchors.shape == [1023, 4]
    np.testing.assert_allclose(anchors[-2], [-256, -256, 256, 256])
    logits, deltas = RPNHead()(pyramid)
    assert ProposalLayer()(logits, deltas, anchors, tf.constant([[64., 64.]]))[0].shape == [1, 1000, 4]
    for layer in (RoIAlign(), RoIPool(), RoIWarp()):
        assert layer(pyramid[:4], boxes).shape == (1, 1, 7, 7, 4)


@pytest.mark.parametrize('kind', ['float32', 'bfloat16'])
def test_a_keras_model_knows_shape_and_type_of_pooled_maps(kind) -> None:
    for layer in (RoIAlign(7, [4]), RoIPool(7, [4]), RoIWarp(7, [4])):
        pooled = layer(keras.Input([None, None, 8], dtype=kind), keras.Input([None, 4]))
        assert tuple(pooled.shape) == (None, None, 7, 7, 8) and tf.as_dtype(pooled.dtype).name == kind


def test_a_single_feature_map_needs_no_list() -> None:
    feature, boxes = tf.random.stateless_uniform([2, 4, 4, 3], [0, 1]), tf.constant([[[0., 0., 32., 32.]]] * 2)
    for layer in (RoIAlign(2, [16]), RoIPool(2, [16]), RoIWarp(2, [16])):
        assert_equal(layer(feature, boxes), layer([feature], boxes))
    anchors = AnchorGenerator([[8.]], strides=[16])
    assert_equal(anchors(feature), anchors([feature]))


def test_frozen_normalization_comes_back() -> None:
    model = keras.Sequential([keras.Input((2, 2, 3)), FrozenBatchNormalization(.1)])
    assert keras.models.clone_model(model).layers[-1].epsilon == .1
