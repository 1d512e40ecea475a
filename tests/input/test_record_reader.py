"""Reading records from shards outside of a graph."""
from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Shard, Source
from mrcnn_tf.input.record_reader import RecordError

_MASK = records.encode_mask(np.ones([2, 3]))
_PNG = b'\x89PNG\r\n\x1a\n...'


def example(**changes: Any) -> records.Annotated:
    objects = [records.ObjectAnnotation((0.5, 1.0, 1.75, 3.0), 2, 'dog', 3.5, False, 71, _MASK),
               records.ObjectAnnotation((0.0, 0.0, 2.0, 1.5), 1, 'kočka', 2.5, True, 900000000001, _MASK)]
    return dataclasses.replace(records.Annotated(_PNG, 'png', 'a.png', '42', 42, 2, 3, objects), **changes)


def serialized(**features: list[Any]) -> bytes:
    """An Example with these features."""
    made = {}
    for name, values in features.items():
        kind = {bytes: 'bytes_list', int: 'int64_list', float: 'float_list'}[type(values[0])]
        message = {'bytes_list': tf.train.BytesList, 'int64_list': tf.train.Int64List,
                   'float_list': tf.train.FloatList}[kind](value=values)
        made[name] = tf.train.Feature(**{kind: message})
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString(deterministic=True)


def model_garden(**changes: list[Any]) -> bytes:
    """The record that tf-models-official 2.20 writes for an image of 100 x 200 with two objects."""
    return serialized(**{
        'image/encoded': [b'\xff\xd8\xff...'], 'image/format': [b'jpg'], 'image/filename': [b'a.jpg'],
        'image/source_id': [b'139'], 'image/height': [100], 'image/width': [200],
        'image/object/bbox/ymin': [0.25, 0.0], 'image/object/bbox/xmin': [0.125, 0.0],
        'image/object/bbox/ymax': [0.5, 1.0], 'image/object/bbox/xmax': [0.25, 1.0],
        'image/object/class/label': [3, 1], 'image/object/class/text': [b'car', b'person'],
        'image/object/is_crowd': [0, 1], 'image/object/area': [12.5, 100.0], **changes})


@pytest.mark.parametrize('changes', [
    {}, {'objects': []}, {'channels': 1, 'dtype': 'uint16', 'split': 'train', 'city': 'aachen'},
    {'objects': [records.ObjectAnnotation((0, 0, 1, 1), 1, 'a', 1, mask=_MASK, difficult=True, truncated=False)]},
    {'objects': [records.ObjectAnnotation((0, 0, 1, 1), 1, 'a', 1, mask=_MASK, has_mask=False),
                 records.ObjectAnnotation((0, 0, 1, 1), 1, 'a', 1, mask=_MASK)]},
    {'proposals': records.Proposals(np.array([[0, 0.5, 1, 2]], np.float32), np.array([0.75], np.float32))},
    {'proposals': records.Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))},
], ids=['plain', 'no_objects', 'optional_features', 'flags', 'box_only', 'proposals', 'no_proposals'])
def test_decode_returns_what_was_encoded(changes: dict[str, Any]) -> None:
    result, expected = record_reader.decode(records.encode(example(**changes))), example(**changes)
    assert dataclasses.replace(result, proposals=None) == dataclasses.replace(expected, proposals=None)
    assert (result.proposals is None) == (expected.proposals is None)
    if expected.proposals is not None and result.proposals is not None:
        np.testing.assert_array_equal(result.proposals.boxes, expected.proposals.boxes)
        np.testing.assert_array_equal(result.proposals.scores, expected.proposals.scores)
        assert result.proposals.boxes.dtype == result.proposals.scores.dtype == np.float32


_SIDE = st.floats(0, 1000, width=32)


@settings(max_examples=50, deadline=None)
@given(objects=st.lists(st.builds(
    records.ObjectAnnotation, box=st.tuples(_SIDE, _SIDE, _SIDE, _SIDE), label=st.integers(1, 2 ** 31 - 1),
    name=st.text(), area=st.floats(0, 1e6, width=32), crowd=st.booleans(),
    annotation_id=st.integers(-2 ** 63, 2 ** 63 - 1), mask=st.just(_MASK)), max_size=4),
    filename=st.text(), source_id=st.text(), image_id=st.integers(-2 ** 63, 2 ** 63 - 1))
