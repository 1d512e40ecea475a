"""Callbacks, called by hand as `fit` would call them."""
from __future__ import annotations

import math
import os
import signal
from types import SimpleNamespace

import pytest
import tensorflow as tf

from mrcnn_tf.training.callbacks import (
    DeferredSignals,
    SaveCheckpoints,
    TerminateOnNonFinite,
    TerminateWithoutPositives,
    TrainingError,
)


class Model:
    """The attributes of a model that callbacks use."""
    def __init__(self) -> None:
        self.optimizer = SimpleNamespace(iterations=tf.Variable(0))
        self.distribute_strategy = tf.distribute.get_strategy()
        self.last_image_ids = tf.constant([41, 42], tf.int64)
        self.trainable_variables = [tf.Variable([1.0, 2.0], name='kernel')]
        self.stop_training = False
        self.input_seconds = 0.


def after_step(callback: object, model: Model, **logs: float) -> None:
    model.optimizer.iterations.assign_add(1)
    callback.set_model(model)
    callback.on_train_batch_end(0, logs)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf], ids=str)
def test_a_loss_that_is_not_finite_stops_training_with_its_name(value: float) -> None:
    stop, model = TerminateOnNonFinite(), Model()
    after_step(stop, model, loss=3.0, loss_mask=2.0, loss_classifier=1.0)
    with pytest.raises(TrainingError) as error:
        after_step(stop, model, loss=value, loss_mask=value, loss_classifier=1.0)
    message = str(error.value)
    assert f'step 2: loss_mask is {value} on images [41, 42]' in message
    assert 'loss_classifier' not in message and '\n' not in message and 'solver.learning_rate' in message


def test_consecutive_steps_without_a_positive_stop_training(caplog: pytest.LogCaptureFixture) -> None:
    stop, model = TerminateWithoutPositives(3), Model()
    stop.set_params({'steps': 7})
    for positives in (0., 0., 1., 0., 0.):
        after_step(stop, model, loss=1., positive_anchors=positives, positive_rois=0.)
    with pytest.raises(TrainingError) as error:
        after_step(stop, model, loss=1., positive_anchors=0., positive_rois=0.)
    message = str(error.value)
    assert message.startswith('step 6: none of the last 3 steps had a positive anchor or RoI; the last step used '
                              'images [41, 42]; ')
    assert 'train.stop_without_positives' in message and '\n' not in message
    stop.on_train_end()
    assert not caplog.messages


def test_a_short_run_without_a_positive_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    stop, model = TerminateWithoutPositives(0), Model()
    stop.set_params({'steps': 2})
    for _ in range(2):
        after_step(stop, model, loss=1., positive_rois=0.)
    stop.on_train_end()
    assert caplog.messages == ['none of the 2 steps had a positive anchor or RoI: the model learned only background']


class RecordedCheckpoints:
    """Records the steps of its saves."""
    def __init__(self) -> None:
        self.steps: list[int] = []

    def save(self, step: int) -> None:
        self.steps.append(step)


def test_checkpoints_are_saved_after_the_steps_that_are_due() -> None:
    checkpoints, model = RecordedCheckpoints(), Model()
    save = SaveCheckpoints(checkpoints, lambda step: step in (3, 6, 7), lambda step: False)
    for _ in range(7):
        after_step(save, model, loss=1.0)
    assert checkpoints.steps == [3, 6, 7]
    assert not model.stop_training


def test_the_stop_condition_saves_and_stops() -> None:
    checkpoints, model = RecordedCheckpoints(), Model()
    save = SaveCheckpoints(checkpoints, lambda step: step == 3, lambda step: step == 2)
    after_step(save, model, loss=1.0)
    assert not model.stop_training
    after_step(save, model, loss=1.0)
    assert checkpoints.steps == [2]
    assert model.stop_training


def test_weights_that_are_not_finite_are_not_saved() -> None:
    checkpoints, model = RecordedCheckpoints(), Model()
    model.trainable_variables[0].assign([1.0, math.nan])
    with pytest.raises(TrainingError, match='step 1: weights of kernel'):
        after_step(SaveCheckpoints(checkpoints, lambda step: True, lambda step: False), model, loss=1.0)
    assert checkpoints.steps == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_first_signal_is_deferred_and_the_second_acts_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with DeferredSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.name == number.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
