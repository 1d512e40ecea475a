"""Normalization by stored statistics, by those of a batch and of all replicas (the reference: tests/parity)."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.normalization import (
    ConvNorm,
    FrozenBatchNormalization,
    Norm,
    folded_normalization,
    folded_weights,
)
from mrcnn_tf.layers.precision import precision_policy


def test_frozen_normalization_equals_that_of_keras() -> None:
    """Weights in Keras's order move between the frozen and the trained layer."""
    frozen, trained = FrozenBatchNormalization(1e-3), keras.layers.BatchNormalization(epsilon=1e-3)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, 5, 6, 4)), tf.float32)
    frozen.build(x.shape)
    frozen.set_weights([rng.uniform(.01, 2., 4) for _ in frozen.weights])      # variances are above 0
    trained.build(x.shape)
    trained.set_weights(frozen.get_weights())
    np.testing.assert_allclose(frozen(x), trained(x, training=False), rtol=1e-4, atol=1e-4)


def test_frozen_has_nothing_to_train_but_passes_gradients() -> None:
    layer, x = FrozenBatchNormalization(1e-5), tf.ones([2, 3, 3, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = layer(x)
    assert not layer.trainable_variables and len(layer.weights) == 4
    np.testing.assert_allclose(tape.gradient(out, x), np.full([2, 3, 3, 4], 1 / np.sqrt(1 + 1e-5)), rtol=1e-6)
    assert FrozenBatchNormalization.from_config(layer.get_config()).epsilon == 1e-5


def test_statistics_are_not_rounded_under_mixed_precision() -> None:
    """1 + 2^-10 rounds to 1 in bfloat16: (x - mean) / sqrt(variance) would be 0 where the folded shift is exact."""
    keras.mixed_precision.set_global_policy('mixed_bfloat16')
    try:
        layer = FrozenBatchNormalization(0.)
        layer.build((None, 1))
    finally:
        keras.mixed_precision.set_global_policy('float32')
    layer.moving_mean.assign([1 + 2 ** -10])
    layer.moving_variance.assign([2. ** -20])
    out = layer(tf.zeros([1, 1], tf.bfloat16))
    assert out.dtype == tf.bfloat16
    assert float(out[0, 0]) == -1024.                       # -(1 + 2^-10) * 2^10 = -1025, to the 8 bits of bfloat16
    layer.moving_mean.assign([1 + 2 ** -6])                 # -1040 has 7 bits: read in bfloat16 it would be the same
    assert float(layer(tf.zeros([1, 1], tf.bfloat16))[0, 0]) == -1040.


def test_layer_by_name() -> None:
    def made(kind):
        return Norm.of(BackboneConfig(norm=kind, norm_epsilon=1e-3, norm_momentum=.8)).layer('n')

    frozen, batch, sync = made('frozen'), made('batch'), made('sync')
    assert isinstance(frozen, FrozenBatchNormalization) and frozen.epsilon == 1e-3
    for layer, synchronized in ((batch, False), (sync, True)):
        assert isinstance(layer, keras.layers.BatchNormalization)
        config = layer.get_config()
        assert (config['epsilon'], config['momentum']) == (1e-3, .8)
        assert (layer.synchronized, layer.name) == (synchronized, 'n')


def test_momentum_is_the_weight_of_the_old_statistics() -> None:
    layer = Norm('batch', momentum=.75).layer('n')
    x = tf.constant([[[[3.]], [[5.]]]])                     # mean 4; the old one is 0
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, [1.], rtol=1e-6)
    layer(x, training=False)
    np.testing.assert_allclose(layer.moving_mean, [1.], rtol=1e-6)


def test_group_normalization_by_hand() -> None:
    """64 channels in 32 groups of two; a group is normalized over its channels and all cells: here -1 and 1."""
    layer = Norm('group', epsilon=0.).layer('n')
    x = np.zeros([1, 2, 1, 64], np.float32)
    x[0, :, 0, ::2], x[0, :, 0, 1::2] = 3., 7.
    np.testing.assert_allclose(layer(tf.constant(x))[0, 1, 0, :4], [-1, 1, -1, 1], rtol=1e-5)


@pytest.mark.parametrize('kind, options', [
    ('frozen', {}), ('batch', {'stride': 2}), ('frozen', {'groups': 2}), ('group', {}), ('none', {})],
    ids=['frozen', 'batch with a stride', 'groups', 'group normalization', 'no normalization'])
def test_a_convolution_with_folded_normalization_is_the_same_function(kind: str, options: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    layer, x = ConvNorm(Norm(kind), 64, 3, **options), tf.constant(rng.normal(size=(1, 8, 9, 64)), tf.float32)
    layer(x)
    layer.set_weights([rng.uniform(.5, 1.5, weight.shape) for weight in layer.weights])

    def operations() -> tuple[np.ndarray, list[str]]:
        traced = tf.function(layer, [tf.TensorSpec([1, None, None, 64])], autograph=False).get_concrete_function()
        return traced(x).numpy(), [each.type for each in traced.graph.get_operations()]

    expected, _ = operations()
    with folded_normalization(folded_weights(layer)):
        found, names = operations()
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-3)
    assert kind == 'group' or not {'Mul', 'Sqrt', 'Rsqrt', 'FusedBatchNormV3'} & set(names)
    np.testing.assert_array_equal(operations()[0], expected)    # outside of the context nothing changes


@pytest.mark.parametrize(('policy', 'tolerance'), [('float32', 1e-5), ('mixed_bfloat16', .03)])
def test_training_scales_kernels_instead_of_results(policy: str, tolerance: float) -> None:
    """Frozen normalization in training is the function that it is in inference, and has its gradients."""
    rng = np.random.default_rng(0)
    with precision_policy(policy):
        layer = ConvNorm(Norm('frozen'), 6, 3)
    x = tf.constant(rng.normal(size=(2, 7, 9, 4)), tf.float32)
    layer(x)
    layer.set_weights([rng.uniform(.5, 2., weight.shape) for weight in layer.weights])
    results = []
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = layer(x, training=training)
        results.append([out, *tape.gradient(out, [x, *layer.trainable_variables])])
    assert len(results[0]) == 3 and results[1][0].dtype == layer.compute_dtype
    for inference, training in zip(*results, strict=True):
        inference, training = (np.asarray(tf.cast(each, tf.float32)) for each in (inference, training))
        np.testing.assert_allclose(training, inference, atol=tolerance * np.abs(inference).max())


def test_kernels_folded_for_bfloat16_are_stored_in_it() -> None:
    """No graph casts them. They are rounded once: 1 + 2^-8 times 1 + 2^-8 is nearest to 1 + 2^-7."""
    with precision_policy('mixed_bfloat16'):
        layer = ConvNorm(Norm('frozen', epsilon=0.), 1, 1, activate=False)
    layer(tf.zeros([1, 2, 2, 1]))
    kernel, gamma, *others = layer.weights
    kernel.assign(tf.fill(kernel.shape, 1 + 2 ** -8))
    gamma.assign(tf.fill(gamma.shape, 1 + 2 ** -8))
    with folded_normalization(folded_weights(layer)):
        traced = tf.function(layer, [tf.TensorSpec([1, 2, 2, 1], tf.bfloat16)], autograph=False).get_concrete_function()
        assert {variable.dtype for variable in traced.graph.variables} == {tf.bfloat16}
        assert float(traced(tf.ones([1, 2, 2, 1], tf.bfloat16))[0, 0, 0, 0]) == 1 + 2 ** -7
    assert 'Cast' not in {each.type for each in traced.graph.get_operations()}
