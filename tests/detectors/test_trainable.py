"""The training step behind `fit` and `evaluate`, compiled by XLA and not, on a small detector."""
from __future__ import annotations

import types
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.detectors.detector import LOSSES, Detector, build_detector
from mrcnn_tf.detectors.trainable import TrainableModel
from tests.detectors.small import (
    CLIP,
    RATE,
    Step,
    assert_same_step,
    compiled_model,
    fit,
    make_batch,
    mixed_model,
    small_config,
    without_objects,
)
from tests.training.toy import ToyModel


@pytest.fixture(scope='module')
def op_step(op_model, weights) -> Step:
    """Losses of one step of `fit` on the 'op' engine, and the weights after it."""
    op_model.set_weights(weights)
    losses = fit(op_model, make_batch())
    return losses, op_model.get_weights()


def test_a_step_moves_what_is_trained_and_nothing_else(op_model, weights, op_step) -> None:
    """Stem and res2 stay, statistics included; all else moves, by the clipped gradient times the rate in all."""
    losses, after = op_step
    backbone = op_model.backbone.body
    frozen = {id(v) for part in (backbone.stem, *backbone.stages[0]) for v in part.weights}
    trained = {id(v) for v in op_model.trainable_variables}
    assert len(frozen) == 3 * 5 and not frozen & trained
    square = 0.
    for variable, old, new in zip(op_model.weights, weights, after, strict=True):
        assert np.array_equal(old, new) is (id(variable) in frozen), variable.name
        square += np.sum((new - old) ** 2) if id(variable) in trained else 0.
    np.testing.assert_allclose(np.sqrt(square), RATE * CLIP, rtol=1e-4)
    assert sorted(losses) == sorted(['loss', *LOSSES, 'positive_anchors', 'positive_rois'])
    np.testing.assert_allclose(losses['loss'], sum(losses[name] for name in LOSSES), rtol=1e-5)
    assert all(losses[name] > 0 for name in LOSSES)


@pytest.fixture(scope='module')
def jit_model(weights) -> Detector:
    return compiled_model('xla', weights, jit=True)


