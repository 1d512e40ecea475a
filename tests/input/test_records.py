"""The record's two sides, and the manifest."""
from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf.input import records

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
    """A record as Model Garden's converter writes it, without what is ours."""
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
    assert set(parsed) == {*expected, 'masks'}
    for name, (kind, value) in expected.items():
        assert parsed[name].dtype == kind, name
        np.testing.assert_array_equal(parsed[name].numpy(), value, name)
    masks = [np.array(Image.open(io.BytesIO(png))) for png in parsed['masks'].numpy()]
    np.testing.assert_array_equal(masks[0], [[0, 1, 1], [0, 0, 1]])


def test_static_shapes_in_a_dataset() -> None:
    dataset = tf.data.Dataset.from_tensors(records.encode(example())).map(lambda s: records.parse(s, True))
    shapes = {name: spec.shape.as_list() for name, spec in dataset.element_spec.items()}
    assert shapes == {'encoded': [], 'image_id': [], 'source_id': [], 'height': [], 'width': [], 'boxes': [None, 4],
                      'labels': [None], 'crowd': [None], 'area': [None], 'annotation_ids': [None],
                      'difficult': [None], 'truncated': [None], 'masks': [None]}


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


def test_what_only_some_sets_know(parse: Parse) -> None:
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


def test_mask_is_a_grey_png_of_zeros_and_ones() -> None:
    image = Image.open(io.BytesIO(records.encode_mask(np.array([[False, True]]))))
    assert (image.format, image.mode, image.size) == ('PNG', 'L', (2, 1))
    decoded = tf.io.decode_png(records.encode_mask(MASK), channels=0)
    np.testing.assert_array_equal(decoded.numpy()[:, :, 0], [[0, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize('changes, message', [
    ({'format': 'gif'}, "a.png: format 'gif', expected one of jpeg, png"),
    ({'dtype': 'int8'}, "a.png: dtype 'int8', expected one of uint8, uint16"),
    ({'objects': [records.ObjectAnnotation((0, 0, 1, 1), 0, 'x', 1.0)]}, 'a.png: annotation 0 has label 0'),
    ({'objects': [records.ObjectAnnotation((0, 0, 1, 1), 1, 'x', 1.0),
                  records.ObjectAnnotation((0, 0, 1, 1), 1, 'x', 1.0, mask=b'png')]},
     'a.png: some objects have a mask'),
])
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


@pytest.mark.parametrize('features, with_masks, message', [
    ({}, True, 'source_id 000000000139: masks of 0 objects, labels of 2; convert the data again'),
    ({'image/object/class/label': [3]}, False, 'boxes of 2 objects, labels of 1'),
    ({'image/object/is_crowd': [1]}, False, 'is_crowd of 1 objects, labels of 2'),
    ({'image/height': []}, False, 'image/height'),
    ({'image/encoded': []}, False, 'image/encoded'),
])
def test_broken_record_is_an_error_that_names_it(
        parse: Parse, features: dict[str, Any], with_masks: bool, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        parse(foreign(**features), with_masks)


def manifest() -> records.Manifest:
    return records.Manifest(
        name='train', categories=[records.Category(1, 7, 'cat'), records.Category(2, 90, 'dog')],
        counts=records.Counts(images=3, images_without_objects=1, objects=4, crowds=1), max_objects_per_image=3,
        dropped={'zero area': [records.Incident(5, 11, 'width 0')], 'missing image': [records.Incident('a', None, '')]},
        repaired={}, shards=[records.Shard('train-00000-of-00002.tfrecord', 2, 4, 'ab'),
                             records.Shard('train-00001-of-00002.tfrecord', 1, 3, 'cd')],
        has_masks=True, source=records.Source('coco', 'a.json', 'images'),
        kept={'odd': [records.Incident(5, 12, 'box', 'b.png')]})


def written(directory: pathlib.Path) -> pathlib.Path:
    (directory / 'train-00000-of-00002.tfrecord').write_bytes(b'1234')
    (directory / 'train-00001-of-00002.tfrecord').write_bytes(b'123')
    manifest().write(directory / 'train.json')
    return directory / 'train.json'


def test_manifest_reads_what_it_wrote(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path)
    assert records.Manifest.read(path) == manifest()
    assert records.Manifest.read(str(path)).shard_paths(path) == [
        str(tmp_path / 'train-00000-of-00002.tfrecord'), str(tmp_path / 'train-00001-of-00002.tfrecord')]


def test_manifest_file_has_the_keys_of_the_contract(tmp_path: pathlib.Path) -> None:
    data = json.loads(written(tmp_path).read_text())
    assert data['format'] == 'mrcnn_tf manifest' and data['version'] == 1
    assert set(data) == {'format', 'version', 'name', 'categories', 'counts', 'max_objects_per_image', 'dropped',
                         'repaired', 'kept', 'shards', 'has_masks', 'has_proposals', 'max_proposals_per_image',
                         'proposals_from', 'source'}
    assert data['categories'][1] == {'label': 2, 'id': 90, 'name': 'dog'}
    assert data['counts'] == {'images': 3, 'images_without_objects': 1, 'objects': 4, 'crowds': 1}
    assert data['dropped']['zero area'] == [{'image_id': 5, 'annotation_id': 11, 'detail': 'width 0', 'file': ''}]
    assert data['kept'] == {'odd': [{'image_id': 5, 'annotation_id': 12, 'detail': 'box', 'file': 'b.png'}]}
    assert data['shards'][0] == {'file': 'train-00000-of-00002.tfrecord', 'records': 2, 'bytes': 4, 'sha256': 'ab'}
    assert data['source'] == {'kind': 'coco', 'annotations': 'a.json', 'images': 'images'}


def edit(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        if value is None:
            del data[keys[-1]]
        else:
            data[keys[-1]] = value
    return change


@pytest.mark.parametrize('change, message', [
    (edit('format', value='other'), 'not a manifest'),
    (edit('version', value=2), 'version 2, this release reads 1'),
    (edit('name', value=None), 'name is missing'),
    (edit('extra', value=1), 'extra is unknown'),
    (edit('counts', 'images', value='3'), 'counts.images has a wrong type, str'),
    (edit('counts', 'images', value=True), 'counts.images has a wrong type, bool'),
    (edit('counts', 'images', value=4), 'counts.images is 4 and the shards hold 3'),
    (edit('shards', 1, 'bytes', value=None), r'shards\[1\].bytes is missing'),
    (edit('shards', value={}), 'shards has a wrong type, dict'),
    (edit('dropped', 'zero area', 0, 'detail', value=1), r'dropped.zero area\[0\].detail has a wrong type, int'),
    (edit('categories', 0, 'label', value=0), r'category labels are \[0, 2\], expected 1..K'),
    (edit('categories', value=[]), r'category labels are \[\]'),
])
def test_changed_manifest_is_one_clear_line(
        tmp_path: pathlib.Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = written(tmp_path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(records.ManifestError, match=f'^{path}: .*{message}') as error:
        records.Manifest.read(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'{"format": ', b'[]', b'\xff\xfe\x00', b'1'])
def test_a_file_that_is_no_manifest(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / 'train.json'
    path.write_bytes(content)
    with pytest.raises(records.ManifestError, match=f'^{path}: not .*mrcnn convert') as error:
        records.Manifest.read(path)
    assert '\n' not in str(error.value)


def test_missing_manifest_and_directory(tmp_path: pathlib.Path) -> None:
    with pytest.raises(records.ManifestError, match='none.json: no such file; give the NAME.json'):
        records.Manifest.read(tmp_path / 'none.json')
    with pytest.raises(records.ManifestError, match='Is a directory; give the NAME.json'):
        records.Manifest.read(tmp_path)


def test_a_set_without_objects_needs_no_categories(tmp_path: pathlib.Path) -> None:
    test_set = dataclasses.replace(manifest(), categories=[], counts=records.Counts(3, 3))
    written(tmp_path)
    test_set.write(tmp_path / 'train.json')
    assert records.Manifest.read(tmp_path / 'train.json') == test_set


def test_missing_and_cut_shards(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path)
    shard = tmp_path / 'train-00001-of-00002.tfrecord'
    shard.write_bytes(b'12')
    with pytest.raises(records.ManifestError, match=f'its shard {shard} has 2 bytes, expected 3; copy it again'):
        records.Manifest.read(path)
    shard.unlink()
    with pytest.raises(records.ManifestError, match=f'its shard {shard} is missing; copy it there'):
        records.Manifest.read(path)


def test_categories_of_a_model_directory(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'categories.json'
    records.write_categories(path, manifest().categories)
    assert json.loads(path.read_text())[0] == {'label': 1, 'id': 7, 'name': 'cat'}
    assert records.read_categories(path) == manifest().categories
    path.write_text('[{"label": 2, "id": 1, "name": "a"}]')
    with pytest.raises(records.ManifestError, match=r'categories.json: category labels are \[2\]'):
        records.read_categories(path)
    path.write_text('{}')
    with pytest.raises(records.ManifestError, match='the top has a wrong type, dict'):
        records.read_categories(path)
    with pytest.raises(records.ManifestError, match='none.json: no such file; give a directory'):
        records.read_categories(tmp_path / 'none.json')


PROPOSALS = records.Proposals(np.array([[0, 0.5, 1, 2], [1, 1, 2, 3]], np.float32), np.array([0.75, 0.5], np.float32))


def test_proposals_come_back(parse: Parse) -> None:
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
    cut = records.encode(example(extra={
        'image/proposal/box': feature([0.0] * 8), 'image/proposal/score': feature([1.0])}))
    with pytest.raises(tf.errors.InvalidArgumentError, match='42: proposals of 2 objects'):
        records.parse(cut, False, with_proposals=True)


def test_a_manifest_of_before_proposals(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'a.json'
    records.Manifest('a', [records.Category(1, 1, 'x')], records.Counts(), 0, {}, {}, [], False,
                     records.Source('coco', '', '')).write(path)
    data = json.loads(path.read_text())
    assert data['has_proposals'] is False and data['max_proposals_per_image'] == 0
    del data['has_proposals'], data['max_proposals_per_image']
    path.write_text(json.dumps(data))
    assert records.Manifest.read(path).has_proposals is False
