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
from mrcnn_tf.input import records
from mrcnn_tf.input.damage import InputError, explain
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.tuning import PARALLEL, untuned

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
    """Count what training leaves out, in one pass over the records that decodes no image.

    Args:
        manifest: path of the set's manifest.
        config: the function reads `data.keep_empty` and `data.max_objects`.

    Raises:
        ManifestError: the manifest cannot be used.
        InputError: a damaged shard or record.
    """
    described = Manifest.read(manifest)
    labels = len(described.categories) + 1

    def count_labels(record: dict[str, tf.Tensor], chosen: tf.Tensor) -> tf.Tensor:
        """Return the number of chosen objects of each label, int64 [K + 1]."""
        return tf.math.bincount(tf.boolean_mask(record['labels'], chosen), minlength=labels, maxlength=labels,
                                dtype=tf.int64)

    @tf.autograph.experimental.do_not_convert
    def count(serialized: tf.Tensor) -> tf.Tensor:
        record = records.parse(serialized, with_masks=False)
        usable = tf.cast(config.data.keep_empty | has_target(record), tf.int64)
        beyond = usable * tf.maximum(tf.size(record['labels'], tf.int64) - config.data.max_objects, 0)
        images = tf.stack([1, usable, tf.cast(beyond > 0, tf.int64), beyond])
        crowds, others = (count_labels(record, chosen) for chosen in (record['crowd'], ~record['crowd']))
        return tf.concat([images, crowds, others], axis=0)

    counts = tf.data.TFRecordDataset(described.shard_paths(manifest)).map(count, num_parallel_calls=PARALLEL)
    try:
        images, crowds, others = np.split(untuned(counts).reduce(np.zeros(4 + 2 * labels, np.int64), tf.add).numpy(),
                                          [4, 4 + labels])
    except tf.errors.OpError as error:
        raise explain(error, manifest) from error
    crowds_only = tuple(np.flatnonzero((crowds > 0) & (others == 0)).tolist())
    return Survey(*images.tolist())._replace(crowds_only=crowds_only)


def has_target(record: dict[str, tf.Tensor]) -> tf.Tensor:
    """Return whether an image has an object that is not a crowd, bool []."""
    return tf.reduce_any(~record['crowd'])


def with_target(manifest: PathLike, described: Manifest) -> np.ndarray:
    """Return of each record of a set whether it has a target, bool [records], in one pass that decodes no image.

    Raises:
        InputError: a damaged shard or record.
    """
    dataset = tf.data.TFRecordDataset(described.shard_paths(manifest)).map(
        tf.autograph.experimental.do_not_convert(lambda serialized: has_target(records.parse_labels(serialized))),
        num_parallel_calls=PARALLEL, deterministic=True)
    try:
        return np.fromiter(untuned(dataset).as_numpy_iterator(), bool)
    except tf.errors.OpError as error:
        raise explain(error, manifest) from error


def counted(manifest: PathLike, described: Manifest, config: Config) -> Survey:
    """Return what `survey` returns, from the manifest alone if it holds the counts."""
    data, counts = config.data, described.counts
    # The manifest does not say which images and classes have crowds only.
    if described.max_objects_per_image > data.max_objects or counts.crowds:
        return survey(manifest, config)
    return Survey(counts.images, counts.images - (0 if data.keep_empty else counts.images_without_objects), 0, 0)


def count_usable(manifest: PathLike, described: Manifest, config: Config, with_masks: bool) -> int:
    """Return the number of images that an epoch uses, and log what is left out.

    Reads the records only if the manifest does not hold the counts.

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