@pytest.mark.parametrize('jit', [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_train_step_of_the_xla_engine(weights, op_model, op_step, jit_model, jit) -> None:
    """The same losses and the same weights after one step of `fit`: uncompiled, and compiled as a whole."""
    model = jit_model if jit else compiled_model('xla', weights)
    model.set_weights(weights)
    losses = fit(model, make_batch())
    assert_same_step(model, weights, (losses, model.get_weights()), op_step)


def test_a_compiled_step_on_a_batch_without_objects(jit_model, weights) -> None:
    """Follows the test above, whose compiled function takes this batch too."""
    if jit_model.train_function is None:
        fit(jit_model, make_batch())
    jit_model.set_weights(weights)
    losses = {name: float(value) for name, value in jit_model.train_function(iter([without_objects()])).items()}
    assert losses['loss_rpn_box_reg'] == losses['loss_box_reg'] == losses['loss_mask'] == 0
    assert losses['loss_objectness'] > 0 and losses['loss_classifier'] > 0
    jit_model.set_weights(weights)
    boxes_only = make_batch(has_mask=np.zeros([2, 4], bool))
    losses = {name: float(value) for name, value in jit_model.train_function(iter([boxes_only])).items()}
    assert losses.pop('loss_mask') == 0 and all(0 < value < 99 for value in losses.values())
    assert all(np.isfinite(w).all() for w in jit_model.get_weights())


def test_jit_compile_takes_the_xla_engine() -> None:
    with pytest.raises(ValueError, match="engine='xla'"):
        build_detector(small_config()).compile(keras.optimizers.SGD(.1), jit_compile=True)


def test_export_of_keras_names_our_own() -> None:
    with pytest.raises(ValueError, match='^step: Keras cannot export a detector; call mrcnn_tf.export_detector'):
        TrainableModel('op', name='step').export('saved')


@pytest.mark.slow
def test_several_canvases_in_one_fit(op_model, weights) -> None:
    """Two canvases take turns; every step counts, and losses and positive samples are logged by name."""
    op_model.set_weights(weights)
    before = int(op_model.optimizer.iterations)
    losses = fit(op_model, make_batch(), make_batch(width=96), steps=5)
    assert int(op_model.optimizer.iterations) == before + 5
    assert sorted(losses) == sorted(['loss', *LOSSES, 'positive_anchors', 'positive_rois'])
    assert all(np.isfinite(x) for x in losses.values())
    assert op_model.last_image_ids.numpy().tolist() == [7, 9]


def test_evaluate_gives_the_losses_and_changes_nothing(op_model, weights) -> None:
    op_model.set_weights(weights)
    found = op_model.evaluate(tf.data.Dataset.from_tensors(make_batch()), return_dict=True, verbose=0)
    for old, new in zip(weights, op_model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    expected = op_model.losses(make_batch(), tf.zeros([2], tf.int32), training=False)
    for name in LOSSES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found['loss'], sum(float(x) for x in expected.values()), rtol=1e-4)


def test_functions_are_traced_once(op_model, weights) -> None:
    """A second `fit` goes on with the function of the first, a second `compile` makes a new one."""
    fit(op_model, make_batch())
    function = op_model.train_function
    fit(op_model, make_batch())
    assert op_model.train_function is function
    op_model.compile(keras.optimizers.SGD(RATE), clip_norm=CLIP, seed=3)
    assert op_model.train_function is None


def test_each_canvas_is_traced_once() -> None:
    model, traces = ToyModel(), []
    original = model.losses_and_counts
    model.losses_and_counts = lambda batch, seed: traces.append(batch['images'].shape[1]) or original(batch, seed)
    model.compile(keras.optimizers.SGD(RATE))
    model.optimizer.build(model.trainable_variables)    # else Keras 2 builds it in a trace of its own
    step = model.make_train_function()
    for side in (1, 2, 1, 2, 1):
        step(iter([{'images': tf.ones([2, side, side, 3]), 'image_ids': tf.constant([4, 6], tf.int64)}]))
    assert traces == [1, 2]


def test_mixed_precision_trains(weights) -> None:
    """Convolutions run in bfloat16, variables stay float32, and the loss falls."""
    model = mixed_model(weights)
    assert model.proposer.head.convs[0].compute_dtype == model.backbone.body.stem.conv.compute_dtype == 'bfloat16'
    assert all('float32' in str(v.dtype) for v in model.weights)
    first = fit(model, make_batch())
    last = fit(model, make_batch(), steps=7)
    assert last['loss'] < .9 * first['loss']


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_only_the_op_engine_has_tensorflows_gradient_of_relu(engine, op_model, jit_model) -> None:
    """XLA needs another one (`mrcnn_tf/layers/relu.py`)."""
    model = {'op': op_model, 'xla': jit_model}[engine]

    @tf.function(autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            total = tf.add_n(list(model.losses(batch, tf.zeros([2], tf.int32)).values()))
        return tape.gradient(total, model.trainable_variables)

    found = [each.type for each in step.get_concrete_function(make_batch()).graph.get_operations()]
    assert found.count('Relu') > 20 and ('ReluGrad' in found) == (engine == 'op')


def test_the_backward_pass_of_several_replicas(jit_model) -> None:
    """XLA compiles it by itself, so it must not differentiate the frozen stem and res2.

    Trained convolutions: three in the block of each of res3 to res5, eight of the FPN, two of the RPN head, which has
    one for scores and deltas, and two of the mask head.
    """
    two = types.SimpleNamespace(num_replicas_in_sync=2)

    @tf.function(autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        return jit_model._values_and_gradients(batch, tf.zeros([2], tf.int32))[1]

    with mock.patch.object(Detector, 'distribute_strategy', two):
        graph = step.get_concrete_function(make_batch()).graph
    backward, = (graph._get_function(each.get_attr('f').name).graph for each in graph.get_operations()
                 if each.type == 'PartitionedCall' and 'backward' in each.get_attr('f').name)
    found = [each.type for each in backward.get_operations()]
    assert found.count('Conv2DBackpropFilter') == 3 * 3 + 8 + 2 + 2 and 'ReluGrad' in found
