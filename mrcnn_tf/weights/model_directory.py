"""The model directory: config.yaml, categories.json, checkpoints/step-N and history.csv.

N is the number of optimizer updates. A checkpoint holds weights, optimizer slots and step, and where they are on the
averages of the weights and the loss scale; step-0 holds only the weights of an imported model. Training resumes from
the newest checkpoint with correct checksums (`checkpoint_files.py`). Everything else uses the checkpoint of the best
evaluation (`history.py`), if there is one.
"""
from __future__ import annotations

import contextlib
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mrcnn_tf import config as configuration
from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.files.text import error_line, one_line, write_error
from mrcnn_tf.input.manifest import Category, Manifest, read_categories, write_categories
from mrcnn_tf.layers.precision import inference_precision
from mrcnn_tf.weights import checkpoint_files
from mrcnn_tf.weights.checkpoint_files import CheckpointError, damage, find_newest, number_of, prefix_of, steps_in
from mrcnn_tf.weights.history import History

_log = logging.getLogger(__name__)

AVERAGE = 'average'    # the part of a checkpoint with the moving average of the weights
_PROPOSED = [Category(1, 1, 'object')]    # an RPN has one class, whatever the categories of the data


class Restored(NamedTuple):
    """A model with the weights of a checkpoint, its config, the categories of its detections, and its step."""
    model: Detector
    config: Config
    categories: list[Category]
    step: int


def create(model_dir: pathlib.Path, config: Config, categories: Sequence[Category]) -> None:
    """Write config.yaml and categories.json.

    Raises:
        OSError: permission is missing or the disk is full.
    """
    write_categories(model_dir / 'categories.json', categories)
    configuration.save(config, model_dir / 'config.yaml')    # last: a directory with a config is whole


def read(model_dir: pathlib.Path) -> tuple[Config, list[Category]]:
    """Return the config and the categories of a model directory.

    Raises:
        CheckpointError: it is not a model directory.
        ConfigError, ManifestError: config.yaml or categories.json is damaged.
    """
    if not (model_dir / 'config.yaml').is_file():
        raise CheckpointError(f'{model_dir} has no config.yaml; give a model directory that `mrcnn train` wrote')
    return configuration.load(model_dir / 'config.yaml'), read_categories(model_dir / 'categories.json')


def restore_model(model_dir: str | os.PathLike[str], engine: str = 'op', checkpoint: str | int = 'best',
                  precision: str | None = None) -> tuple[Detector, Config, list[Category]]:
    """Return the model of a directory with its weights, its config and the categories of its detections.

    Args:
        engine: as `build_detector`.
        checkpoint: 'best': that of the best evaluation during training, or the newest if there was none; 'last': the
            newest; or the number of a step. Logs which one is used.
        precision: of convolutions and matrix products: 'float32' or 'bfloat16'; None: that of Keras' global policy.

    Raises:
        CheckpointError: it is not a model directory, or has no such complete checkpoint of this model.
        ConfigError, ManifestError: config.yaml or categories.json is damaged.
        ValueError: another precision.

    Example:
        >>> import mrcnn_tf as m
        >>> detector, config, categories = m.load_detector('runs/mine')
        >>> detector.name, [category.name for category in categories]
        ('mask_rcnn', ['low', 'high'])
    """
    return restore_checkpoint(model_dir, engine, checkpoint, precision)[:3]


def restore_checkpoint(model_dir: str | os.PathLike[str], engine: str = 'op', checkpoint: str | int = 'best',
                       precision: str | None = None) -> Restored:
    """Do what `restore_model` does, and return also the step of the checkpoint."""
    directory = pathlib.Path(model_dir)
    config, categories = read(directory)
    prefix = find_checkpoint(directory, config, str(checkpoint))
    with inference_precision('restore_model', precision):
        model = build_detector(config.model, engine)
    restore_weights(model, prefix)
    return Restored(model, config, categories if model.classifies else _PROPOSED, number_of(prefix))


def find_checkpoint(model_dir: pathlib.Path, config: Config, checkpoint: str) -> pathlib.Path:
    """Return the prefix of the checkpoint that `restore_model` uses, and log which one it is and why.

    Raises:
        CheckpointError: there is no such complete checkpoint, or history.csv is damaged.
    """
    directory = model_dir / 'checkpoints'
    steps = steps_in(directory)
    if checkpoint not in ('best', 'last'):
        return _checkpoint_of_step(directory, checkpoint, steps)
    history = History(model_dir, config.train.best_metric) if checkpoint == 'best' else None
    best = history.best(steps) if history else None
    prefix = find_newest(directory, best.step if best else None)
    if prefix is None:
        raise CheckpointError(f'{model_dir} has no checkpoint yet; `mrcnn train` writes one every '
                              'train.checkpoint_every steps and at the end')
    if history and best and number_of(prefix) == best.step:
        _log.info('%s: the best checkpoint, by %s = %.4f; the newest is step-%d', prefix, history.metric,
                  best.values[str(history.metric)], steps[-1])
    else:
        _log.info('%s: the newest checkpoint', prefix)
    return prefix


def _checkpoint_of_step(directory: pathlib.Path, text: str, steps: Sequence[int]) -> pathlib.Path:
    if not text.isdecimal() or int(text) not in steps:
        there = f'or one of the steps {", ".join(map(str, steps))}' if steps else 'as soon as there is one'
        raise CheckpointError(f'{directory}: there is no checkpoint {one_line(text, 40)!r}; give best, last, {there}')
    prefix = prefix_of(directory, int(text))
    if reason := damage(prefix):
        raise CheckpointError(f'{prefix} is damaged ({reason}); give best, last or another step')
    _log.info('%s: the checkpoint of the given step', prefix)
    return prefix


