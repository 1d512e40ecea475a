"""Optimizer updates, computed by hand. A comparison with torch.optim.SGD is in tests/parity."""
from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.training.optimizers import SGD, build_optimizer
from mrcnn_tf.training.schedules import Steps


@keras.saving.register_keras_serializable('tests')
class Table(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that lists the rate of each step."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.constant(self.rates, tf.float32), tf.cast(step, tf.int32))

    def get_config(self) -> dict:
        return {'rates': self.rates}


@pytest.fixture
def model() -> keras.Model:
    """A dense layer and batch normalization, with all of kernel, bias, gamma and beta set to 1."""
    model = keras.Sequential([
        keras.layers.Dense(2, kernel_initializer='ones', bias_initializer='ones'),
        keras.layers.BatchNormalization(beta_initializer='ones')])
    model.build((None, 3))
    return model


def step(optimizer: keras.optimizers.Optimizer, model: keras.Model, gradient: float) -> dict[str, float]:
    """Return the first entry of each trainable variable after a step with the same gradient for all entries."""
    variables = model.trainable_variables
    optimizer.apply_gradients([(tf.fill(v.shape, gradient), v) for v in variables])
    return {v.name.split('/')[-1].split(':')[0]: v.numpy().flat[0] for v in variables}


def test_sgd_with_momentum_and_decay(model: keras.Model) -> None:
    # Decay 0.5, momentum 0.9, rates 0.1 then 0.01, gradient 1.
    # kernel: g 1.5, v 1.5, p 0.85; g 1.425, v 2.775, p 0.82225.  others: v 1, p 0.9; v 1.9, p 0.881.
    optimizer = build_optimizer(SolverConfig(weight_decay=0.5), Table([0.1, 0.01]), model)
    first, second = step(optimizer, model, 1.0), step(optimizer, model, 1.0)
    assert first == pytest.approx({'kernel': 0.85, 'bias': 0.9, 'gamma': 0.9, 'beta': 0.9})
    assert second == pytest.approx({'kernel': 0.82225, 'bias': 0.881, 'gamma': 0.881, 'beta': 0.881})


def test_biases_decay_if_configured(model: keras.Model) -> None:
    optimizer = build_optimizer(SolverConfig(weight_decay=0.5, decay_biases=True), Table([0.1]), model)
    assert step(optimizer, model, 1.0) == pytest.approx({'kernel': 0.85, 'bias': 0.85, 'gamma': 0.9, 'beta': 0.9})


def test_adamw_decays_only_kernels(model: keras.Model) -> None:
    # The first Adam step is rate x sign(g); the decay subtracts rate x 0.5 x p, with p = 1.
    optimizer = build_optimizer(SolverConfig(optimizer='adamw', weight_decay=0.5), Table([0.1]), model)
    assert step(optimizer, model, 3.0) == pytest.approx(
        {'kernel': 0.85, 'bias': 0.9, 'gamma': 0.9, 'beta': 0.9}, abs=1e-6)


def test_adamw_epsilon(model: keras.Model) -> None:
    # With g = epsilon = 1e-8, m / (sqrt(v) + epsilon') is 1 / (1 + 1 / sqrt(0.001)) by Keras' definition of epsilon.
    optimizer = build_optimizer(SolverConfig(optimizer='adamw', weight_decay=0.0), Table([0.1]), model)
    expected = 1 - 0.1 / (1 + 1 / 0.001 ** 0.5)
    assert step(optimizer, model, 1e-8)['bias'] == pytest.approx(expected, abs=1e-6)


def test_sgd_is_serializable() -> None:
    optimizer = SGD(Steps(0.1, [5], 0.1), momentum=0.8, weight_decay=0.25)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert (type(again), again.momentum, again.weight_decay) == (SGD, 0.8, 0.25)
