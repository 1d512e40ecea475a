"""Where the numbers and pictures of a training go: TensorBoard, Weights & Biases, MLflow.

step: the number of optimizer updates done. Loggers use the tools' own functions instead of their Keras callbacks:
those count the batches of one process, so a resumed run would begin at 0 again, and know nothing of our evaluations.
"""
from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import pathlib
import posixpath
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.text import error_line, write_error
from mrcnn_tf.training.callbacks import TrainingError

_log = logging.getLogger(__name__)

Scalars = Mapping[str, float | None]
Pictures = Mapping[str, np.ndarray]    # uint8 [h, w, 3]


class Logger(Protocol):
    """A place for numbers and pictures."""

    def write(self, step: int, scalars: Scalars, pictures: Pictures | None = None, part: str = 'train') -> None:
        """Write the finite numbers of a step, and pictures; `part` is 'train' or 'validation'."""


def check(names: Sequence[str]) -> None:
    """Raise TrainingError if the package of a logger is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f'train.loggers has {name}, which is not installed; {install(name)}')


@contextlib.contextmanager
def opened(config: Config, model_dir: pathlib.Path) -> Iterator[list[Logger]]:
    """Open the loggers that `train.loggers` names; close them at the end, and tell them if an error ended the training.

    Raises:
        TrainingError: a package is not installed, or its tool refuses to start, such as without a login.
    """
    check(config.train.loggers)
    with contextlib.ExitStack() as stack:
        yield [TensorBoard(model_dir / 'logs') if name == 'tensorboard' else
               stack.enter_context(_SERVICES[name](config, model_dir)) for name in config.train.loggers]


class TensorBoard:
    """Writes files for TensorBoard. Evaluations are a run of their own, whose losses lie beside those of training."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directories = {'train': directory, 'validation': directory / 'validation'}
        self._writers: dict[str, Any] = {}      # created by the first `write`

    def write(self, step: int, scalars: Scalars, pictures: Pictures | None = None, part: str = 'train') -> None:
        """Write the numbers and pictures of a step.

        Raises:
            TrainingError: the disk is full.
        """
        with self._one_line_errors(part):
            if part not in self._writers:
                self._writers[part] = tf.summary.create_file_writer(str(self._directories[part]))
            with self._writers[part].as_default(step=step):
                for name, value in _finite(scalars).items():
                    tf.summary.scalar(name, value)
                for name, picture in (pictures or {}).items():
                    tf.summary.image(name, picture[None])
            self._writers[part].flush()

    @contextlib.contextmanager
    def _one_line_errors(self, part: str) -> Iterator[None]:
        """Replace TensorFlow's error for a full disk (ResourceExhaustedError) by a TrainingError."""
        try:
            yield
        except tf.errors.OpError as error:
            raise TrainingError(f'{self._directories[part]}: the losses cannot be written ({write_error(error)}); '
                                'free disk space and resume with the same command') from None


class _Service:
    """A tool that keeps runs on a server or in files of its own. Use it as a context.

    The model directory's loggers.json has the id of the run, which a resumed training continues. What fails while
    training goes on is a warning, once: hours of training matter more than its log.
    """
    name = ''

    def __init__(self, config: Config, model_dir: pathlib.Path) -> None:
        self._config, self._model_dir, self._file = config, model_dir, model_dir / 'loggers.json'
        self._warned = False

    def _start(self, run_id: str | None) -> str:
        """Begin a run, or continue the one with this id; return the id."""
        raise NotImplementedError

    def _write(self, step: int, scalars: dict[str, float], pictures: Pictures) -> None:
        raise NotImplementedError

    def _finish(self, failed: bool) -> None:
        raise NotImplementedError

    def __enter__(self) -> _Service:
        try:
            ids = files.read_json(self._file) if self._file.exists() else {}
            started = self._start(ids.get(self.name))
        except Exception as error:    # of the tool: no login, no network, a run that was deleted
            again = f'; to begin a new run, remove {self._file}' if self._file.exists() else ''
            raise TrainingError(f'train.loggers: {self.name} does not start ({error_line(error)}); follow its advice '
                                f'or remove it from train.loggers{again}') from None
        files.write_json(self._file, {**ids, self.name: started})
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._warning():
            self._finish(failed=kind is not None)

    def write(self, step: int, scalars: Scalars, pictures: Pictures | None = None, part: str = 'train') -> None:
        """Write the numbers and pictures of a step; those of evaluations are named 'validation/NAME'."""
        prefix = '' if part == 'train' else f'{part}/'
        with self._warning():
            self._write(step, {f'{prefix}{name}': value for name, value in _finite(scalars).items()},
                        {f'{prefix}{name}': picture for name, picture in (pictures or {}).items()})

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:    # of the tool
            if not self._warned:
                _log.warning('%s: %s; training goes on, and later failures are not shown', self.name, error_line(error))
            self._warned = True


class WeightsAndBiases(_Service):
    """Writes to Weights & Biases; its files are in logs/wandb/. Its own variables apply, such as WANDB_MODE=offline."""
    name = 'wandb'

    def _start(self, run_id: str | None) -> str:
        import wandb

        directory = self._model_dir / 'logs'
        directory.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', 'mrcnn-tf'), id=run_id or uuid.uuid4().hex[:8],
            resume='allow' if run_id else None, name=self._model_dir.name, dir=str(directory),
            config=dataclasses.asdict(self._config))
        self._run.define_metric('*', step_metric='step')    # its own counter refuses steps that a resumed run repeats
        return str(self._run.id)

    def _write(self, step: int, scalars: dict[str, float], pictures: Pictures) -> None:
        images = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log({**scalars, **images, 'step': step})

    def _finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow(_Service):
    """Writes to MLflow. Its own variables apply, such as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""
    name = 'mlflow'

    def _start(self, run_id: str | None) -> str:
        import mlflow

        self._mlflow = mlflow
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else self._model_dir.name)
        settings = dataclasses.asdict(self._config)
        if run_id is None:      # parameters of a run cannot change
            mlflow.log_params(dict(_flat(settings)))
        mlflow.log_dict(settings, 'config.yaml')
        return str(run.info.run_id)

    def _write(self, step: int, scalars: dict[str, float], pictures: Pictures) -> None:
        self._mlflow.log_metrics({_permitted(name): value for name, value in scalars.items()}, step=step)
        for name, picture in pictures.items():
            self._mlflow.log_image(picture, artifact_file=f'{_permitted(name)}/step-{step}.png')

    def _finish(self, failed: bool) -> None:
        self._mlflow.end_run('FAILED' if failed else 'FINISHED')


_SERVICES: dict[str, type[_Service]] = {each.name: each for each in (WeightsAndBiases, MLflow)}


def _finite(scalars: Scalars) -> dict[str, float]:
    """Return the finite numbers: the first step has no images_per_second, and metrics without objects are None."""
    return {name: float(value) for name, value in scalars.items() if value is not None and math.isfinite(value)}


def _flat(settings: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested sections by their dotted names."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _permitted(name: str) -> str:
    """Return a name that MLflow accepts: at most 250 letters, digits and _-. / of a path without '.' and '..'."""
    return posixpath.normpath(re.sub(r'[^\w\-. /]', '_', name))[:250]
