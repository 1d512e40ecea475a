"""Reports of training, called by hand as `fit` would call them."""
from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrcnn_tf.training import reports as module
from mrcnn_tf.training.loggers import TensorBoard
from mrcnn_tf.training.reports import LogScalars, ProgressBar
from mrcnn_tf.training.schedules import Steps
from tests.training.test_callbacks import Model, after_step


class Clock:
    """Replaces time.perf_counter by an attribute that the test sets."""
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, 'perf_counter', lambda: self.now)


def test_scalars_are_means_over_the_interval(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, model = Clock(monkeypatch), Model()
    scalars = LogScalars([TensorBoard(tmp_path)], Steps(0.5, [2, 4], 0.1), every=2, total=5, batch_size=8)
    for seconds, loss in ((60.0, 1.0), (2.0, 3.0), (4.0, 5.0), (4.0, 6.0), (1.0, 7.0)):
        clock.now += seconds
        model.input_seconds += 0.5
        after_step(scalars, model, loss=loss, loss_mask=loss / 2)
    events = EventAccumulator(str(tmp_path)).Reload()
    def read(tag: str) -> dict[int, float]:
        return {event.step: tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)}
    assert read('loss') == {2: 2.0, 4: 5.5, 5: 7.0}
    assert read('loss_mask') == {2: 1.0, 4: 2.75, 5: 3.5}
    # The first step, of a minute, is not timed. Then 8 images in 2 s, 16 in 8 s, 8 in 1 s.
    assert read('images_per_second') == {2: 4.0, 4: 2.0, 5: 8.0}
    assert read('input_wait') == {2: 0.25, 4: 0.125, 5: 0.5}    # half a second in each step
    assert set(read('memory_mib')) == {2, 4, 5} and read('memory_mib')[5] > 100    # TensorFlow alone needs that
    np.testing.assert_allclose(list(read('learning_rate').values()), [0.5, 0.05, 0.005], rtol=1e-6)


def test_the_time_of_an_evaluation_does_not_count_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, model, stream = Clock(monkeypatch), Model(), io.StringIO()
    with ProgressBar(every=3, total=3, batch_size=8, console=Console(file=stream)) as bar:
        bar.set_model(model)
        bar.on_train_begin()
        for _ in range(3):
            clock.now += 2.0
            after_step(bar, model, loss=1.0, loss_mask=0.5)
            if model.optimizer.iterations.numpy() == 2:
                bar.on_test_begin()
                bar.on_test_batch_end(0, {'fraction': .5})
                clock.now += 1000.0
                bar.on_test_end()
    assert stream.getvalue().splitlines()[1].startswith('step 3/3  4.00 images/s')    # 16 images in 4 s


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
        'step 2/100  4.00 images/s  0:03:16 left  loss 2.0000 (mask 1.000)',
        'about 0:03:14 for the remaining 97 steps, without evaluations']


def test_waiting_for_input_is_reported_once_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, model, stream = Clock(monkeypatch), Model(), io.StringIO()
    with ProgressBar(every=1, total=100, batch_size=8, console=Console(file=stream)) as bar:
        bar.set_model(model)
        bar.on_train_begin()
        for waited in (9.0, 0.1, 0.76, 0.9):       # of steps of 2 s, the first of which compiles
            clock.now += 2.0
            model.input_seconds += waited
            after_step(bar, model, loss=1.0)
    advice, = (line for line in stream.getvalue().splitlines() if 'waited' in line)
    assert advice.startswith('steps waited 38% of the time for their input: the CPUs or the storage of this machine')


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
