"""Callbacks, called by hand as `fit` would call them."""
from __future__ import annotations

import io
import math
import os
import pathlib
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrcnn_tf.training import callbacks as module
from mrcnn_tf.training.callbacks import (
    DeferredSignals,
    ProgressBar,
    SaveCheckpoints,
    TensorBoardScalars,
    TerminateOnNonFinite,
    TerminateWithoutPositives,
    TrainingError,
)
from mrcnn_tf.training.schedules import Steps


class Model:
    """The attributes of a model that callbacks use."""
    def __init__(self) -> None:
        self.optimizer = SimpleNamespace(iterations=tf.Variable(0))
        self.distribute_strategy = tf.distribute.get_strategy()
        self.last_image_ids = tf.constant([41, 42], tf.int64)
        self.trainable_variables = [tf.Variable([1.0, 2.0], name='kernel')]
        self.stop_training = False


def after_step(callback: object, model: Model, **logs: float) -> None:
    model.optimizer.iterations.assign_add(1)
    callback.set_model(model)
    callback.on_train_batch_end(0, logs)


class Clock:
    """Replaces time.perf_counter by an attribute that the test sets."""
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, 'perf_counter', lambda: self.now)


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


def test_checkpoints_are_saved_at_intervals_and_at_the_end() -> None:
    checkpoints, model = RecordedCheckpoints(), Model()
    save = SaveCheckpoints(checkpoints, 3, 7, lambda step: False)
    for _ in range(7):
        after_step(save, model, loss=1.0)
    assert checkpoints.steps == [3, 6, 7]
    assert not model.stop_training


def test_the_stop_condition_saves_and_stops() -> None:
    checkpoints, model = RecordedCheckpoints(), Model()
    save = SaveCheckpoints(checkpoints, 3, 7, lambda step: step == 2)
    after_step(save, model, loss=1.0)
    assert not model.stop_training
    after_step(save, model, loss=1.0)
    assert checkpoints.steps == [2]
    assert model.stop_training


def test_weights_that_are_not_finite_are_not_saved() -> None:
    checkpoints, model = RecordedCheckpoints(), Model()
    model.trainable_variables[0].assign([1.0, math.nan])
    with pytest.raises(TrainingError, match='step 1: weights of kernel'):
        after_step(SaveCheckpoints(checkpoints, 1, 7, lambda step: False), model, loss=1.0)
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


def test_scalars_are_means_over_the_interval(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, model = Clock(monkeypatch), Model()
    scalars = TensorBoardScalars(tmp_path, Steps(0.5, [2, 4], 0.1), every=2, total=5, batch_size=8)
    for seconds, loss in ((60.0, 1.0), (2.0, 3.0), (4.0, 5.0), (4.0, 6.0), (1.0, 7.0)):
        clock.now += seconds
        after_step(scalars, model, loss=loss, loss_mask=loss / 2)
    events = EventAccumulator(str(tmp_path)).Reload()
    def read(tag: str) -> dict[int, float]:
        return {event.step: tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)}
    assert read('loss') == {2: 2.0, 4: 5.5, 5: 7.0}
    assert read('loss_mask') == {2: 1.0, 4: 2.75, 5: 3.5}
    # The first step, of a minute, is not timed. Then 8 images in 2 s, 16 in 8 s, 8 in 1 s.
    assert read('images_per_second') == {2: 4.0, 4: 2.0, 5: 8.0}
    np.testing.assert_allclose(list(read('learning_rate').values()), [0.5, 0.05, 0.005], rtol=1e-6)


def test_progress_is_printed_as_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, model, stream = Clock(monkeypatch), Model(), io.StringIO()
    with ProgressBar(every=2, total=100, batch_size=8, console=Console(file=stream)) as bar:
        bar.set_model(model)
        bar.on_train_begin()
        for seconds, loss in ((60.0, 1.0), (2.0, 3.0), (2.0, 5.0)):
            clock.now += seconds
            after_step(bar, model, loss=loss, loss_mask=loss / 2, positive_rois=3.0)
    # 98 steps of 2 s remain.
    assert stream.getvalue().splitlines() == [
        'first step, including compilation: 60.0 s',
        'step 2/100  4.00 images/s  0:03:16 left  loss 2.0000 (mask 1.000)']


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'xterm')
    clock, model, stream = Clock(monkeypatch), Model(), io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    with ProgressBar(every=1, total=3, batch_size=8, console=console) as bar:
        bar.set_model(model)
        bar.on_train_begin()
        for _ in range(2):
            clock.now += 4.0
            after_step(bar, model, loss=1.0, loss_mask=0.5)
    text = stream.getvalue()
    assert '2/3' in text and '2.00 images/s  0:00:04 left  loss 1.0000 (mask 0.500)' in text
    assert text.rindex('\x1b[?25h') > text.rindex('\x1b[?25l')    # the cursor is shown again


def test_a_full_disk_for_tensorboard_is_one_line(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, f'{tmp_path}/events; No space left on device')

    scalars, model = TensorBoardScalars(tmp_path, Steps(0.5, [2, 4], 0.1), every=1, total=5, batch_size=8), Model()
    monkeypatch.setattr(tf.summary, 'scalar', full)
    with pytest.raises(TrainingError, match=f'^{tmp_path}: the losses cannot be written .No space left on device.'):
        after_step(scalars, model, loss=1.0)
    monkeypatch.setattr(tf.summary, 'create_file_writer', full)
    with pytest.raises(TrainingError, match='^[^\\n]*: the losses cannot be written'):
        TensorBoardScalars(tmp_path, Steps(0.5, [2, 4], 0.1), every=1, total=5, batch_size=8)
