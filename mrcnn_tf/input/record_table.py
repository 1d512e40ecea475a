"""Sizes and numbers of objects of the records of a set: read in one pass, then kept beside the manifest.

The file `.NAME.table` holds the sha256 of the manifest as text and a newline, then the arrays of `RecordTable`. It is
written again if the manifest has changed, and not kept where the directory cannot be written.
"""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.input import records
from mrcnn_tf.input.damage import explain
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.tuning import PARALLEL, untuned

_TOGETHER = 256      # records whose counts are added at once
_SHA = 65            # bytes of the sha256 and the newline

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class RecordTable:
    """What `read_table` returns.

    Attributes:
        sizes: int32 [records, 2], height and width of the image.
        objects: int32 [records], crowds included.
        crowds: int32 [records].
        crowds_only: uint8 [K + 1], 1 for labels whose objects are all crowds.
    """
    sizes: np.ndarray
    objects: np.ndarray
    crowds: np.ndarray
    crowds_only: np.ndarray

    @property
    def has_target(self) -> np.ndarray:
        """Of each record, whether it has an object that is not a crowd, bool [records]."""
        return self.objects > self.crowds


def read_table(manifest: PathLike, described: Manifest) -> RecordTable:
    """Return the table of a set, from the file beside the manifest if there is one, else in a pass over the records.

    Raises:
        InputError: a damaged shard or record.
    """
    manifest = pathlib.Path(manifest)
    sha, kept = hashlib.sha256(files.read_bytes(manifest)).hexdigest(), manifest.parent / f'.{manifest.stem}.table'
    found = _read(kept, sha, described)
    if found is None:
        found = _count(manifest, described)
        with contextlib.suppress(OSError), files.atomic_path(kept) as temporary:
            temporary.write_bytes(b''.join([f'{sha}\n'.encode(), *(
                getattr(found, each.name).tobytes() for each in dataclasses.fields(found))]))
    return found


def _read(path: pathlib.Path, sha: str, described: Manifest) -> RecordTable | None:
    """Return the table in a file, None if there is none of this manifest."""
    count, labels = described.counts.images, len(described.categories) + 1
    try:
        data = files.read_bytes(path)
    except OSError:
        return None
    if len(data) != _SHA + 16 * count + labels or data[:_SHA] != f'{sha}\n'.encode():
        return None
    sizes, counts = np.frombuffer(data, np.int32, 4 * count, _SHA).reshape(2, 2 * count)
    crowds_only = np.frombuffer(data, np.uint8, labels, _SHA + 16 * count)
    objects, crowds = counts.reshape(2, count)
    return RecordTable(sizes.reshape(count, 2), objects, crowds, crowds_only)


def _count(manifest: PathLike, described: Manifest) -> RecordTable:
    """Return the table, in a pass that decodes no image."""
    labels = len(described.categories) + 1

    def of_label(record: dict[str, tf.Tensor], chosen: tf.Tensor) -> tf.Tensor:
        """Return the number of chosen objects of each label, int32 [K + 1]."""
        return tf.math.bincount(tf.boolean_mask(record['labels'], chosen), minlength=labels, maxlength=labels)

    @tf.autograph.experimental.do_not_convert
    def counts(serialized: tf.Tensor) -> tf.Tensor:
        record = records.parse_labels(serialized)
        crowd, size = record['crowd'], records.parse_size(serialized)
        sums = tf.stack([size['height'], size['width'], tf.size(crowd), tf.reduce_sum(tf.cast(crowd, tf.int32))])
        return tf.concat([sums, of_label(record, crowd), of_label(record, ~crowd)], axis=0)

    dataset = tf.data.TFRecordDataset(described.shard_paths(manifest)).map(
        counts, num_parallel_calls=PARALLEL, deterministic=True).batch(_TOGETHER)
    of_records, totals = [np.zeros([0, 4], np.int32)], np.zeros(2 * labels, np.int64)
    try:
        for block in untuned(dataset).as_numpy_iterator():
            of_records.append(block[:, :4])
            totals += block[:, 4:].sum(axis=0)
    except tf.errors.OpError as error:
        raise explain(error, manifest) from error
    sizes, objects, crowds = np.split(np.concatenate(of_records), [2, 3], axis=1)
    crowds_only = (totals[:labels] > 0) & (totals[labels:] == 0)
    return RecordTable(sizes, objects[:, 0], crowds[:, 0], crowds_only.astype(np.uint8))
