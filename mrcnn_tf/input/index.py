"""Positions of the records in the shards of a set, so that a worker reads only its own ones and a resumed run begins
where it stopped, without a pass over the data.

The records of a set are numbered from 0, in the order of the shards. For each record, a TFRecord file holds its length
(8 bytes), the checksum of the length (4), the record, and its checksum (4).
"""
from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from mrcnn_tf.files import open_regular
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.manifest import Manifest

_AROUND = 16            # bytes around a record
_THREADS = 16           # that scan shards: they wait for the storage
_BUFFER = 256 << 10     # bytes that a reader asks the storage for


@dataclass(frozen=True)
class Index:
    """Where the records of a set are.

    Attributes:
        files: paths of the shards.
        shards: int32 [records], the shard of each record.
        starts: int64 [records], its first byte in the shard.
        firsts: int64 [shards + 1], the number of the first record of each shard; at the end, the number of records.
    """
    files: list[str]
    shards: np.ndarray
    starts: np.ndarray
    firsts: np.ndarray

    @classmethod
    def of(cls, manifest: str | os.PathLike[str], described: Manifest) -> Index:
        """Return the index of a set; reads 8 bytes of each record.

        Raises:
            InputError: a shard does not hold the records that the manifest lists.
        """
        files = described.shard_paths(manifest)
        with ThreadPoolExecutor(_THREADS) as pool:
            starts = list(pool.map(_starts, files))
        for shard, file, found in zip(described.shards, files, starts, strict=True):
            if len(found) != shard.records:
                raise InputError(f'{file}: holds {len(found)} complete records, the manifest lists {shard.records}; '
                                 'copy the shard again or convert the data again')
        counts = [len(each) for each in starts]
        return cls(files, np.repeat(np.arange(len(files), dtype=np.int32), counts),
                   np.concatenate([np.zeros(0, np.int64), *starts]), np.cumsum([0, *counts], dtype=np.int64))

    def numbers(self, shard: tf.Tensor) -> tf.data.Dataset:
        """Return the numbers of the records of a shard, int64 []."""
        firsts = tf.constant(self.firsts)
        return tf.data.Dataset.range(firsts[shard], firsts[shard + 1])

    def read(self, number: tf.Tensor) -> tf.data.Dataset:
        """Return a dataset of one serialized record, string []; its checksums are compared.

        Call it in a function of a dataset, such as of `flat_map`: TensorFlow cannot save the graph of this one alone.
        """
        start = tf.constant(self.starts)[number]
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.constant(self.files)[tf.constant(self.shards)[number]], compression_type='',
            buffer_size=tf.constant(_BUFFER, tf.int64), byte_offsets=start)
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)


def _starts(file: str) -> np.ndarray:
    """Return the first byte of each complete record of a shard, int64 [records]."""
    starts, start = [], 0
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        while start + _AROUND <= size:
            length, = struct.unpack('<Q', os.pread(stream.fileno(), 8, start))
            if start + _AROUND + length > size:
                break
            starts.append(start)
            start += _AROUND + length
    return np.array(starts, np.int64)
