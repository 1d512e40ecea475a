"""Handmade shards of the TF Object Detection API's format get a manifest, and training reads them."""
from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools.issues import ConversionError
from data_tools.sharding import indexing
from mrcnn_tf import config
from mrcnn_tf.input.dataset import training_dataset
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import Counts, Manifest
from mrcnn_tf.input.record_reader import RecordError


def _file(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _mask(top: int, left: int, bottom: int, right: int) -> bytes:
    mask = np.zeros((64, 96), np.uint8)
    mask[top:bottom, left:right] = 1
    return _file(mask, 'PNG')


def _example(**changes: list[Any]) -> bytes:
    """What Model Garden's create_coco_tf_record writes of an image of 64 x 96 with a car and a crowd of people."""
    features: dict[str, list[Any]] = {
        'image/height': [64], 'image/width': [96], 'image/filename': [b'000000000139.jpg'],
        'image/source_id': [b'139'], 'image/key/sha256': [b'00'], 'image/format': [b'jpg'],
        'image/encoded': [_file(np.full((64, 96, 3), 90, np.uint8), 'JPEG')],
        'image/object/bbox/ymin': [0.25, 0.5], 'image/object/bbox/xmin': [0.125, 0.5],
        'image/object/bbox/ymax': [0.75, 1.0], 'image/object/bbox/xmax': [0.5, 1.0],
        'image/object/class/text': [b'car', b'person'], 'image/object/class/label': [3, 1],
        'image/object/is_crowd': [0, 1], 'image/object/area': [1152.0, 1536.0],
        'image/object/mask': [_mask(16, 12, 48, 48), _mask(32, 48, 64, 96)], **changes}
    kinds = {bytes: (tf.train.BytesList, 'bytes_list'), int: (tf.train.Int64List, 'int64_list'),
             float: (tf.train.FloatList, 'float_list')}
    made = {}
    for name, values in features.items():
        if values:
            kind, field = kinds[type(values[0])]
            made[name] = tf.train.Feature(**{field: kind(value=values)})
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString(deterministic=True)


_EMPTY = {f'image/object/{key}': [] for key in (
    'bbox/ymin', 'bbox/xmin', 'bbox/ymax', 'bbox/xmax', 'class/text', 'class/label', 'is_crowd', 'area', 'mask')}


def _shard(path: pathlib.Path, *examples: bytes) -> pathlib.Path:
    with tf.io.TFRecordWriter(str(path)) as stream:
        for each in examples:
            stream.write(each)
    return path


def test_the_manifest_describes_the_shards(tmp_path: pathlib.Path) -> None:
    first = _shard(tmp_path / 'train-00000-of-00002.tfrecord', _example())
    second = _shard(tmp_path / 'train-00001-of-00002.tfrecord', _example(**_EMPTY), _example())
    before = [path.read_bytes() for path in (first, second)]
    written = indexing.index([first, second], 'train')
    assert [path.read_bytes() for path in (first, second)] == before
    manifest = Manifest.read(tmp_path / 'train.json')
    assert manifest == written and manifest.counts == Counts(3, 1, 4, 2)
    assert manifest.max_objects_per_image == 2 and manifest.has_masks and not manifest.has_proposals
    assert [(c.label, c.name) for c in manifest.categories] == [(1, 'person'), (2, 'label 2, of no object'), (3, 'car')]
    assert [(s.file, s.records) for s in manifest.shards] == [(first.name, 1), (second.name, 2)]


def test_objects_with_a_box_only_are_counted(tmp_path: pathlib.Path) -> None:
    bare = {'image/object/has_mask': [0, 1], 'image/object/mask': [_mask(0, 0, 0, 0), _mask(32, 48, 64, 96)]}
    manifest = indexing.index([_shard(tmp_path / 'a.tfrecord', _example(**bare), _example())], 'train')
    assert manifest.counts == Counts(2, 0, 4, 2, 1) and manifest.has_masks


def test_training_reads_an_indexed_set(tmp_path: pathlib.Path) -> None:
    """Boxes, labels, crowd and masks of the batch, worked by hand: the image is enlarged twice."""
    indexing.index([_shard(tmp_path / 'a.tfrecord', _example(), _example())], 'train')
    settings = config.load('mask_rcnn_r50_fpn_1x', [
        'data.batch_size=2', 'data.short_sides=[128]', 'data.long_side=192', 'data.test_short_side=128',
        'data.test_long_side=192', 'data.canvases=[[192,192]]', 'data.flip_horizontal=0',
        'data.max_objects=3', 'data.mask_size=8', 'model.num_classes=3'])
    batch = next(iter(training_dataset(tmp_path / 'train.json', settings)))
    assert batch['images'].shape == (2, 192, 192, 3)
    np.testing.assert_allclose(batch['images'][:, :128], 90, atol=2)      # a JPEG
    np.testing.assert_array_equal(batch['image_ids'], [139, 139])
    for boxes, labels, crowd, valid, masks in zip(*(batch[key] for key in (
            'boxes', 'labels', 'crowd', 'valid', 'masks')), strict=True):
        np.testing.assert_allclose(boxes, [[32, 24, 96, 96], [64, 96, 128, 192], [0, 0, 0, 0]], atol=1e-4)
        np.testing.assert_array_equal(labels, [3, 1, 0])
        np.testing.assert_array_equal(crowd, [False, True, False])
        np.testing.assert_array_equal(valid, [True, True, False])
        np.testing.assert_array_equal(masks[:2], 255)            # each fills its box


def test_evaluation_reads_the_masks_unchanged(tmp_path: pathlib.Path) -> None:
    indexing.index([_shard(tmp_path / 'a.tfrecord', _example())], 'val')
    [truth] = ground_truth(tmp_path / 'val.json')
    assert (truth['image_id'], truth['annotation_ids'].tolist()) == (139, [1, 2])
    assert truth['masks'] == [_mask(16, 12, 48, 48), _mask(32, 48, 64, 96)]


@pytest.mark.parametrize(('changes', 'named'), [
    ({'image/object/class/text': [b'dog', b'person']}, "label 3 is named 'dog', but 'car' in records before"),
    ({'image/object/class/label': [0, 1]}, 'image 139 has an object with label 0'),
    ({'image/object/class/label': [2 ** 40, 1]}, 'image 139 has an object with label 1099511627776'),
    ({'image/object/mask': []}, 'only some objects have a mask'),
])
def test_records_that_make_no_set(changes: dict[str, list[Any]], named: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError) as caught:
        indexing.index([_shard(tmp_path / 'a.tfrecord', _example(), _example(**changes))], 'train')
    assert named in str(caught.value) and '\n' not in str(caught.value)
    assert not (tmp_path / 'train.json').exists()


def test_files_that_are_no_set(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'b').mkdir()
    shard, other = _shard(tmp_path / 'a.tfrecord'), _shard(tmp_path / 'b' / 'a.tfrecord', _example())
    for shards, named in (([], 'no files'), ([shard, other], 'all in one directory'), ([shard], 'hold no record')):
        with pytest.raises(ConversionError, match=named):
            indexing.index(shards, 'train')
    with pytest.raises(ConversionError, match="name '../train': use letters"):
        indexing.index([other], '../train')
    indexing.index([other], 'train')
    with pytest.raises(ConversionError, match='exists; choose another name'):
        indexing.index([other], 'train')


@pytest.mark.parametrize(('kept', 'named'), [
    (slice(-5), r'record 1: cut off after \d+ of \d+ bytes; copy'),
    (slice(7), 'record 0: cut off after 7 bytes; copy'),      # TensorFlow's reader says nothing of this
    (slice(20, None), 'record 0: the checksum of its length is wrong'),
])
def test_damage_is_named(tmp_path: pathlib.Path, kept: slice, named: str) -> None:
    shard = _shard(tmp_path / 'a.tfrecord', _example(), _example())
    shard.write_bytes(shard.read_bytes()[kept])
    with pytest.raises(RecordError, match=f'^{shard}: {named}'):
        indexing.index([shard], 'train')


def test_a_missing_shard(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match='none.tfrecord'):
        indexing.index([tmp_path / 'none.tfrecord'], 'train')
