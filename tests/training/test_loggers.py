"""Loggers, with fakes of wandb and mlflow that record what they are given."""
from __future__ import annotations

import importlib.machinery
import json
import pathlib
import sys
import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import Config, ConfigError, validate
from mrcnn_tf.training import loggers
from mrcnn_tf.training.callbacks import TrainingError
from mrcnn_tf.training.loggers import TensorBoard, opened

PICTURE = np.zeros([2, 3, 3], np.uint8)


class Package(types.ModuleType):
    """A module that records the calls of its functions and of the run that they return."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.id = self.run_id = f'id of {name}'
        self.info = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            if self.error:
                raise self.error
            self.calls.append((name, *args, options))
            return self
        return call

    def named(self, name: str) -> list[Any]:
        """Return the arguments of the calls of a function."""
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> dict[str, Package]:
    packages = {name: Package(name) for name in ('wandb', 'mlflow')}
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    return packages


def config(*names: str) -> Config:
    settings = Config()
    settings.train.loggers = list(names)
    return settings


def test_a_full_disk_for_tensorboard_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, f'{tmp_path}/events; No space left on device')

    for name in ('scalar', 'create_file_writer'):
        monkeypatch.setattr(tf.summary, name, full)
        with pytest.raises(TrainingError, match=f'^{tmp_path}: the losses cannot be written .No space left on device.'):
            TensorBoard(tmp_path).write(1, {'loss': 1.0})


def test_weights_and_biases(tmp_path: pathlib.Path, package: dict[str, Package], monkeypatch: pytest.MonkeyPatch
                            ) -> None:
    monkeypatch.setenv('WANDB_PROJECT', 'cells')
    wandb = package['wandb']
    with opened(config('wandb'), tmp_path / 'mine') as logs:
        logs[0].write(20, {'loss': .5, 'images_per_second': float('nan')})
        logs[0].write(20, {'bbox/AP': .25, 'bbox/APl': None}, {'predictions/7': PICTURE}, 'validation')
    [(options,)] = wandb.named('init')
    assert {key: options[key] for key in ('project', 'name', 'resume', 'dir')} == {
        'project': 'cells', 'name': 'mine', 'resume': None, 'dir': str(tmp_path / 'mine' / 'logs')}
    assert len(options['id']) == 8 and options['config']['solver']['learning_rate'] == .02
    assert wandb.named('define_metric') == [('*', {'step_metric': 'step'})]
    assert [values for values, _ in wandb.named('log')] == [
        {'loss': .5, 'step': 20},
        {'validation/bbox/AP': .25, 'validation/predictions/7': wandb, 'step': 20}]
    assert wandb.calls[-1] == ('finish', {'exit_code': 0})
    assert json.loads((tmp_path / 'mine' / 'loggers.json').read_text()) == {'wandb': 'id of wandb'}
    with pytest.raises(ZeroDivisionError), opened(config('wandb'), tmp_path / 'mine'):
        _ = 1 / 0
    [again] = wandb.named('init')[1]
    assert (again['id'], again['resume']) == ('id of wandb', 'allow')
    assert wandb.calls[-1] == ('finish', {'exit_code': 1})


def test_mlflow(tmp_path: pathlib.Path, package: dict[str, Package]) -> None:
    mlflow = package['mlflow']
    with opened(config('mlflow'), tmp_path / 'mine') as logs:
        logs[0].write(40, {'recall/AR@1000': .5, 'bbox/AP/a:b/..': 1.}, {'predictions/7': PICTURE}, 'validation')
    assert mlflow.named('start_run') == [({'run_id': None, 'run_name': 'mine'},)]
    [(parameters, _)] = mlflow.named('log_params')
    assert parameters['solver.learning_rate'] == .02 and parameters['train.loggers'] == ['mlflow']
    assert mlflow.named('log_dict')[0][1] == 'config.yaml'
    # MLflow refuses other characters than _-./ and blanks, and names that are no plain path.
    assert mlflow.named('log_metrics') == [({'validation/recall/AR_1000': .5, 'validation/bbox/AP': 1.}, {'step': 40})]
    assert mlflow.named('log_image')[0][1] == {'artifact_file': 'validation/predictions/7/step-40.png'}
    with opened(config('mlflow'), tmp_path / 'mine'):
        pass
    assert mlflow.named('start_run')[1] == ({'run_id': 'id of mlflow', 'run_name': None},)
    assert len(mlflow.named('log_params')) == 1 and mlflow.named('end_run') == [('FINISHED', {})] * 2


def test_a_missing_package_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(TrainingError, match=r'^train.loggers has wandb, which is not installed; pip install .*wandb\]'):
        loggers.check(['wandb'])


def test_a_tool_that_does_not_start_is_one_line(tmp_path: pathlib.Path, package: dict[str, Package]) -> None:
    package['wandb'].error = RuntimeError('api_key not configured\nrun wandb login')
    with pytest.raises(TrainingError) as caught, opened(config('wandb'), tmp_path):
        pass
    assert str(caught.value).startswith('train.loggers: wandb does not start (') and '\n' not in str(caught.value)
    assert 'api_key not configured' in str(caught.value) and not (tmp_path / 'loggers.json').exists()
    (tmp_path / 'loggers.json').write_text('{"wandb": ')
    with pytest.raises(TrainingError, match='to begin a new run, remove .*loggers.json$'), opened(
            config('wandb'), tmp_path):
        pass


def test_a_failure_later_is_one_warning(tmp_path: pathlib.Path, package: dict[str, Package],
                                        caplog: pytest.LogCaptureFixture) -> None:
    with opened(config('tensorboard', 'mlflow'), tmp_path) as logs:
        package['mlflow'].error = ConnectionError('no route to host')
        for step in (20, 40):
            logs[1].write(step, {'loss': 1.})
    assert [record.message for record in caplog.records] == [
        'mlflow: no route to host; training goes on, and later failures are not shown']


@pytest.mark.parametrize('names', [['wandb', 'wandb'], ['comet']], ids=['twice', 'unknown'])
def test_other_loggers_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match='expected some of tensorboard, wandb and mlflow, each once'):
        validate(config(*names))
