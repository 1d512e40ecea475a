"""All that determines how a record becomes an entry of a batch, and the checks of a set against the settings."""
from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass

import tensorflow as tf

from mrcnn_tf.config import Config
from mrcnn_tf.input import augmentation, images, samples, transforms
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.transforms import Sample, Transform

_log = logging.getLogger(__name__)

_OPTIONAL = ('masks', 'proposals')    # keys that a batch holds only if the model needs them

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Recipe:
    """All that determines how a record becomes an entry of a batch."""
    manifest: PathLike
    described: Manifest
    config: Config
    needs: frozenset[str]     # optional keys of the batch
    training: bool
    fixed_canvases: bool = True
    own_transforms: tuple[Transform, ...] = ()
    compact: bool = False     # whether images are uint8 in the batch if they hold whole numbers

    @property
    def uint8_images(self) -> bool:
        """Whether images are uint8 in the batch: `data.antialias` has rounded them, and nothing changes them later."""
        return self.compact and self.config.data.antialias and not self.augmented and not self.own_transforms

    @property
    def files(self) -> list[str]:
        return self.described.shard_paths(self.manifest)

    @property
    def augmented(self) -> bool:
        return self.training and self.config.data.augment.enabled

    @property
    def reads_masks(self) -> bool:
        """Whether masks are read from the records, for the batch or for augmentation alone."""
        return 'masks' in self.needs or self.augmented and augmentation.reads_masks(
            self.config.data.augment, self.described.any_masks)

    @property
    def only_canvas(self) -> list[int] | None:
        """Height and width of the canvas if all images have the same one."""
        canvases = self.config.data.canvases
        return list(canvases[0]) if self.fixed_canvases and len(canvases) == 1 else None

    def canvas(self, shape: tf.Tensor) -> tf.Tensor:
        """Return the canvas, int32 [2], of an image resized to `shape`."""
        data = self.config.data
        return images.choose_canvas(shape, data.canvases) if self.fixed_canvases else (
            images.own_canvas(shape, data.pad_multiple))

    def seed(self, number: tf.Tensor) -> tf.Tensor:
        """Return the seed, int64 [2], of the record with this number."""
        return tf.stack([tf.constant(self.config.train.seed, tf.int64), number])

    def shape(self, record: samples.Record, number: tf.Tensor) -> tf.Tensor:
        """Return the shape, int32 [2], to which the record's image is resized."""
        data, size = self.config.data, samples.original_size(record)
        if not self.training:
            return images.inference_shape(size, data)
        short_side = transforms.random_side(transforms.step_seed(self.seed(number), 0), data.short_sides)
        return images.resized_shape(size[0], size[1], short_side, data.long_side, data.round_sides)

    def transforms(self) -> list[Transform]:
        """Return the transforms of the resized image before those of the user's."""
        data = self.config.data

        def flip(sample: Sample, seed: tf.Tensor) -> Sample:
            return transforms.random_flips(sample, seed, data.flip_horizontal, data.flip_vertical)

        return [flip] if self.training else []


def recipe_of(manifest: PathLike, config: Config, needs: Collection[str] | None, training: bool,
              fixed_canvases: bool = True, own_transforms: tuple[Transform, ...] = ()) -> Recipe:
    """Return the recipe of a set, a config and the optional keys of a batch (None: `config.model.needs`).

    Raises:
        ManifestError, ConfigError, InputError: the manifest or the settings cannot be used, or not together.
    """
    if fixed_canvases:
        images.check_canvases(config.data, training)
    recipe = Recipe(manifest, Manifest.read(manifest), config, _optional(config, needs), training,
                     fixed_canvases, own_transforms)
    _check_content(recipe)
    _check_exif(recipe)
    return recipe


def _optional(config: Config, needs: Collection[str] | None) -> frozenset[str]:
    if needs is None:
        return frozenset(config.model.needs)
    if unknown := sorted(set(needs) - set(_OPTIONAL)):
        raise InputError(f'needs: {unknown[0]!r} is not an optional key of a batch; give some of '
                         f'{", ".join(_OPTIONAL)}')
    return frozenset(needs)


def _check_content(recipe: Recipe) -> None:
    """Raise InputError if the set lacks what the model needs."""
    manifest, described, num_classes = recipe.manifest, recipe.described, recipe.config.model.num_classes
    classes = len(described.categories)
    if described.counts.images == 0:
        raise InputError(f'{manifest}: holds no images; convert annotations that have some')
    if classes > num_classes:
        raise InputError(f'{manifest}: has {classes} categories and model.num_classes is {num_classes}; '
                         f'set model.num_classes={classes}')
    if 'masks' in recipe.needs and described.counts.objects and not described.any_masks:
        raise InputError(f'{manifest}: its objects have no masks; convert annotations with masks or set '
                         'model.kind=faster_rcnn')
    if 'proposals' in recipe.needs and not described.has_proposals:
        raise InputError(f'{manifest}: its records have no proposals; attach some with `mrcnn convert proposals`, or '
                         'set model.kind=faster_rcnn')
    if recipe.augmented and recipe.config.data.augment.copy_paste:
        if described.counts.objects and not described.any_masks:
            raise InputError(f'{manifest}: its objects have no masks, which data.augment.copy_paste needs; convert '
                             'annotations with masks or set data.augment.copy_paste=0')
        if 'proposals' in recipe.needs:
            raise InputError(f'{manifest}: its proposals were computed without the objects that '
                             'data.augment.copy_paste adds; set data.augment.copy_paste=0')


def _check_exif(recipe: Recipe) -> None:
    """Refuse to train on photographs rotated by another rule than that of prediction; in an evaluation, warn."""
    exif = recipe.config.data.exif
    if count := recipe.described.turned_otherwise(exif):
        used = {'apply': 'ignore', 'ignore': 'apply'}[exif]
        text = (f'{recipe.manifest}: it was converted with --exif {used} and has {count} photographs with an EXIF '
                f'rotation, while predict and export treat such photographs by data.exif={exif}')
        if recipe.training:
            raise InputError(f'{text}; set data.exif={used}, or convert the data again with --exif {exif}')
        _log.warning('%s', text)
