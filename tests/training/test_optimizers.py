"""Optimizer updates by hand, and trajectories by the formulas of the papers in NumPy, which both stacks must follow.

A comparison with torch.optim.SGD is in tests/parity.
"""
from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
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


RATES, DECAY = [.1, .05, .05, .02], .3


def sgdw(p: np.ndarray, g: list[np.ndarray], decayed: bool) -> np.ndarray:
    """1711.05101, algorithm 1, with the weight decay times the rate, as in PyTorch and Keras."""
    m = np.zeros_like(p)
    for rate, gradient in zip(RATES, g, strict=True):
        m = .9 * m + rate * gradient
        p = p - m - rate * DECAY * decayed * p
    return p


def lars(p: np.ndarray, g: list[np.ndarray], decayed: bool) -> np.ndarray:
    """1708.03888, algorithm 1, with eta 0.001."""
    v = np.zeros_like(p)
    for rate, gradient in zip(RATES, g, strict=True):
        norm = np.linalg.norm(p)
        local = .001 * norm / (np.linalg.norm(gradient) + DECAY * norm) if decayed else 1.
        v = .9 * v + rate * local * (gradient + DECAY * decayed * p)
        p = p - v
    return p


def lamb(p: np.ndarray, g: list[np.ndarray], decayed: bool) -> np.ndarray:
    """1904.00962, algorithm 2, with the identity as phi."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (rate, gradient) in enumerate(zip(RATES, g, strict=True), start=1):
        m, v = .9 * m + .1 * gradient, .999 * v + .001 * gradient ** 2
        update = m / (1 - .9 ** t) / (np.sqrt(v / (1 - .999 ** t)) + 1e-6) + DECAY * decayed * p
        p = p - rate * (np.linalg.norm(p) / np.linalg.norm(update) if decayed else 1.) * update
    return p


@pytest.mark.parametrize('algorithm', [sgdw, lars, lamb], ids=['sgdw', 'lars', 'lamb'])
def test_trajectories_are_those_of_the_papers(model: keras.Model, algorithm: Callable[..., np.ndarray]) -> None:
    """Four steps; bias, gamma and beta have neither weight decay nor a rate of their own."""
    random = np.random.default_rng(3)
    optimizer = build_optimizer(SolverConfig(optimizer=algorithm.__name__, weight_decay=DECAY), Table(RATES), model)
    variables = model.trainable_variables
    starts = [random.normal(size=v.shape).astype(np.float32) for v in variables]
    gradients = [[random.normal(size=v.shape).astype(np.float32) for v in variables] for _ in RATES]
    for variable, start in zip(variables, starts, strict=True):
        variable.assign(start)
    for step_gradients in gradients:
        optimizer.apply_gradients(zip(map(tf.constant, step_gradients), variables, strict=True))
    for number, (variable, start) in enumerate(zip(variables, starts, strict=True)):
        is_kernel = variable.name.split(':')[0].endswith('kernel')
        expected = algorithm(start, [each[number] for each in gradients], is_kernel)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=5e-6, err_msg=variable.name)
    assert int(optimizer.iterations) == 4
    slots = sum(v.shape == variables[0].shape for v in optimizer.variables)
    assert slots == (2 if algorithm is lamb else 1)


_IDENTITIES = 'Identity', 'IdentityN'


@pytest.mark.parametrize('name', ['sgd', 'sgdw', 'adamw', 'lars', 'lamb'])
def test_no_sum_of_three_terms(model: keras.Model, name: str) -> None:
    """TensorFlow would add them in the order in which threads compute them: workers and runs would differ.

    The gradients are sums themselves, as those of shared weights are.
    """
    optimizer = build_optimizer(SolverConfig(optimizer=name, weight_decay=.5), Table([.1]), model)
    variables = model.trainable_variables

    @tf.function
    def update() -> None:
        optimizer.apply_gradients([(tf.random.uniform(v.shape) + tf.random.uniform(v.shape), v) for v in variables])

    def is_sum(tensor: tf.Tensor) -> bool:
        while tensor.op.type in _IDENTITIES:     # TensorFlow removes them before it joins sums
            tensor = tensor.op.inputs[tensor.value_index]
        return tensor.op.type in ('Add', 'AddV2', 'AddN') and tensor.shape.rank > 0

    for each in update.get_concrete_function().graph.get_operations():
        if each.type not in _IDENTITIES and each.outputs and is_sum(each.outputs[0]):
            assert not any(map(is_sum, each.inputs)), each


def test_tensorflow_addons_serves_its_stack(model: keras.Model) -> None:
    for name in ('sgdw', 'lamb'):
        optimizer = build_optimizer(SolverConfig(optimizer=name), Table([.1]), model)
        modules = [base.__module__.split('.')[0] for base in type(optimizer).__mro__]
        assert ('tensorflow_addons' in modules) is keras.__version__.startswith('2')
