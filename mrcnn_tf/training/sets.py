"""The sets that a run reads, opened and compared with the model and with each other before the first step."""
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
    """Return the training set, and the categories of the model: the set's, or those of a model that is there.

    Opens `data.validation` too, and warns of what makes its numbers mean little.

    Raises:
        TrainingError: a training set without positives, a set with other categories than the model, another number of
            categories than model.num_classes.
        ManifestError, ConfigError, InputError: a set cannot be used.
    """
    path = config.data.train
    if not path:
        raise TrainingError('data.train is not set; give data.train=NAME.json, the manifest that `mrcnn convert` wrote')
    manifest = Manifest.read(path)
    begun = bool(steps_in(model_dir / 'checkpoints'))
    categories = read(model_dir)[1] if begun else manifest.categories
    _check_categories(f'data.train {path}', manifest, str(model_dir), categories, 'give another --model-dir')
    _check_positives(path, manifest)
    if len(categories) != config.model.num_classes:
        raise TrainingError(f'{model_dir if begun else path} has {len(categories)} categories and model.num_classes is '
                       f'{config.model.num_classes}; set model.num_classes={len(categories)}')
    check(path, config)
    if config.data.validation:
        _check_validation(config, manifest, categories, str(model_dir) if begun else f'data.train {path}')
    return manifest, categories


def _check_positives(path: str, manifest: Manifest) -> None:
    counts = manifest.counts
    if counts.images and not counts.objects:
        raise TrainingError(f'data.train {path}: none of its {counts.images} images has an object, so there is nothing '
                            'to learn; convert annotations that have some')
    if counts.images and counts.objects == counts.crowds:
        raise TrainingError(f'data.train {path}: all {counts.objects} objects are crowds, so none is a positive; '
                            'annotate single objects (iscrowd 0) and convert again')


def _check_validation(config: Config, training: Manifest, categories: Sequence[Category], origin: str) -> None:
    path = str(config.data.validation)
    validation = Manifest.read(path)
    _check_categories(f'data.validation {path}', validation, origin, categories,
                      'convert both sets with the same categories')
    check(path, config, training=False)
    for warning in _doubts(config, training, validation):
        _log.warning('data.validation %s: %s', path, warning)


def _check_categories(name: str, manifest: Manifest, other: str, known: Sequence[Category], remedy: str) -> None:
    """Raises TrainingError for the first category of a set that is not among the known ones, by id and name."""
    names = {category.id: category.name for category in known}
    for category in manifest.categories:
        if names.get(category.id) != category.name:
            there = f'{names[category.id]!r}' if category.id in names else 'not there'
            raise TrainingError(f'{name}: category {category.id} is {category.name!r}, and in {other} it is {there}; '
                           f'{remedy}')


def _doubts(config: Config, training: Manifest, validation: Manifest) -> Iterator[str]:
    counts = validation.counts
    if counts.objects == counts.crowds:
        yield 'it has no object that is not a crowd, so no metric can be computed on it'
    elif config.model.kind == 'mask_rcnn' and not validation.any_masks:
        yield 'its objects have no masks, so masks are not evaluated'
    common = {shard.sha256 for shard in validation.shards} & {shard.sha256 for shard in training.shards} - {''}
    if common or (validation.source, counts) == (training.source, training.counts):
        yield (f'it holds the same images as data.train {config.data.train}, so its metrics say nothing about other '
               'images')
