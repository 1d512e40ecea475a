"""`records.encode` and `records.parse`: what one writes, the other reads, and records of Model Garden."""
from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Counts

Parse = Callable[[bytes, bool], dict[str, tf.Tensor]]
MASK = np.array([[0, 1, 1], [0, 0, 7]])     # [2, 3]; non-zero is inside
WHOLE = records.encode_mask(np.ones([2, 3]))


def example(**changes: Any) -> records.Annotated:
    objects = [
        records.ObjectAnnotation((0.1, 1.0, 1.9, 3.0), 2, 'dog', 3.0, False, 71, records.encode_mask(MASK)),
        records.ObjectAnnotation((0.0, 0.0, 2.0, 1.5), 1, 'cat', 2.5, True, 900000000001, WHOLE),
    ]
    return dataclasses.replace(records.Annotated(b'image bytes', 'png', 'a.png', '42', 42, 2, 3, objects), **changes)


def feature(values: list[Any]) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def foreign(**features: list[Any]) -> bytes:
    """A record as Model Garden's converter writes it, without the additions of this project."""
    keys: dict[str, list[Any]] = {
        'image/encoded': [b'image bytes'], 'image/source_id': [b'000000000139'], 'image/height': [100],
        'image/width': [200], 'image/object/bbox/ymin': [0.25, 0.0], 'image/object/bbox/xmin': [0.1, 0.0],
        'image/object/bbox/ymax': [0.5, 1.0], 'image/object/bbox/xmax': [0.2, 1.0],
        'image/object/class/label': [3, 1], 'image/object/is_crowd': [0, 1], **features}
    return tf.train.Example(features=tf.train.Features(
        feature={key: feature(value) for key, value in keys.items() if value})).SerializeToString(deterministic=True)


def parse_in_dataset(serialized: bytes, with_masks: bool) -> dict[str, tf.Tensor]:
    dataset = tf.data.Dataset.from_tensors(serialized).map(lambda s: records.parse(s, with_masks))
    return next(iter(dataset))


@pytest.fixture(params=['eager', 'dataset'])
def parse(request: pytest.FixtureRequest) -> Parse:
    return records.parse if request.param == 'eager' else parse_in_dataset


