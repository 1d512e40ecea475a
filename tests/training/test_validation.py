"""When a run is evaluated, what an evaluation leaves behind, and what follows it."""
from __future__ import annotations

import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.evaluation.validation import Evaluated
from mrcnn_tf.training.loggers import TensorBoard
from mrcnn_tf.training.validation import Evaluations, Outcome, Validation, describe, evaluation_interval
from mrcnn_tf.weights.history import History


class Run:
    """The parts of a run whose evaluation at step N has the AP `values[N]`."""

    def __init__(self, directory: pathlib.Path, values: dict[int, float], patience: int = 0) -> None:
        self.values, self.lines, self.signals, self.events = values, [], SimpleNamespace(name=''), []
        self.evaluations = Evaluations(self._evaluate, directory, History(directory), patience, self.signals,
                                       self.lines.append, [TensorBoard(directory / 'logs')], [self])
        self.model = SimpleNamespace(optimizer=SimpleNamespace(iterations=tf.Variable(0)), stop_training=False)

    def _evaluate(self, prefix: pathlib.Path, progress: Any) -> Evaluated:
        progress(.5)
        step = int(prefix.name.removeprefix('step-'))
        return Evaluated({**dict.fromkeys([f'bbox/{name}' for name in ('AP50', 'AP75', 'APs', 'APm', 'APl')]),
                          'bbox/AP': self.values[step], 'val_loss': 2 * self.values[step]},
                         {'predictions/7': np.full([2, 3, 3], step, np.uint8)})

    def on_test_begin(self) -> None:
        self.events.append('begin')

    def on_test_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self.events.append(logs['fraction'])

    def on_test_end(self) -> None:
        self.events.append('end')

    def validation(self, interval: int = 2, total: int = 7) -> Validation:
        validation = Validation(interval, total, self.evaluations, tf.distribute.get_strategy(), 1)
        validation.set_model(self.model)
        return validation

    def train(self, validation: Validation, steps: int) -> None:
        """Call the callback after each step until it stops."""
        while self.model.optimizer.iterations.numpy() < steps and not self.model.stop_training:
            self.model.optimizer.iterations.assign_add(1)
            validation.on_train_batch_end(0, {})


@pytest.mark.parametrize(('train', 'manifest', 'interval'), [
    (TrainConfig(), 'val.json', 9), (TrainConfig(evaluate_every=25), 'val.json', 25),
    (TrainConfig(evaluate_every=0), 'val.json', 0), (TrainConfig(evaluate_every=25), None, 0)],
    ids=['a tenth of the run', 'set', 'never', 'no set'])
def test_the_interval(train: TrainConfig, manifest: str | None, interval: int) -> None:
    assert evaluation_interval(train, manifest, 85) == interval


def test_an_evaluation_is_recorded_and_reported(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, {2: .25, 4: .5, 6: .125, 7: .375})
    validation = run.validation()
    run.train(validation, 7)
    assert validation.outcome is Outcome.CONTINUE and not run.model.stop_training
    assert [(row.step, row.values['bbox/AP']) for row in History(tmp_path).rows] == [
        (2, .25), (4, .5), (6, .125), (7, .375)]
    assert run.events == 4 * ['begin', .5, 'end']
    assert [line.partition(' s)')[2] for line in run.lines] == [', the best so far', ', the best so far', '', '']
    assert run.lines[0].startswith(
        'step 2  validation: bbox AP 0.250, AP50 -, AP75 -, APs -, APm -, APl -; loss 0.500 (')
    events = EventAccumulator(str(tmp_path / 'logs' / 'validation')).Reload()
    for tag, factor in (('bbox/AP', 1), ('loss', 2)):    # the losses have the names of training
        assert {event.step: tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)} == {
            step: factor * value for step, value in run.values.items()}
    for event in events.Tensors('predictions/7'):    # width, height, and the PNG
        png = tf.make_ndarray(event.tensor_proto)[2]
        assert (tf.io.decode_png(png).numpy() == np.full([2, 3, 3], event.step)).all()


def test_training_ends_without_improvement_and_a_resumed_run_remembers(tmp_path: pathlib.Path) -> None:
    values = {2: .5, 4: .4, 6: .3, 7: .2}
    run = Run(tmp_path, values, patience=2)
    validation = run.validation()
    run.train(validation, 7)
    assert validation.outcome is Outcome.END and run.model.optimizer.iterations.numpy() == 6
    resumed = Run(tmp_path, values, patience=2)
    validation = resumed.validation()
    validation.resume(6)
    assert validation.outcome is Outcome.END and not resumed.events
    patient = Run(tmp_path, values, patience=3)
    validation = patient.validation()
    validation.resume(6)
    assert validation.outcome is Outcome.CONTINUE


def test_a_signal_ends_an_evaluation_and_a_resumed_run_repeats_it(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, {2: .5})
    validation = run.validation()
    run.signals.name = 'SIGTERM'
    run.train(validation, 7)
    assert validation.outcome is Outcome.STOP and run.model.optimizer.iterations.numpy() == 2
    assert run.events == ['begin', 'end'] and not History(tmp_path).rows
    resumed = Run(tmp_path, {2: .5})
    resumed.validation().resume(2)
    assert [row.step for row in History(tmp_path).rows] == [2]
    resumed.validation().resume(2)
    assert len(resumed.lines) == 1


def test_a_run_that_stops_is_not_evaluated(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, {})
    validation = run.validation(interval=1)
    run.model.stop_training = True
    run.model.optimizer.iterations.assign(1)
    validation.on_train_batch_end(0, {})
    assert not run.events


def test_the_line_of_an_rpn_has_recalls() -> None:
    names = ('AR@50', 'AR@300', 'AR@1000', 'ARs@1000', 'ARm@1000', 'ARl@1000')
    assert describe({f'recall/{name}': .5 for name in names}) == (
        'recall AR@50 0.500, AR@300 0.500, AR@1000 0.500, ARs@1000 0.500, ARm@1000 0.500, ARl@1000 0.500')
