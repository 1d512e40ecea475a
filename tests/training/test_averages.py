"""Averages of the weights by their formulas, in NumPy."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.training.averages import Lookahead, MovingAverage

GRADIENTS = [1., -2., 3., 5., -1.]


@pytest.fixture
def model() -> keras.Model:
    """One weight, 1, and SGD with rate 0.1."""
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer='ones')])
    model.build((None, 1))
    model.compile(optimizer=keras.optimizers.SGD(.1))
    return model


def run(model: keras.Model, *callbacks: keras.callbacks.Callback) -> list[float]:
    """Return the weight after each step."""
    weights = []
    for callback in callbacks:
        callback.set_model(model)
    for gradient in GRADIENTS:
        model.optimizer.apply_gradients([(tf.constant([[gradient]]), model.trainable_variables[0])])
        for callback in callbacks:
            callback.on_train_batch_end(0)
        weights.append(float(model.get_weights()[0][0, 0]))
    return weights


def test_the_moving_average_forgets_the_first_weights_fast(model: keras.Model) -> None:
    average = MovingAverage(model, .3)
    weights = run(model, average)
    expected = 1.
    for t, weight in enumerate(weights, start=1):
        d = min(.3, (1 + t) / (10 + t))                    # 2/11, 3/12, .3, .3, .3
        expected = d * expected + (1 - d) * weight
    assert weights == pytest.approx([.9, 1.1, .8, .3, .4])
    assert average.variables[0].numpy().item() == pytest.approx(expected, rel=1e-5)
    average.reset()
    assert average.variables[0].numpy().item() == pytest.approx(.4)


def test_lookahead_moves_the_slow_weights_every_k_steps(model: keras.Model) -> None:
    """k 2, rate 0.5: the weight 1.1 after two steps becomes 1.05, 0.25 after two more 0.65."""
    lookahead = Lookahead(model, 2, .5)
    assert run(model, lookahead) == pytest.approx([.9, 1.05, .75, .65, .75])
    assert lookahead.variables[0].numpy().item() == pytest.approx(.65)


def test_lookahead_is_that_of_tensorflow_addons() -> None:
    tfa = pytest.importorskip('tensorflow_addons', reason='tensorflow-addons is on TensorFlow 2.15 only')
    variable = tf.Variable([[1.]])
    optimizer = tfa.optimizers.Lookahead(tf.keras.optimizers.legacy.SGD(.1), sync_period=2, slow_step_size=.5)
    for gradient in GRADIENTS:
        optimizer.apply_gradients([(tf.constant([[gradient]]), variable)])
    np.testing.assert_allclose(variable.numpy(), [[.75]], rtol=1e-6)
