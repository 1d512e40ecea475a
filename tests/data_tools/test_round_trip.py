"""Random data sets come back from the records: boxes, every pixel of every mask, ids and names."""
from __future__ import annotations

import contextlib
import io
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools import conversion, examples
from data_tools.data_set import DataSet
from data_tools.formats import cityscapes, coco, voc
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Manifest

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=8)
SIDES = st.integers(1, 24)
INT64 = st.integers(-2 ** 63, 2 ** 63 - 1)


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int) -> tuple[float, float, float, float]:
    """x, y, width, height within an image, in steps of 1/64 px, which float32 holds exactly."""
    x1, x2 = sorted(draw(st.lists(st.integers(0, 64 * width), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(st.integers(0, 64 * height), min_size=2, max_size=2, unique=True)))
    return x1 / 64, y1 / 64, (x2 - x1) / 64, (y2 - y1) / 64


@st.composite
def coco_sets(draw: st.DrawFn) -> tuple[dict[str, Any], dict[int, list[np.ndarray]]]:
    """An instances json, and the masks of each image."""
    categories = draw(st.lists(st.tuples(INT64, NAMES), min_size=1, max_size=4, unique_by=lambda pair: pair[0]))
    image_ids = draw(st.lists(INT64, min_size=1, max_size=3, unique=True))
    images, annotations, masks = [], [], {}
    for number, image_id in enumerate(image_ids):
        height, width = draw(SIDES), draw(SIDES)
        images.append({'id': image_id, 'file_name': f'{number}.png', 'height': height, 'width': width})
        masks[image_id] = draw(st.lists(
            arrays.arrays(bool, (height, width)).filter(lambda mask: mask.any()), max_size=3))
        annotations += [{
            'id': draw(INT64), 'image_id': image_id, 'category_id': draw(st.sampled_from(categories))[0],
            'bbox': draw(boxes(height, width)), 'area': draw(st.floats(1, 1e6, width=32)),
            'iscrowd': draw(st.integers(0, 1)), 'segmentation': draw(st.sampled_from([_counts, _text]))(mask)}
            for mask in masks[image_id]]
    listed = [{'id': category_id, 'name': name} for category_id, name in categories]
    return {'images': images, 'annotations': draw(st.permutations(annotations)), 'categories': listed}, masks


def _counts(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths, down the columns."""
    flat = mask.T.ravel()
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    runs = [last - first for first, last in zip(edges, edges[1:], strict=False)]
    return {'size': list(mask.shape), 'counts': [0, *runs] if flat[0] else runs}


def _text(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'size': list(mask.shape), 'counts': rle['counts'].decode()}


@given(coco_sets())
@FEW
def test_coco(drawn: tuple[dict[str, Any], dict[int, list[np.ndarray]]]) -> None:
    data, masks = drawn
    with _directory() as root:
        for image in data['images']:
            _picture(root / image['file_name'], image['height'], image['width'])
        (root / 'a.json').write_text(json.dumps(data))
        manifest, data_set = _converted(coco.find(root / 'a.json', root, coco.Options(box_format='xywh')), root)
    names = {category['id']: category['name'] for category in data['categories']}
    assert {category.id: category.name for category in manifest.categories} == names
    assert [record['image_id'] for record in data_set] == [image['id'] for image in data['images']]
    for record in data_set:
        expected = [each for each in data['annotations'] if each['image_id'] == record['image_id']]
        assert record['source_id'] == str(record['image_id']).encode()
        assert [(x1, y1, x2 - x1, y2 - y1) for y1, x1, y2, x2 in record['boxes'].tolist()] == [
            tuple(each['bbox']) for each in expected]
        assert record['annotation_ids'].tolist() == [each['id'] for each in expected]
        assert record['names'] == [names[each['category_id']] for each in expected]
        assert [manifest.categories[label - 1].id for label in record['labels']] == [
            each['category_id'] for each in expected]
        assert record['crowd'].tolist() == [bool(each['iscrowd']) for each in expected]
        assert record['area'].tolist() == [each['area'] for each in expected]
        if manifest.has_masks:
            written = {(each['id'], str(each['segmentation'])): mask for each, mask in zip(
                expected, _decoded(record['masks']), strict=True)}
            for each in expected:
                mask = coco_mask.decode(_runs(each['segmentation']))
                np.testing.assert_array_equal(written[each['id'], str(each['segmentation'])], mask)
            sums = sorted(int(mask.sum()) for mask in masks[record['image_id']])
            assert sorted(int(mask.sum()) for mask in _decoded(record['masks'])) == sums


def _runs(segmentation: dict[str, Any]) -> Any:
    if isinstance(segmentation['counts'], str):
        return segmentation
    return coco_mask.frPyObjects(segmentation, *segmentation['size'])


@given(st.data(), st.lists(NAMES.map(str.strip).filter(bool), min_size=1, max_size=4, unique=True))
@FEW
def test_voc(data: st.DataObject, classes: list[str]) -> None:
    classes = [name for name in classes if name.isprintable()] or ['cell']      # xml and lines have no others
    height, width = data.draw(SIDES), data.draw(SIDES)
    segments = data.draw(arrays.arrays(np.uint8, (height, width), elements=st.sampled_from([0, 1, 2, 3, 255])))
    count = data.draw(st.integers(0, 3))
    visible = [number for number in range(1, count + 1) if (segments == number).any()]
    objects = [(data.draw(st.sampled_from(classes)), data.draw(_pixels(width)), data.draw(_pixels(height)),
                data.draw(st.booleans()), data.draw(st.booleans())) for _ in range(count)]
    with _directory() as root:
        _voc_folder(root, segments, objects)
        (root / 'classes.txt').write_text('\n'.join(classes), encoding='utf-8')
        manifest, [record] = _converted(voc.find(
            [root], 'train', options=voc.Options(root / 'classes.txt')), root)
    assert not manifest.dropped
    without = [each.annotation_id for each in manifest.kept.get('object without a mask', [])]
    assert without == [number for number in range(1, count + 1) if number not in visible]
    # Pixels first to last, from 1, are first - 1 to last in continuous edges.
    assert record['boxes'].tolist() == [[y[0] - 1, x[0] - 1, y[1], x[1]] for _, x, y, _, _ in objects]
    assert record['names'] == [name for name, *_ in objects]
    assert record['difficult'].tolist() == [difficult for *_, difficult, _ in objects]
    assert record['truncated'].tolist() == [truncated for *_, truncated in objects]
    assert record['has_mask'].tolist() == [number in visible for number in range(1, count + 1)]
    for number, mask in enumerate(_decoded(record['masks']), 1):
        np.testing.assert_array_equal(mask, segments == number)


def _pixels(side: int) -> st.SearchStrategy[list[int]]:
    """The first and the last pixel along a side, counted from 1."""
    return st.lists(st.integers(1, side), min_size=2, max_size=2).map(sorted)


def _voc_folder(root: pathlib.Path, segments: np.ndarray, objects: list[Any]) -> None:
    for name in ('Annotations', 'ImageSets/Main', 'JPEGImages', 'SegmentationObject'):
        (root / name).mkdir(parents=True)
    _picture(root / 'JPEGImages' / 'a.png', *segments.shape)
    Image.fromarray(segments).save(root / 'SegmentationObject' / 'a.png')
    (root / 'ImageSets' / 'Main' / 'train.txt').write_text('a\n')
    (root / 'Annotations' / 'a.xml').write_text('<annotation>' + ''.join(
        f'<object><name>{escape(name)}</name><difficult>{difficult:d}</difficult><truncated>{truncated:d}</truncated>'
        f'<bndbox><xmin>{x[0]}</xmin><ymin>{y[0]}</ymin><xmax>{x[1]}</xmax><ymax>{y[1]}</ymax></bndbox></object>'
        for name, x, y, difficult, truncated in objects) + '</annotation>', encoding='utf-8')


@given(arrays.arrays(np.uint16, st.tuples(SIDES, SIDES), elements=st.sampled_from(
    [0, 7, 24, 26, 29, 24000, 24001, 25000, 26000, 26999, 29000, 33123])))
@FEW
def test_cityscapes(pixels: np.ndarray) -> None:
    with _directory() as root:
        for kind in ('leftImg8bit', 'gtFine'):
            (root / kind / 'train' / 'ulm').mkdir(parents=True)
        _picture(root / 'leftImg8bit' / 'train' / 'ulm' / 'ulm_0_leftImg8bit.png', *pixels.shape)
        Image.fromarray(pixels).save(root / 'gtFine' / 'train' / 'ulm' / 'ulm_0_gtFine_instanceIds.png')
        manifest, [record] = _converted(cityscapes.find(root, 'train'), root)
    values = [value for value in np.unique(pixels).tolist() if value not in (0, 7, 29, 29000)]
    assert [id - 100_000 for id in record['annotation_ids'].tolist()] == values
    assert record['crowd'].tolist() == [value < 1000 for value in values]
    assert [manifest.categories[label - 1].id for label in record['labels']] == [
        value if value < 1000 else value // 1000 for value in values]
    for box, mask, value in zip(record['boxes'], _decoded(record['masks']), values, strict=True):
        np.testing.assert_array_equal(mask, pixels == value)
        y, x = mask.nonzero()
        assert box.tolist() == [y.min(), x.min(), y.max() + 1, x.max() + 1]


@contextlib.contextmanager
def _directory() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as path:
        yield pathlib.Path(path)


def _picture(path: pathlib.Path, height: int, width: int) -> None:
    Image.new('RGB', (width, height)).save(path)


def _converted(data_set: DataSet, root: pathlib.Path) -> tuple[Manifest, list[dict[str, Any]]]:
    manifest = conversion.convert(data_set, root / 'out', 'set', examples.Rules(allow_loss=True))
    read = []
    for serialized in tf.data.TFRecordDataset(manifest.shard_paths(root / 'out' / 'set.json')):
        values = records.parse(serialized, manifest.has_masks)
        features = tf.train.Example.FromString(serialized.numpy()).features.feature
        texts = features['image/object/class/text'].bytes_list.value
        read.append({**{key: value.numpy() for key, value in values.items()},
                     'names': [each.decode() for each in texts]})
    return manifest, read


def _decoded(masks: Any) -> list[np.ndarray]:
    return [np.array(Image.open(io.BytesIO(png))) for png in masks]
