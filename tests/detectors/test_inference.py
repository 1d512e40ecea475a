"""Functions traced for inference: with batch normalization folded into convolutions, or as it is."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.detectors.inference import tracer
from mrcnn_tf.layers import winograd
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm
from mrcnn_tf.layers.precision import precision_policy
from tests.modes import recorded


@pytest.fixture
def layer() -> ConvNorm:
    made, rng = ConvNorm(Norm('batch'), 3, 3), np.random.default_rng(0)
    made(tf.zeros([1, 4, 4, 2]))
    made.set_weights([rng.uniform(.5, 1.5, weight.shape) for weight in made.weights])
    return made


@pytest.mark.parametrize('each_shape', [False, True], ids=['any size', 'fixed sizes'])
def test_final_weights_are_folded_once_for_all_functions(layer: ConvNorm, each_shape: bool) -> None:
    x = tf.random.stateless_normal([1, 5, 6, 2], [1, 2])
    trace, expected = tracer(layer, final=True), layer(x).numpy()
    first, second = trace(layer, each_shape), trace(lambda x: -layer(x), each_shape)
    np.testing.assert_allclose(first(x), expected, rtol=1e-4)
    layer.conv.kernel.assign(tf.zeros_like(layer.conv.kernel))
    layer.norm.gamma.assign(tf.zeros_like(layer.norm.gamma))
    for y in (x, tf.concat([x, x], axis=2)):
        np.testing.assert_allclose(first(y)[:, :, :5], expected[:, :, :5], rtol=1e-4)
        np.testing.assert_array_equal(second(y), -first(y))


def test_folding_traces_once(layer: ConvNorm) -> None:
    """TensorFlow traces a function again that makes variables."""
    traces = []
    function: Any = tracer(layer, final=True)(lambda x: traces.append(1) or layer(x), False)
    for width in (6, 7):
        function(tf.ones([1, 5, width, 2]))
    assert len(traces) == 1


def test_weights_that_change_are_not_folded(layer: ConvNorm) -> None:
    function: Any = tracer(layer, final=False)(layer, False)
    x = tf.ones([1, 5, 6, 2])
    before = function(x).numpy()
    layer.norm.gamma.assign(2 * layer.norm.gamma)
    layer.norm.beta.assign(2 * layer.norm.beta)
    np.testing.assert_allclose(function(x), 2 * before, rtol=1e-5)


@pytest.mark.parametrize('final', [False, True])
@pytest.mark.parametrize('engine, calls', [('op', 1), ('xla', 0)])
def test_convolutions_are_those_for_a_cpu(
        layer: ConvNorm, monkeypatch: pytest.MonkeyPatch, engine: str, calls: int, final: bool) -> None:
    monkeypatch.setattr(winograd, 'CELLS', 1)
    monkeypatch.setattr(winograd, 'CHANNELS', 1)
    layer.engine = engine
    function: Any = tracer(layer, final)(layer, True)
    with recorded(winograd, 'convolution') as made:
        function(tf.ones([1, 8, 8, 2]))
    assert len(made) == calls


def test_results_in_bfloat16_are_those_for_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, 'CELLS', 1)
    monkeypatch.setattr(winograd, 'CHANNELS', 1)
    with precision_policy('mixed_bfloat16'):
        layer: Any = ConvNorm(NO_NORM, 2, 3)
        layer(tf.ones([1, 8, 8, 2]))
    with recorded(winograd, '_convolution') as made:
        tracer(layer, final=False)(layer, True)(tf.ones([1, 8, 8, 2], tf.bfloat16))
    assert len(made) == 1
