"""Checks of the training and validation set, against the model and each other, before the first step."""
from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator, Sequence

from mrcnn_tf.config import Config
from mrcnn_tf.input.dataset import check
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.training.callbacks import TrainingError
from mrcnn_tf.weights.checkpoint_files import steps_in
from mrcnn_tf.weights.model_directory import read

_log = logging.getLogger(__name__)


def read_sets(config: Config, model_dir: pathlib.Path) -> tuple[Manifest, list[Category]]:
    """Return the manifest of the training set, and the categories of the model.

    The categories are those of the model directory if it has a checkpoint, otherwise those of the training set. Checks
    `data.validation` too, and logs warnings about it.

    Raises:
        TrainingError: the training set has no positives; a set's categories are not the model's; the number of
            categories is not model.num_classes.
        ManifestError, ConfigError, InputError: a set cannot be used.
    """
    path = config.data.train
    if not path:
        raise TrainingError('data.train is not set; give data.train=NAME.json, the manifest that `mrcnn convert` wrote')
    manifest = Manifest.read(path)
    resumed = bool(steps_in(model_dir / 'checkpoints'))
    categories = read(model_dir)[1] if resumed else manifest.categories
    _check_categories(f'data.train {path}', manifest, str(model_dir), categories, 'give another --model-dir')
    _check_positives(path, manifest)
    if len(categories) != config.model.num_classes:
        raise TrainingError(f'{model_dir if resumed else path} has {len(categories)} categories and model.num_classes '
                            f'is {config.model.num_classes}; set model.num_classes={len(categories)}')
    check(path, config)
    if config.data.validation:
        _check_validation(config, manifest, categories, str(model_dir) if resumed else f'data.train {path}')
    return manifest, categories


def _check_positives(path: str, manifest: Manifest) -> None:
    """Raise TrainingError for a training set without an object that can be a positive."""
    counts = manifest.counts
    if counts.images and not counts.objects:
        raise TrainingError(f'data.train {path}: none of its {counts.images} images has an object, so there is nothing '
                            'to learn; convert annotations with objects')
    if counts.images and counts.objects == counts.crowds:
        raise TrainingError(f'data.train {path}: all {counts.objects} objects are crowds, so none is a positive; '
                            'annotate single objects (iscrowd 0) and convert again')


def _check_validation(config: Config, training: Manifest, categories: Sequence[Category], origin: str) -> None:
    """Raise an error if `data.validation` cannot be used, and log warnings about it."""
    path = str(config.data.validation)
    validation = Manifest.read(path)
    _check_categories(f'data.validation {path}', validation, origin, categories,
                      'convert both sets with the same categories')
    needs = [name for name in config.model.needs if name != 'masks']        # metrics of boxes need none
    check(path, config, needs, training=False)
    for warning in _warnings(config, training, validation):
        _log.warning('data.validation %s: %s', path, warning)


def _check_categories(name: str, manifest: Manifest, other: str, known: Sequence[Category], remedy: str) -> None:
    """Raise TrainingError for the first category of a set whose id and name are not those of a known category."""
    names = {category.id: category.name for category in known}
    for category in manifest.categories:
        if names.get(category.id) != category.name:
            known_as = f'{names[category.id]!r}' if category.id in names else 'missing'
            raise TrainingError(f'{name}: category {category.id} is {category.name!r}, and in {other} it is '
                                f'{known_as}; {remedy}')


def _warnings(config: Config, training: Manifest, validation: Manifest) -> Iterator[str]:
    """Yield the reasons why metrics on the validation set would be missing or misleading."""
    counts = validation.counts
    if counts.objects == counts.crowds:
        yield 'it has no objects or only crowds, so no metric can be computed on it'
    elif 'masks' in config.model.needs and not validation.any_masks:
        yield 'its objects have no masks, so masks will not be evaluated'
    common = {shard.sha256 for shard in validation.shards} & {shard.sha256 for shard in training.shards} - {''}
    if common or (validation.source, counts) == (training.source, training.counts):
        yield (f'it holds the same images as data.train {config.data.train}, so its metrics do not measure '
               'generalization')
