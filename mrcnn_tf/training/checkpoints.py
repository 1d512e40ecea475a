"""The model directory: config.yaml, categories.json and checkpoints/step-N of weights, optimizer slots and step.

N: optimizer updates done; step-0 holds weights alone, those of an imported model. A checkpoint counts once
TensorFlow's `checkpoint` file, which is replaced in one go, names it; what an interrupted save left is removed by the
next.
"""
from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf import config as configuration
from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.input.manifest import Category, read_categories, write_categories
from mrcnn_tf.model import Detector, build_model
from mrcnn_tf.training.strategies import ALONE, Worker, average_statistics

_IMPORTED = 'step-0'
_PROPOSED = [Category(1, 1, 'object')]    # what an RPN tells from the background, whatever the data's categories are
# How the steps are run and images looked at in tests, not what is learnt: may differ when training is resumed.
_FREE = ('train.strategy', 'train.jit_compile', 'train.checkpoint_every', 'train.keep_checkpoints', 'train.log_every',
         'data.test_scales', 'data.test_flip')


class CheckpointError(ValueError):
    """A model directory that cannot be read or written as asked; the message is one line: where, why, remedy."""


def create(model_dir: pathlib.Path, config: Config, categories: Sequence[Category]) -> None:
    """Writes config.yaml and categories.json; once there are checkpoints, both must be the same as before.

    Of a model that is imported and not trained yet, only its `model` section and its categories must be.

    Raises:
        CheckpointError: the directory belongs to another config or other categories.
        OSError: no permission, the disk is full.
    """
    if find_newest(model_dir / 'checkpoints') is not None:
        _check_same(model_dir, config, categories)
    write_categories(model_dir / 'categories.json', categories)
    configuration.save(config, model_dir / 'config.yaml')    # last: a directory with a config is whole


def read(model_dir: pathlib.Path) -> tuple[Config, list[Category]]:
    """What `create` wrote.

    Raises:
        CheckpointError: not a model directory.
        ConfigError, ManifestError: one of the two files is damaged.
    """
    if not (model_dir / 'config.yaml').is_file():
        raise CheckpointError(f'{model_dir} has no config.yaml; give a model directory that `mrcnn train` wrote')
    return configuration.load(model_dir / 'config.yaml'), read_categories(model_dir / 'categories.json')


def restore_model(model_dir: str | os.PathLike[str], engine: str = 'op'
                  ) -> tuple[Detector, Config, list[Category]]:
    """The model of a directory with its newest weights, not compiled, its config and the categories of its detections.

    Args:
        engine: as `build_model`.

    Raises:
        CheckpointError: not a model directory, nothing saved yet, a checkpoint that is damaged or of another model.
        ConfigError, ManifestError: config.yaml or categories.json is damaged.
    """
    directory = pathlib.Path(model_dir)
    config, categories = read(directory)
    newest = find_newest(directory / 'checkpoints')
    if newest is None:
        raise CheckpointError(f'{directory} has no checkpoint yet; `mrcnn train` writes one every '
                              'train.checkpoint_every steps and at the end')
    model = build_model(config.model, engine)
    _restore_weights(model, newest)
    return model, config, _PROPOSED if config.model.kind == 'rpn' else categories


def save_imported(model_dir: pathlib.Path, model: keras.Model, config: Config, categories: Sequence[Category]) -> None:
    """Makes a model directory of weights that come from elsewhere; training goes on from there.

    Raises:
        OSError: there is such a directory, the disk is full, no permission; nothing is left then.
    """
    with files.atomic_path(model_dir) as directory:
        directory.mkdir()
        create(directory, config, categories)
        try:
            _write(_checkpoint(model=model.variables), directory / 'checkpoints', 1, 0)
        except tf.errors.OpError as error:
            raise OSError(f'{model_dir}: {_reason(error)}; make room there or give another directory') from None


def _restore_weights(model: keras.Model, prefix: pathlib.Path) -> None:
    with _explained(prefix):
        status = _checkpoint(model=model.variables).restore(str(prefix)).expect_partial()    # no optimizer here
        status.assert_existing_objects_matched()


def _write(checkpoint: tf.train.Checkpoint, directory: pathlib.Path, keep: int, step: int) -> None:
    tf.train.CheckpointManager(checkpoint, str(directory), keep, checkpoint_name='step').save(checkpoint_number=step)


