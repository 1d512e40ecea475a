"""What training leaves out of a set: images without objects, objects beyond the limit, classes that have crowds only.

G object slots of a batch, K classes.
"""
from __future__ import annotations

import logging
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import Config
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.record_table import read_table

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


class Survey(NamedTuple):
    """How many images and objects of a set training uses."""
    images: int           # in the shards
    usable: int           # images that training uses
    cut_images: int       # usable images with more than G objects
    cut_objects: int      # objects beyond the G that are kept
    crowds_only: tuple[int, ...] = ()     # labels whose objects are all crowds


def survey(manifest: PathLike, config: Config) -> Survey:
    """Count what training leaves out; the records are read only if nobody has done so since the set was converted.

    Args:
        manifest: path of the set's manifest.
        config: the function reads `data.keep_empty` and `data.max_objects`.

    Raises:
        ManifestError: the manifest cannot be used.
        InputError: a damaged shard or record.
    """
    counts = read_table(manifest, Manifest.read(manifest))
    usable = counts.has_target | config.data.keep_empty
    beyond = np.maximum(counts.objects[usable] - config.data.max_objects, 0)
    return Survey(len(usable), int(usable.sum()), int((beyond > 0).sum()), int(beyond.sum()),
                  tuple(np.flatnonzero(counts.crowds_only).tolist()))


def has_target(record: dict[str, tf.Tensor]) -> tf.Tensor:
    """Return whether an image has an object that is not a crowd, bool []."""
    return tf.reduce_any(~record['crowd'])


def counted(manifest: PathLike, described: Manifest, config: Config) -> Survey:
    """Return what `survey` returns, from the manifest alone if it holds what is needed."""
    data, counts = config.data, described.counts
    # The manifest does not say which images and classes have crowds only.
    if described.max_objects_per_image > data.max_objects or counts.crowds:
        return survey(manifest, config)
    return Survey(counts.images, counts.images - (0 if data.keep_empty else counts.images_without_objects), 0, 0)


def count_usable(manifest: PathLike, described: Manifest, config: Config, with_masks: bool) -> int:
    """Return the number of images that an epoch uses, and log what is left out.

    Reads the records only if neither the manifest nor `.NAME.table` beside it holds the counts.

    Raises:
        InputError: no image can be used, or a record is damaged.
    """
    result, counts, data = counted(manifest, described, config), described.counts, config.data
    if result.usable == 0:
        raise InputError(f'{manifest}: no image has an object to train on; annotate objects that are not crowds')
    _log_left_out(manifest, described, data.max_objects, result)
    if with_masks and counts.objects_without_mask:
        _log.warning('%s: %d of %d objects have a box and no mask: they train the boxes and have no mask loss',
                     manifest, counts.objects_without_mask, counts.objects)
    return result.usable


def _log_left_out(manifest: PathLike, described: Manifest, max_objects: int, result: Survey) -> None:
    if result.usable < result.images:
        _log.warning('%s: %d of %d images have no object and are left out (data.keep_empty=true trains on them)',
                     manifest, result.images - result.usable, result.images)
    if result.cut_objects:
        _log.warning('%s: %d objects beyond data.max_objects=%d in %d images are left out, the smallest ones',
                     manifest, result.cut_objects, max_objects, result.cut_images)
    if result.crowds_only:
        names = [described.categories[label - 1].name for label in result.crowds_only]
        _log.warning('%s: all objects of %s are crowds, so the model does not learn to detect that class', manifest,
                     ', '.join(map(repr, names)))