def test_decode_returns_any_example(objects: list[records.ObjectAnnotation], **fields: Any) -> None:
    made = example(objects=objects, **fields)
    assert record_reader.decode(records.encode(made)) == made


def test_unknown_features_are_kept() -> None:
    caption = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'two dogs']))
    first = records.encode(example(extra={'image/caption': caption}))
    result = record_reader.decode(first)
    assert result.extra == {'image/caption': caption} and records.encode(result) == first


def test_a_record_of_model_garden() -> None:
    result = record_reader.decode(model_garden())
    assert (result.source_id, result.image_id, result.format) == ('139', 139, 'jpeg')
    assert (result.height, result.width) == (100, 200)
    assert result.objects == [
        records.ObjectAnnotation((25.0, 25.0, 50.0, 50.0), 3, 'car', 12.5, False, 1),
        records.ObjectAnnotation((0.0, 0.0, 100.0, 200.0), 1, 'person', 100.0, True, 2)]


@pytest.mark.parametrize(('data', 'named'), [
    (b'\x0a\xff nonsense', 'not an Example'),
    (serialized(**{'image/height': [1], 'image/width': [1]}), 'image/encoded holds 0 values'),
    (model_garden(**{'image/height': [1, 2]}), 'image/height holds 2 values'),
    (model_garden(**{'image/width': [b'200']}), 'image/width is a bytes_list, expected a int64_list'),
    (model_garden(**{'image/object/area': [1.0]}), 'area of 1 objects, labels of 2'),
    (model_garden(**{'image/object/bbox/xmin': [0.5]}), 'bbox/xmin of 1 objects, labels of 2'),
    (model_garden(**{'image/object/box': [0.5]}), '1 numbers in image/object/box for 2 objects'),
    (model_garden(**{'image/proposal/box': [0.5]}), '1 numbers in image/proposal/box for 0 scores'),
], ids=['nonsense', 'nothing', 'two-heights', 'width-of-bytes', 'areas', 'corners', 'boxes', 'proposals'])
def test_an_invalid_record_is_refused(data: bytes, named: str) -> None:
    with pytest.raises(RecordError) as caught:
        record_reader.decode(data, 'x.tfrecord: record 7')
    assert str(caught.value).startswith('x.tfrecord: record 7: ') and named in str(caught.value)


def _set(directory: pathlib.Path) -> pathlib.Path:
    """Two shards of two and one records."""
    shards = []
    for name, ids in (('a.tfrecord', (5, 6)), ('b.tfrecord', (7,))):
        path = directory / name
        with tf.io.TFRecordWriter(str(path)) as stream:
            for image_id in ids:
                stream.write(records.encode(example(image_id=image_id, filename='n' * image_id)))
        data = path.read_bytes()
        shards.append(Shard(name, len(ids), len(data), hashlib.sha256(data).hexdigest()))
    Manifest('set', [Category(1, 1, 'a')], Counts(3, 0, 6, 3), 2, {}, {}, shards, True,
                     Source('coco', '', '')).write(directory / 'set.json')
    return directory / 'set.json'


def test_read_returns_the_record_at_each_place(tmp_path: pathlib.Path) -> None:
    result = list(record_reader.places(_set(tmp_path)))
    assert [(pathlib.Path(place.file).name, place.number) for place, _ in result] == [
        ('a.tfrecord', 0), ('a.tfrecord', 1), ('b.tfrecord', 0)]
    assert [record_reader.decode(record_reader.read(place)).image_id for place, _ in result] == [5, 6, 7]
    assert all(record_reader.read(place) == record for place, record in result)


def test_a_record_with_a_flipped_bit_is_named(tmp_path: pathlib.Path) -> None:
    manifest = _set(tmp_path)
    data = bytearray((tmp_path / 'a.tfrecord').read_bytes())
    data[-20] ^= 1
    (tmp_path / 'a.tfrecord').write_bytes(data)
    with pytest.raises(RecordError, match='a.tfrecord: record 1 is damaged'):
        list(record_reader.places(manifest))


def test_a_shard_that_became_shorter(tmp_path: pathlib.Path) -> None:
    place, _ = list(record_reader.places(_set(tmp_path)))[1]
    data = (tmp_path / 'a.tfrecord').read_bytes()
    (tmp_path / 'a.tfrecord').write_bytes(data[:-10])
    with pytest.raises(RecordError, match='a.tfrecord: record 1 is truncated'):
        record_reader.read(place)
