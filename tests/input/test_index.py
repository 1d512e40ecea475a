"""Positions of records: batches of a resumed run and of several workers are those of one uninterrupted pass."""
from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.index import Index
from mrcnn_tf.input.manifest import Manifest
from tests.input.small_sets import example, write_set


def test_positions_are_those_of_the_file_format(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(number) for number in range(3)])
    described = Manifest.read(path)
    index = Index.of(path, described)
    serialized = list(tf.data.TFRecordDataset(index.files).as_numpy_iterator())
    for number, record in enumerate(serialized):
        place = pathlib.Path(index.files[index.shards[number]]).read_bytes()[index.starts[number]:]
        assert place[12:12 + len(record)] == record
        assert list(tf.data.Dataset.range(number, number + 1).flat_map(index.read).as_numpy_iterator()) == [record]
    assert index.firsts[-1] == 3 and np.all(np.diff(index.firsts) == [shard.records for shard in described.shards])


def test_a_shard_with_fewer_records_than_listed_is_named(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(1), example(2)], shards=1)
    described = Manifest.read(path)
    file = pathlib.Path(described.shard_paths(path)[-1])
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=f'^{file}: holds 1 complete records, the manifest lists 2; copy the'):
        Index.of(path, described)
