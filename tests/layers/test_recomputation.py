"""Layers that are recomputed for the gradient, and zeros that XLA makes late."""
from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.layers import recomputation as under_test
from mrcnn_tf.layers import tracing
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm

LAYERS = under_test.SEGMENT + 1     # two segments


@pytest.fixture(scope='module')
def stage() -> list[ConvNorm]:
    keras.utils.set_random_seed(1)
    layers = [ConvNorm(Norm('frozen') if number else NO_NORM, 4, 3, name=f'conv{number}') for number in range(LAYERS)]
    for layer in layers:
        layer(tf.zeros([1, 2, 2, 4]))
    return layers


def gradients(stage: list[ConvNorm], active: bool, wrap: Callable = lambda function: function) -> list[np.ndarray]:
    """Return the result, and the gradients of x and of all kernels."""
    def function(x: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
        kernels = [layer.conv.kernel for layer in stage]
        with tf.GradientTape() as tape:
            tape.watch(x)
            with under_test.recomputation(active):
                y = under_test.run_stage(stage, x, training=True)
        return [y, *tape.gradient(y, [x, *kernels], upstream)]

    x, upstream = (tf.random.stateless_normal([2, 5, 6, 4], [seed, 0]) for seed in range(2))
    return [value.numpy() for value in wrap(function)(x, upstream)]


def test_recomputed_gradients_are_equal_to_the_last_bit(stage) -> None:
    expected = gradients(stage, False)
    assert all(np.abs(each).max() > 1e-3 for each in expected)
    for found in (gradients(stage, True), gradients(stage, True, tf.function)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_recomputed_gradients_under_xla(stage) -> None:
    expected = gradients(stage, False)
    for one, other in zip(gradients(stage, True, tf.function(jit_compile=True)), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())


def test_a_function_is_called_again_only_within_the_context() -> None:
    calls = []

    def function(x: tf.Tensor) -> tf.Tensor:
        calls.append(1)
        return x * x

    for active, expected in ((False, 1), (True, 2)):
        calls.clear()
        x = tf.constant([3., 4.])
        with under_test.recomputation(active), tf.GradientTape() as tape:
            tape.watch(x)
            y = under_test.recomputed(function, x)
        assert tape.gradient(y, x, tf.constant([1., 10.])).numpy().tolist() == [6., 80.]
        assert len(calls) == expected


def test_a_gradient_of_nan_passes() -> None:
    """The loop has two iterations then, with the same result."""
    x = tf.constant([3., 4.])
    with under_test.recomputation(True), tf.GradientTape() as tape:
        tape.watch(x)
        y = under_test.recomputed(tf.square, x)
    np.testing.assert_array_equal(tape.gradient(y, x, tf.constant([np.nan, 1.])), [np.nan, 8.])


def test_the_second_call_has_the_settings_of_the_first() -> None:
    setting, seen = ContextVar('setting', default=0), []

    def function(x: tf.Tensor) -> tf.Tensor:
        seen.append(setting.get())
        return x * x

    x = tf.constant([2.])
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tracing.within(setting, 1), under_test.recomputation(True):
            y = under_test.recomputed(function, x)
    assert tape.gradient(y, x) == [4.] and seen == [1, 1]


def test_frozen_layers_are_not_recomputed(stage, monkeypatch) -> None:
    monkeypatch.setattr(under_test, 'recomputed', None)
    for layer in stage:
        layer.trainable = False
    try:
        with under_test.recomputation(True):
            assert under_test.run_stage(stage, tf.ones([1, 2, 2, 4]), training=True).shape == [1, 2, 2, 4]
    finally:
        for layer in stage:
            layer.trainable = True


@pytest.mark.parametrize(('values', 'expected'), [
    pytest.param([], 0., id='empty'), pytest.param([[3., np.nan]], 0., id='number'),
    pytest.param([np.nan, 1.], np.nan, id='NaN'), pytest.param([-np.inf], 0., id='infinite')])
def test_zero_after(values, expected) -> None:
    zero = under_test.zero_after(tf.constant(values))
    np.testing.assert_array_equal(zero, np.float32(expected))
