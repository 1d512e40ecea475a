"""Errors while batches are read are explained in one line that names the record."""
from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.input.damage import InputError, explain
from mrcnn_tf.input.dataset import evaluation_dataset, training_dataset
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import ManifestError
from mrcnn_tf.input.survey import survey
from tests.input.small_sets import config, example, png, take, thing, write_set


def explained(path: str, masks: bool = False) -> Exception:
    """Return the explained error of reading batches: of a training with masks, or of an evaluation."""
    try:
        take(training_dataset(path, config()) if masks else evaluation_dataset(path, config(), 4), 8)
    except tf.errors.OpError as error:
        return explain(error, path)
    raise AssertionError('no error occurred')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'encoded': b'GIF89a'}, 'PATH: image 5: neither a JPEG nor a PNG; convert it to one'),
    ({'height': 9}, 'PATH: image 5: is 8 x 16, its record says 9 x 16; convert the data again'),
    ({'objects': [thing(label=3)]},
     'PATH: image 5: label 3, expected 1..2; set model.num_classes or convert the data again'),
    ({'objects': [thing(size=(16, 8))]},
     "PATH: image 5: a mask is not of the image's size, 8 x 16; convert the data again"),
    ({'encoded': png(np.ones([8, 16], np.uint8))[:60]},
     'FILE: record 1 (from 0) = image 5: Invalid PNG data, size 60; replace the image file and convert the data again'),
    ({'encoded': b'\xff\xd8\xff\xe0'}, 'FILE: record 1 (from 0) = image 5: jpeg::Uncompress failed. Invalid JPEG data '
                                       'or crop window.; replace the image file and convert the data again'),
    ({'objects': [dataclasses.replace(thing(), mask=thing().mask[:60])]},
     'FILE: record 1 (from 0) = image 5: Invalid PNG data, size 60; replace the image file and convert the data again'),
], ids=['format', 'size', 'label', 'mask_size', 'truncated_png', 'truncated_jpeg', 'truncated_mask'])
def test_an_unusable_record_is_named(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    examples = [dataclasses.replace(example(n), **(changes if n == 5 else {})) for n in range(1, 9)]
    path = write_set(tmp_path, examples)
    error = explained(path, masks='objects' in changes)
    assert isinstance(error, InputError)
    expected = message.replace('PATH', path).replace('FILE', str(tmp_path / 'set-00001-of-00003.tfrecord'))
    assert str(error) == expected


def flip_bit(path: pathlib.Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_a_damaged_shard_is_named(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(n) for n in range(1, 9)])
    shard = tmp_path / 'set-00002-of-00003.tfrecord'
    flip_bit(shard, -1)      # of the last record's checksum
    expected = (f'{shard}: record 1 (from 0) is damaged: its checksum or length is wrong; copy the shard again or '
                'convert the data again')
    assert str(explained(path)) == expected
    for read in (lambda: list(ground_truth(path)), lambda: survey(path, config())):
        with pytest.raises(InputError, match=f'^{re.escape(expected)}$'):
            read()


def test_a_truncated_or_missing_shard_is_named_before_it_is_read(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(n) for n in range(1, 9)])
    dataset = evaluation_dataset(path, config(), 4)
    shard = tmp_path / 'set-00002-of-00003.tfrecord'
    shard.write_bytes(shard.read_bytes()[:-5])
    for make in (training_dataset, survey):
        with pytest.raises(ManifestError, match=f'{shard} has [0-9]+ bytes, expected'):
            make(path, config())
    shard.unlink()      # after the manifest was read
    with pytest.raises(tf.errors.OpError) as caught:
        take(dataset, 8)
    assert str(explain(caught.value, path)) == (
        f'{path}: its shard {shard} is missing; copy it there or convert the data again')


def test_a_record_that_is_not_an_example_is_named(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(1)], shards=1)
    shard = tmp_path / 'set-00000-of-00001.tfrecord'
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(b'no example')
    manifest = pathlib.Path(path)
    manifest.write_text(re.sub(r'"bytes": [0-9]+', f'"bytes": {shard.stat().st_size}', manifest.read_text()))
    assert str(explained(path)).startswith(f'{shard}: record 0 (from 0): Could not parse example input')


def test_paths_with_non_ascii_letters_and_quotes_stay_unchanged(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path / "Zoë's 细胞", [example(1, [thing(label=3)])], shards=1)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        take(evaluation_dataset(path, config(), 1), 1)
    assert str(explain(caught.value, path)) == (
        f'{path}: image 1: label 3, expected 1..2; set model.num_classes or convert the data again')


def test_errors_with_other_causes_are_returned_unchanged(ten_images: str) -> None:
    model = tf.errors.InvalidArgumentError(None, None, 'Incompatible shapes: [2] vs. [3] [Op:AddV2]')
    memory = tf.errors.ResourceExhaustedError(None, None, 'OOM [Op:IteratorGetNext]')
    elsewhere = tf.errors.InvalidArgumentError(None, None, 'Expected size[0] [Op:IteratorGetNext]')   # no bad record
    for error in (model, memory, elsewhere):
        assert explain(error, ten_images) is error