def test_parse_gives_what_was_encoded(parse: Parse) -> None:
    parsed = parse(records.encode(example()), True)
    expected = {
        'encoded': (tf.string, b'image bytes'), 'image_id': (tf.int64, 42), 'source_id': (tf.string, b'42'),
        'height': (tf.int32, 2), 'width': (tf.int32, 3),
        'boxes': (tf.float32, np.array([[0.1, 1, 1.9, 3], [0, 0, 2, 1.5]], np.float32)), 'labels': (tf.int32, [2, 1]),
        'crowd': (tf.bool, [False, True]), 'area': (tf.float32, [3.0, 2.5]),
        'annotation_ids': (tf.int64, [71, 900000000001]), 'difficult': (tf.bool, [False, False]),
        'truncated': (tf.bool, [False, False])}
    expected['has_mask'] = tf.bool, [True, True]
    assert set(parsed) == {*expected, 'masks'}
    for name, (kind, value) in expected.items():
        assert parsed[name].dtype == kind, name
        np.testing.assert_array_equal(parsed[name].numpy(), value, name)
    masks = [np.array(Image.open(io.BytesIO(png))) for png in parsed['masks'].numpy()]
    np.testing.assert_array_equal(masks[0], [[0, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize('part', [records.parse_size, records.parse_labels], ids=['size', 'labels'])
@pytest.mark.parametrize('serialized', [records.encode(example()), records.encode(example(objects=[])), foreign(),
                                        foreign(**{'image/object/is_crowd': []})],
                         ids=['own', 'no_objects', 'model_garden', 'no_crowd_flags'])
def test_a_part_is_that_of_the_whole(part: Callable[[tf.Tensor], dict[str, tf.Tensor]], serialized: bytes) -> None:
    whole = records.parse(serialized, False)
    found = next(iter(tf.data.Dataset.from_tensors(serialized).map(part)))
    assert len(found) == 2
    for name, value in found.items():
        assert value.dtype == whole[name].dtype
        np.testing.assert_array_equal(value, whole[name])


def test_labels_of_an_invalid_record() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match='000000000139: is_crowd of 1 objects, labels of 2'):
        records.parse_labels(foreign(**{'image/object/is_crowd': [1]}))


def test_static_shapes_in_a_dataset() -> None:
    dataset = tf.data.Dataset.from_tensors(records.encode(example())).map(lambda s: records.parse(s, True))
    shapes = {name: spec.shape.as_list() for name, spec in dataset.element_spec.items()}
    assert shapes == {'encoded': [], 'image_id': [], 'source_id': [], 'height': [], 'width': [], 'boxes': [None, 4],
                      'labels': [None], 'crowd': [None], 'area': [None], 'annotation_ids': [None],
                      'difficult': [None], 'truncated': [None], 'masks': [None], 'has_mask': [None]}


def test_an_object_with_a_box_only_has_an_empty_mask(parse: Parse) -> None:
    """The record has the feature only if an object lacks a mask; Model Garden can decode the empty mask."""
    bare = dataclasses.replace(example().objects[0], mask=records.encode_mask(np.zeros([2, 3])), has_mask=False)
    mixed = example(objects=[bare, example().objects[1]])
    parsed = parse(records.encode(mixed), True)
    assert parsed['has_mask'].numpy().tolist() == [False, True]
    assert not np.array(Image.open(io.BytesIO(parsed['masks'].numpy()[0]))).any()
    assert 'has_mask' not in parse(records.encode(mixed), False)
    features = tf.train.Example.FromString(records.encode(example())).features.feature
    assert 'image/object/has_mask' not in features
    assert records.count(mixed) == Counts(1, 0, 2, 1, 1) and records.count(example(objects=[])) == Counts(1, 1)


def test_image_without_objects(parse: Parse) -> None:
    parsed = parse(records.encode(example(objects=[])), True)
    assert {name: parsed[name].shape.as_list() for name in ('boxes', 'labels', 'crowd', 'area', 'masks')} == {
        'boxes': [0, 4], 'labels': [0], 'crowd': [0], 'area': [0], 'masks': [0]}


def test_features_that_other_readers_expect() -> None:
    features = tf.train.Example.FromString(records.encode(example())).features.feature
    assert set(features) == {
        'image/encoded', 'image/format', 'image/filename', 'image/source_id', 'image/key/sha256', 'image/id',
        'image/height', 'image/width', 'image/object/box', 'image/object/bbox/ymin', 'image/object/bbox/xmin',
        'image/object/bbox/ymax', 'image/object/bbox/xmax', 'image/object/class/label', 'image/object/class/text',
        'image/object/is_crowd', 'image/object/area', 'image/object/annotation_id', 'image/object/mask'}
    assert features['image/format'].bytes_list.value == [b'png']
    assert features['image/object/class/text'].bytes_list.value == [b'dog', b'cat']
    # printf 'image bytes' | sha256sum
    assert features['image/key/sha256'].bytes_list.value == [
        b'de7030234493a8bea844dbe1d8676e68a2c1a4b014c721f0425a22b6df66faec']
    sides = [list(features[f'image/object/bbox/{side}'].float_list.value) for side in ('ymin', 'xmin', 'ymax', 'xmax')]
    np.testing.assert_allclose(sides, [[0.05, 0], [1 / 3, 0], [0.95, 1], [1, 0.5]], rtol=1e-6)


def test_optional_features(parse: Parse) -> None:
    flags = ({'difficult': True, 'truncated': None}, {'difficult': False, 'truncated': True})
    objects = [dataclasses.replace(each, **more) for each, more in zip(example().objects, flags, strict=True)]
    record = records.encode(example(objects=objects, channels=1, dtype='uint16', split='train', city='ulm'))
    features = tf.train.Example.FromString(record).features.feature
    assert {key: list(features[f'image/{key}'].bytes_list.value) for key in ('dtype', 'split', 'city')} == {
        'dtype': [b'uint16'], 'split': [b'train'], 'city': [b'ulm']}
    assert features['image/channels'].int64_list.value == [1]
    # The keys of the TF Object Detection API.
    assert features['image/object/difficult'].int64_list.value == [1, 0]
    assert features['image/object/truncated'].int64_list.value == [0, 1]
    parsed = parse(record, True)
    assert parsed['difficult'].numpy().tolist() == [True, False]
    assert parsed['truncated'].numpy().tolist() == [False, True]


def test_encode_gives_equal_bytes_for_equal_examples() -> None:
    assert records.encode(example()) == records.encode(example())


def test_mask_is_a_gray_png_of_zeros_and_ones() -> None:
    image = Image.open(io.BytesIO(records.encode_mask(np.array([[False, True]]))))
    assert (image.format, image.mode, image.size) == ('PNG', 'L', (2, 1))
    decoded = tf.io.decode_png(records.encode_mask(MASK), channels=0)
    np.testing.assert_array_equal(decoded.numpy()[:, :, 0], [[0, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize(('changes', 'message'), [
    ({'format': 'gif'}, "a.png: format 'gif', expected one of jpeg, png"),
    ({'dtype': 'int8'}, "a.png: dtype 'int8', expected one of uint8, uint16"),
    ({'objects': [records.ObjectAnnotation((0, 0, 1, 1), 0, 'x', 1.0)]}, 'a.png: annotation 0 has label 0'),
    ({'objects': [records.ObjectAnnotation((0, 0, 1, 1), 1, 'x', 1.0),
                  records.ObjectAnnotation((0, 0, 1, 1), 1, 'x', 1.0, mask=b'png')]},
     'a.png: some objects have a mask'),
], ids=['format', 'dtype', 'label', 'masks'])
def test_encode_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        records.encode(example(**changes))


def test_model_garden_record(parse: Parse) -> None:
    parsed = parse(foreign(), False)
    assert parsed['image_id'].numpy() == 139
    np.testing.assert_allclose(parsed['boxes'].numpy(), [[25, 20, 50, 40], [0, 0, 100, 200]], rtol=1e-6)
    np.testing.assert_array_equal(parsed['labels'].numpy(), [3, 1])
    np.testing.assert_array_equal(parsed['crowd'].numpy(), [False, True])
    np.testing.assert_allclose(parsed['area'].numpy(), [500, 20000], rtol=1e-6)
    np.testing.assert_array_equal(parsed['annotation_ids'].numpy(), [1, 2])
    assert 'masks' not in parsed


def test_image_id_without_a_number_is_a_stable_hash() -> None:
    pairs = ((b'berlin_01', b'1'), (b'berlin_01', b'2'), (b'berlin_02', b'1'), (b'', b'1'), (b'', b'2'))
    ids = [int(records.parse(foreign(**{'image/source_id': [text], 'image/encoded': [image]}), False)['image_id'])
           for text, image in pairs]
    assert ids[0] == ids[1] and len(set(ids)) == 4 and min(ids) >= 0
    assert int(records.parse(foreign(**{'image/source_id': []}), False)['image_id']) >= 0
    assert int(records.parse(foreign(**{'image/source_id': [b'-7']}), False)['image_id']) == -7


@pytest.mark.parametrize(('features', 'with_masks', 'message'), [
    ({}, True, 'source_id 000000000139: masks of 0 objects, labels of 2; convert the data again'),
    ({'image/object/class/label': [3]}, False, 'boxes of 2 objects, labels of 1'),
    ({'image/object/is_crowd': [1]}, False, 'is_crowd of 1 objects, labels of 2'),
    ({'image/height': []}, False, 'image/height'),
    ({'image/encoded': []}, False, 'image/encoded'),
], ids=['no_masks', 'labels', 'crowd_flags', 'no_height', 'no_image'])
def test_an_invalid_record_is_an_error_that_names_it(
        parse: Parse, features: dict[str, Any], with_masks: bool, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        parse(foreign(**features), with_masks)


PROPOSALS = records.Proposals(np.array([[0, 0.5, 1, 2], [1, 1, 2, 3]], np.float32), np.array([0.75, 0.5], np.float32))


def test_proposals_are_read_as_they_were_written(parse: Parse) -> None:
    parsed = records.parse(records.encode(example(proposals=PROPOSALS)), False, with_proposals=True)
    np.testing.assert_array_equal(parsed['proposals'], [[0, 0.5, 1, 2], [1, 1, 2, 3]])
    np.testing.assert_array_equal(parsed['proposal_scores'], [0.75, 0.5])
    assert 'proposals' not in parse(records.encode(example(proposals=PROPOSALS)), True)


def test_a_record_without_proposals_has_none() -> None:
    parsed = records.parse(records.encode(example()), False, with_proposals=True)
    assert parsed['proposals'].shape == (0, 4) and parsed['proposal_scores'].shape == (0,)


def test_proposals_of_unequal_length() -> None:
    with pytest.raises(ValueError, match=r'a.png: proposals of shape \(2, 4\) and scores of \(1,\)'):
        records.encode(example(proposals=records.Proposals(PROPOSALS.boxes, PROPOSALS.scores[:1])))
    unequal = records.encode(example(extra={
        'image/proposal/box': feature([0.0] * 8), 'image/proposal/score': feature([1.0])}))
    with pytest.raises(tf.errors.InvalidArgumentError, match='42: proposals of 2 objects'):
        records.parse(unequal, False, with_proposals=True)
