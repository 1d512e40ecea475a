"""Convolutions whose kernels get their gradient from strips; the references are TensorFlow's own gradients."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.layers import strips as under_test
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm
from mrcnn_tf.layers.precision import precision_policy
from tests.modes import MODES, with_gradient

HEIGHT = 2 * under_test.ROWS


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('batch', [1, 3])
def test_result_and_gradients_are_those_of_tensorflow(mode, batch) -> None:
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.normal(size=size), tf.float32) for size in ([batch, HEIGHT, 5, 3], [3, 3, 3, 4], [4])]
    cotangent = rng.normal(size=[batch, HEIGHT, 5, 4]).astype(np.float32)

    def plain(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(x, kernel, 1, 'SAME') + bias

    found = MODES[mode](lambda *inputs: with_gradient(under_test.convolution, *inputs, cotangent=cotangent))(*values)
    for one, other in zip(found, with_gradient(plain, *values, cotangent=cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_only_large_maps_of_bfloat16_that_can_be_cut_pay() -> None:
    def pays(*image: int | None, dtype: str = 'bfloat16') -> bool:
        with tf.Graph().as_default():
            return under_test.pays(tf.compat.v1.placeholder(dtype, [2, *image]))

    large = under_test.LARGE // (HEIGHT * 8)
    assert not pays(HEIGHT, 8, large)
    with under_test.kernel_gradients_in_strips(True):
        assert pays(HEIGHT, 8, large)
        assert not pays(HEIGHT, 8, large - 1) and not pays(HEIGHT, 8, large, dtype='float32')
        assert not pays(HEIGHT + 1, 8, large) and not pays(None, 8, large)
        with under_test.kernel_gradients_in_strips(False):
            assert not pays(HEIGHT, 8, large)
    assert not pays(HEIGHT, 8, large)


@pytest.mark.parametrize('kind', ['none', 'frozen'])
@pytest.mark.parametrize('given, cut', [({}, True), ({'padding': 'same'}, True), ({'stride': 2}, False),
                                        ({'dilation': 2}, False), ({'groups': 2}, False), ({'padding': 'valid'}, False),
                                        ({'kernel': 1}, False)])
def test_a_layer_in_training(monkeypatch, kind, given, cut) -> None:
    """Strips are for 3x3 convolutions of stride 1; what the layer returns does not depend on them."""
    monkeypatch.setattr(under_test, 'LARGE', 1)
    calls = []
    monkeypatch.setattr(under_test, 'convolution', lambda *args, made=under_test.convolution: calls.append(1) or
                        made(*args))
    keras.utils.set_random_seed(1)
    x = tf.cast(tf.random.stateless_normal([2, HEIGHT, 6, 4], [1, 2]), tf.bfloat16)
    with precision_policy('mixed_bfloat16'):
        layer = ConvNorm(NO_NORM if kind == 'none' else Norm(kind), 4, **{'kernel': 3, **given})
        layer(x)
        for weight in layer.weights:
            weight.assign(tf.random.stateless_uniform(weight.shape, [3, 4], .5, 1.))

        def run(active: bool) -> list[tf.Tensor]:
            with tf.GradientTape() as tape, under_test.kernel_gradients_in_strips(active):
                y = layer(x, training=True)
                loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
            return [y, *tape.gradient(loss, layer.trainable_variables)]

        expected = run(False)
        assert not calls
        found = run(True)
    assert bool(calls) == cut and len(found) == (3 if kind == 'none' else 2)
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        assert one.dtype == other.dtype and np.abs(one).max() > 0
        np.testing.assert_allclose(one, other, rtol=0, atol=2 ** -7 * np.abs(other).max())
    calls.clear()
    with under_test.kernel_gradients_in_strips(True):
        layer(x, training=False)
    assert not calls