class Checkpoints:
    """The checkpoints of a model directory, for a compiled model whose optimizer has its slots."""

    def __init__(self, model_dir: pathlib.Path, model: keras.Model, keep: int, worker: Worker = ALONE) -> None:
        """keep: how many stay, the newest; the chief `worker` writes, and all take part."""
        self.directory = model_dir / 'checkpoints'
        self._worker = worker
        self._keep = keep
        self._model, self._optimizer = model, model.optimizer
        self._checkpoint = _checkpoint(model=model.variables, optimizer=model.optimizer.variables)

    def restore(self) -> int:
        """Restores the newest checkpoint, where there is one, whole; returns its step, 0 without.

        Raises:
            CheckpointError: the checkpoint is damaged, or of another architecture or optimizer.
        """
        newest = find_newest(self.directory)
        if newest is None:
            return 0
        if newest.name == _IMPORTED:
            _restore_weights(self._model, newest)
            return 0
        with _explained(newest):
            status = self._checkpoint.restore(str(newest))
            try:
                status.assert_consumed()
            finally:
                status.expect_partial()    # or TensorFlow lists on stderr what was not consumed, below the one line
        return int(self._optimizer.iterations.numpy())

    def save(self, step: int) -> None:
        """Writes step-N, then forgets the oldest beyond `keep`.

        Raises:
            CheckpointError: the disk is full, no permission; the checkpoints before are as they were.
        """
        average_statistics(self._model)
        # Every worker saves, because variables that are averaged when read need all of them; only the chief's stays.
        with contextlib.nullcontext(self.directory) if self._worker.is_chief else _scratch() as directory:
            try:
                _write(self._checkpoint, directory, self._keep, step)
            except (OSError, tf.errors.OpError) as error:
                raise CheckpointError(f'{directory}: step-{step} cannot be written ({_reason(error)}); the checkpoints '
                                      'before are whole: make room and resume with the same command') from None
            finally:
                _sweep(directory)


def _checkpoint(**parts: Sequence[Any]) -> tf.train.Checkpoint:
    """A checkpoint of variables under their paths.

    Given the model itself, TensorFlow would follow its attributes, and pass over what Keras 3 holds in lists.
    """
    return tf.train.Checkpoint(**{name: _by_path(variables) for name, variables in parts.items()})


def _by_path(variables: Sequence[Any]) -> dict[str, tf.Variable]:
    keras_3 = hasattr(keras, 'Variable')
    named = {v.path if keras_3 else v.name.split(':')[0]: v.value if keras_3 else v for v in variables}
    if len(named) != len(variables):
        raise AssertionError('two variables share a path')
    return named


def find_newest(directory: pathlib.Path) -> pathlib.Path | None:
    """Prefix of the newest whole checkpoint; None where there never was one.

    Raises:
        CheckpointError: the list of checkpoints is damaged, or the files of all that it names are gone.
    """
    if not (directory / 'checkpoint').is_file():
        return None
    named = _named(directory)
    present = [path for path in named if path.with_name(f'{path.name}.index').is_file()]
    if not present:
        raise CheckpointError(f'{directory / "checkpoint"} names no checkpoint that is there; '
                              f'restore the files, or remove {directory} to start again')
    return present[-1]


def _named(directory: pathlib.Path) -> list[pathlib.Path]:
    """Prefixes in TensorFlow's list, the oldest first."""
    state = tf.train.get_checkpoint_state(str(directory))
    return [directory / pathlib.Path(path).name for path in state.all_model_checkpoint_paths] if state else []


def _sweep(directory: pathlib.Path) -> None:
    """Removes step files that the list does not name: what saves that were killed or found the disk full have left."""
    named = {path.name for path in _named(directory)}
    if not named and (directory / 'checkpoint').is_file():
        return    # a list that cannot be read does not mean that there is nothing to keep
    for path in directory.glob('step-*'):
        if path.name.split('.')[0] not in named:
            files.remove(path)


@contextlib.contextmanager
def _scratch() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield pathlib.Path(directory)


@contextlib.contextmanager
def _explained(prefix: pathlib.Path) -> Iterator[None]:
    """Turns what TensorFlow raises for a checkpoint into one line."""
    try:
        yield
    except (AssertionError, ValueError) as error:
        raise CheckpointError(f'{prefix} is of another model or optimizer ({_reason(error)}); '
                              'give another --model-dir') from None
    except (LookupError, tf.errors.OpError) as error:
        raise CheckpointError(f'{prefix} is damaged ({_reason(error)}); '
                              f'remove {prefix}.* to go on from the checkpoint before') from None


def _reason(error: Exception) -> str:
    lines = str(getattr(error, 'message', None) or error).strip().splitlines()
    return lines[0].split('}} ')[-1][:200] if lines else type(error).__name__


def _check_same(model_dir: pathlib.Path, config: Config, categories: Sequence[Category]) -> None:
    there, categories_there = read(model_dir)
    imported = find_newest(model_dir / 'checkpoints') == model_dir / 'checkpoints' / _IMPORTED
    before, now = dataclasses.asdict(there), dataclasses.asdict(config)
    different = [*(_differences(before['model'], now['model'], 'model.') if imported else _differences(before, now))]
    if list(categories) != categories_there:
        different.append('the categories of the data differ')
    if different:
        raise CheckpointError(
            f'{model_dir} holds another run: {"; ".join(different[:3])}{", ..." if len(different) > 3 else ""}; '
            f'give another --model-dir, or resume with {model_dir / "config.yaml"} as the config')


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, value in there.items():
        if isinstance(value, dict):
            yield from _differences(value, here[key], f'{prefix}{key}.')
        elif value != here[key] and f'{prefix}{key}' not in _FREE:
            yield f'{prefix}{key} is {value} there and {here[key]} here'