def save_detector(model_dir: str | os.PathLike[str], detector: Detector, config: Config,
                  categories: Sequence[Category] | None = None) -> None:
    """Write a new model directory of a detector, for `evaluate`, `export`, `predict` and further training.

    Args:
        model_dir: must not exist.
        detector: with the parts that `config.model` names.
        config: of the detector and its data.
        categories: of the labels 1..K; None: those of `config.data.train`.

    Raises:
        CheckpointError: the detector has branches that `config.model` does not name, which would be lost.
        ManifestError: no categories are given, and `config.data.train` is not a manifest.
        OSError: there is such a directory, the disk is full, no permission. Nothing is left then.

    Example:
        >>> import pathlib
        >>> import mrcnn_tf as m
        >>> config = m.load_config('mine.yaml')      # its data.train names the categories
        >>> m.save_detector('runs/new', m.build_detector(config.model), config)
        >>> sorted(path.name for path in pathlib.Path('runs/new').iterdir())
        ['categories.json', 'checkpoints', 'config.yaml']
    """
    if detector.further_branches:
        raise CheckpointError(f'{model_dir}: a config does not name the branch {detector.further_branches[0].name}; '
                              'save the detector to a .keras file, or export it with `export_detector`')
    if categories is None:
        categories = Manifest.read(str(config.data.train)).categories
    save_imported(pathlib.Path(model_dir), detector, config, categories)


def save_imported(model_dir: pathlib.Path, model: keras.Model, config: Config, categories: Sequence[Category]) -> None:
    """Write a model directory with imported weights as step 0, from which training starts.

    Raises:
        OSError: the directory exists, the disk is full or permission is missing. Nothing is written.
    """
    with files.atomic_path(model_dir) as directory:
        directory.mkdir()
        create(directory, config, categories)
        try:
            write(checkpoint_of(model=model.variables), directory / 'checkpoints', 0)
        except tf.errors.OpError as error:
            raise OSError(f'{model_dir}: {write_error(error)}; make room there or give another directory') from None


def restore_weights(model: keras.Model, prefix: pathlib.Path) -> None:
    """Load the weights of a checkpoint: their moving average where it holds one (`solver.ema_decay`).

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    weights_reader(model)(prefix)


def weights_reader(model: keras.Model) -> Callable[[pathlib.Path], None]:
    """Return `restore_weights` as a function of the prefix, which may be called in the scope of a strategy."""
    variables = _by_path(model.variables)

    def read(prefix: pathlib.Path) -> None:
        with explained(prefix):
            stored = tf.train.load_checkpoint(str(prefix))
            averaged = {path for path in variables if stored.has_tensor(_key(AVERAGE, path))}
            checkpoint = tf.train.Checkpoint(**{
                part: {path: each for path, each in variables.items() if (path in averaged) is (part == AVERAGE)}
                for part in ('model', AVERAGE)})
            # Not `restore`, which creates a variable: in the scope of a strategy on all its devices and workers.
            status = checkpoint.read(str(prefix)).expect_partial()    # the checkpoint has an optimizer too
            status.assert_existing_objects_matched()

    return read


def _key(part: str, path: str) -> str:
    """Return TensorFlow's name of a variable in a checkpoint."""
    return f'{part}/{path.replace(".", "..").replace("/", ".S")}/.ATTRIBUTES/VARIABLE_VALUE'


def write(checkpoint: tf.train.Checkpoint, directory: pathlib.Path, step: int) -> None:
    """Write the files of a checkpoint; remove them if writing fails."""
    with files.new_directory(directory):
        try:
            checkpoint.write(str(prefix_of(directory, step)))
        except BaseException:
            checkpoint_files.remove_steps(directory, {step})
            raise
        finally:
            checkpoint_files.remove_unfinished(directory)


def checkpoint_of(**parts: Sequence[Any] | Mapping[str, tf.Variable]) -> tf.train.Checkpoint:
    """Return a checkpoint whose keys are the paths of the variables, or the given ones.

    `tf.train.Checkpoint(model=...)` would follow attributes instead, and miss the layers in lists with Keras 3.
    """
    checkpoint = tf.train.Checkpoint(**{name: variables if isinstance(variables, Mapping) else _by_path(variables)
                                         for name, variables in parts.items()})
    _ = checkpoint.save_counter    # accessing it creates it, and `restore` expects it in the file
    return checkpoint


def _by_path(variables: Sequence[Any]) -> dict[str, tf.Variable]:
    keras_3 = hasattr(keras, 'Variable')
    named = {v.path if keras_3 else v.name.split(':')[0]: v.value if keras_3 else v for v in variables}
    if len(named) != len(variables):
        raise AssertionError('two variables share a path')
    return named


@contextlib.contextmanager
def explained(prefix: pathlib.Path) -> Iterator[None]:
    """Raise TensorFlow's errors about a checkpoint of another model or optimizer as a CheckpointError."""
    try:
        yield
    except (AssertionError, ValueError, LookupError, tf.errors.OpError) as error:
        raise CheckpointError(f'{prefix} is of another model or optimizer ({error_line(error)}); '
                              'give another --model-dir') from None
