"""Cityscapes to TFRecord, on small trees in the official layout: by hand, and against cityscapesscripts' own code."""
from __future__ import annotations

import io
import json
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from cityscapesscripts.evaluation.instances2dict import instances2dict
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools import conversion
from data_tools.examples import Rules
from data_tools.formats import cityscapes
from data_tools.issues import ConversionError
from mrcnn_tf.input.manifest import Counts, IssueEntry, Manifest, Source

HEIGHT, WIDTH = 24, 40
BASE = 'aachen_000000_000019'
INSTANCES = np.zeros([HEIGHT, WIDTH], np.int32)
INSTANCES[:] = 7                        # road
INSTANCES[2:10, 4:9] = 26000            # a car
INSTANCES[5:8, 8:40] = 26001            # another over it, up to the border
INSTANCES[20:24, 0:3] = 24005           # a person
INSTANCES[12:14, 10:30] = 24            # a group of persons
INSTANCES[15:18, 10:12] = 29000         # a caravan: not evaluated
INSTANCES[15:18, 20:22] = 33            # a group of bicycles
INSTANCES[23, 39] = 33001               # a bicycle of one pixel


class Tree:
    """A root in the official layout."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    def picture(self, base: str = BASE, split: str = 'train', size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
        path = self.root / 'leftImg8bit' / split / base.split('_')[0] / f'{base}_leftImg8bit.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path)

    def pixels(self, values: Any = INSTANCES, base: str = BASE, split: str = 'train', kind: str = 'gtFine') -> None:
        Image.fromarray(np.asarray(values, np.uint16)).save(self._path(base, split, kind, 'instanceIds.png'))

    def polygons(self, objects: Any, base: str = BASE, split: str = 'train', kind: str = 'gtFine', **more: Any,
                 ) -> pathlib.Path:
        path = self._path(base, split, kind, 'polygons.json')
        path.write_text(json.dumps({'imgHeight': HEIGHT, 'imgWidth': WIDTH, 'objects': objects, **more}))
        return path

    def convert(self, split: str = 'train', annotations: str = 'fine', masks: bool = True, **rules: Any,
                ) -> Manifest:
        return conversion.convert(cityscapes.find(self.root, split, annotations, masks), self.root / 'out', split,
                                  Rules(**rules))

    def features(self, split: str = 'train') -> list[dict[str, list[Any]]]:
        path = self.root / 'out' / f'{split}.json'
        shards = tf.data.TFRecordDataset(Manifest.read(path).shard_paths(path))
        examples = [tf.train.Example.FromString(each.numpy()).features.feature for each in shards]
        return [{key: list(getattr(value, value.WhichOneof('kind')).value) if value.WhichOneof('kind') else []
                 for key, value in each.items()} for each in examples]

    def _path(self, base: str, split: str, kind: str, what: str) -> pathlib.Path:
        path = self.root / kind / split / base.split('_')[0] / f'{base}_{kind}_{what}'
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture()
def tree(tmp_path: pathlib.Path) -> Tree:
    made = Tree(tmp_path)
    made.picture()
    return made


def test_instances_groups_and_classes_that_are_not_evaluated(tree: Tree) -> None:
    tree.pixels()
    manifest = tree.convert()
    [record] = tree.features()
    # In order of the instance ids: 24, 33, 24005, 26000, 26001, 33001.
    assert record['image/object/class/text'] == [b'person', b'bicycle', b'person', b'car', b'car', b'bicycle']
    assert record['image/object/class/label'] == [1, 8, 1, 3, 3, 8]
    assert record['image/object/is_crowd'] == [1, 1, 0, 0, 0, 0]
    boxes = [[12, 10, 14, 30], [15, 20, 18, 22], [20, 0, 24, 3], [2, 4, 10, 9], [5, 8, 8, 40], [23, 39, 24, 40]]
    np.testing.assert_array_equal(np.reshape(record['image/object/box'], [-1, 4]), boxes)
    assert record['image/object/area'] == [40, 6, 12, 37, 96, 1]      # the first car: 8 x 5 less 3 pixels hidden
    assert record['image/object/annotation_id'] == [100024, 100033, 124005, 126000, 126001, 133001]
    for png, value in zip(record['image/object/mask'], (24, 33, 24005, 26000, 26001, 33001), strict=True):
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(png))), value == INSTANCES)
    assert (record['image/split'], record['image/city'], record['image/source_id'], record['image/id']) == (
        [b'train'], [b'aachen'], [BASE.encode()], [1])
    assert record['image/filename'] == [f'aachen/{BASE}_leftImg8bit.png'.encode()]
    assert manifest.counts == Counts(1, 0, 6, 2) and manifest.has_masks
    assert [(c.label, c.id, c.name) for c in manifest.categories] == [
        (1, 24, 'person'), (2, 25, 'rider'), (3, 26, 'car'), (4, 27, 'truck'), (5, 28, 'bus'), (6, 31, 'train'),
        (7, 32, 'motorcycle'), (8, 33, 'bicycle')]
    assert manifest.source == Source('cityscapes', str(tree.root / 'gtFine' / 'train'),
                                             str(tree.root / 'leftImg8bit' / 'train'))
    assert manifest.dropped == manifest.repaired == manifest.kept == {}


def test_the_instances_are_those_that_the_benchmark_counts(tree: Tree) -> None:
    tree.pixels()
    tree.convert()
    [record] = tree.features()
    path = tree.root / 'gtFine' / 'train' / 'aachen' / f'{BASE}_gtFine_instanceIds.png'
    [official] = instances2dict([str(path)]).values()
    counted = {each['instID']: each['pixelCount'] for name, instances in official.items() for each in instances
               if name in ('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle')}
    ours = {id - 100_000: area for id, area in
            zip(record['image/object/annotation_id'], record['image/object/area'], strict=True)}
    # Groups are no instances for the benchmark.
    assert {id: area for id, area in ours.items() if id >= 1000} == {
        id: area for id, area in counted.items() if id >= 1000}


def test_cities_and_images_are_in_order_of_names(tree: Tree) -> None:
    for base in ('zurich_000000_000001', 'bochum_000000_000002', 'bochum_000000_000001'):
        tree.picture(base)
    for base in (BASE, 'zurich_000000_000001', 'bochum_000000_000002', 'bochum_000000_000001'):
        tree.pixels(base=base)
    tree.convert()
    records = tree.features()
    assert [(record['image/id'][0], record['image/source_id'][0].decode()) for record in records] == [
        (1, BASE), (2, 'bochum_000000_000001'), (3, 'bochum_000000_000002'), (4, 'zurich_000000_000001')]
    ids = [id for record in records for id in record['image/object/annotation_id']]
    assert len(set(ids)) == len(ids) == 24


CAR = {'label': 'car', 'polygon': [[4, 2], [8, 2], [8, 9], [4, 9]]}
OBJECTS: list[dict[str, Any]] = [
    {'label': 'road', 'polygon': [[0, 0], [39, 0], [39, 23], [0, 23]]}, CAR,
    {'label': 'car', 'polygon': [[8, 5], [39, 5], [39, 7], [8, 7]]},
    {'label': 'persongroup', 'polygon': [[10, 12], [29, 12], [29, 13], [10, 13]]},
    {'label': 'license plate', 'polygon': [[5, 3], [6, 3], [6, 4]]},
    {'label': 'polegroup', 'polygon': [[30, 15], [31, 15], [31, 20]]},
    {'label': 'caravan', 'polygon': [[10, 15], [11, 15], [11, 17], [10, 17]]},
    {'label': 'truck', 'polygon': [[0, 20], [2, 20], [2, 23]], 'deleted': 1}]


@pytest.mark.parametrize(('kind', 'annotations', 'split'), [
    ('gtFine', 'fine', 'train'), ('gtCoarse', 'coarse', 'train_extra')])
def test_polygons(tree: Tree, kind: str, annotations: str, split: str) -> None:
    tree.picture(split=split)
    tree.polygons(OBJECTS, split=split, kind=kind)
    manifest = tree.convert(split, annotations)
    [record] = tree.features(split)
    # Polygons are closed at both ends: 4..8 are five columns. The second car hides 3 pixels of the first.
    assert record['image/object/annotation_id'] == [100024, 126000, 126001]
    np.testing.assert_array_equal(np.reshape(record['image/object/box'], [-1, 4]),
                                  [[12, 10, 14, 30], [2, 4, 10, 9], [5, 8, 8, 40]])
    assert record['image/object/area'] == [40, 37, 96] and record['image/object/is_crowd'] == [1, 0, 0]
    assert manifest.dropped == manifest.kept == {}


def test_pixels_come_before_polygons(tree: Tree) -> None:
    tree.polygons([CAR])
    tree.pixels(np.full([HEIGHT, WIDTH], 25000))
    tree.convert()
    assert tree.features()[0]['image/object/class/text'] == [b'rider']


LABELS = st.sampled_from(['car', 'person', 'road', 'sky', 'cargroup', 'riders', 'bicyclegroup', 'polegroup', 'caravan',
                          'license plate', 'trailergroup', 'static'])
POINTS = st.lists(st.tuples(st.integers(-5, 45), st.integers(-5, 30)), min_size=3, max_size=6)
DRAWN = st.lists(st.fixed_dictionaries({'label': LABELS.filter(lambda name: name != 'riders'), 'polygon': POINTS,
                                        'deleted': st.sampled_from([0, 0, 1])}), max_size=8)


@given(DRAWN)
@settings(max_examples=100, deadline=None)
def test_polygons_are_drawn_as_the_official_tool_draws_them(objects: list[dict[str, Any]]) -> None:
    annotation = Annotation()
    annotation.fromJsonText(json.dumps({'imgHeight': HEIGHT, 'imgWidth': WIDTH, 'objects': objects}))
    expected = np.asarray(createInstanceImage(annotation, 'ids'))
    polygons = [cityscapes.Polygon(each['label'], each['polygon']) for each in objects if not each['deleted']]
    pixels, issues = cityscapes.draw((HEIGHT, WIDTH), polygons, cityscapes.official())
    np.testing.assert_array_equal(pixels, expected)
    assert issues == []


def test_polygons_that_cannot_be_drawn_give_warnings(tree: Tree) -> None:
    tree.polygons([CAR, {'label': 'spaceship', 'polygon': CAR['polygon']},
                   {'label': 'bus', 'polygon': [[1, 1], [2, 2]]}])
    manifest = tree.convert()
    file = f'gtFine/train/aachen/{BASE}_gtFine_polygons.json'
    assert manifest.kept == {
        'unknown class': [IssueEntry(BASE, None, "'spaceship'", file)],
        'polygon with fewer than 3 points': [IssueEntry(BASE, None, 'bus: 2 points', file)]}
    assert manifest.counts.objects == 1


def test_ids_of_no_class_give_a_warning(tree: Tree) -> None:
    values = INSTANCES.copy()
    values[0, :2] = 40, 61007
    tree.pixels(values)
    assert [each.detail for each in tree.convert().kept['unknown instance ids']] == ['[40, 61007]']


def test_boxes_only_and_no_annotations(tree: Tree) -> None:
    tree.pixels()
    boxes = tree.convert(masks=False)
    assert not boxes.has_masks and 'image/object/mask' not in tree.features()[0]
    assert len(tree.features()[0]['image/object/box']) == 24
    tree.picture(split='test')
    test_set = tree.convert('test', 'none')
    assert test_set.counts == Counts(1, 1, 0, 0) and not test_set.has_masks
    assert test_set.source.annotations == ''


def malformed(kind: str) -> Any:
    return {
        'not json': '{', 'no objects': '{"imgHeight": 24, "imgWidth": 40}', 'a list': '[]', 'a number': '3',
        'no size': '{"objects": []}', 'a huge size': '{"imgHeight": 1000000, "imgWidth": 1000000, "objects": []}',
        'a size of text': '{"imgHeight": "24", "imgWidth": 40, "objects": []}',
        'objects of numbers': '{"imgHeight": 24, "imgWidth": 40, "objects": [3]}',
        'no label': '{"imgHeight": 24, "imgWidth": 40, "objects": [{"polygon": [[1, 2], [3, 4], [5, 6]]}]}',
        'no points': '{"imgHeight": 24, "imgWidth": 40, "objects": [{"label": "car"}]}',
        'a label of numbers': '{"imgHeight": 24, "imgWidth": 40, "objects": [{"label": 3, "polygon": []}]}',
        'points of three': '{"imgHeight": 24, "imgWidth": 40, "objects": [{"label": "car", "polygon": [[1, 2, 3]]}]}',
        'points of text': '{"imgHeight": 24, "imgWidth": 40, "objects": [{"label": "car", "polygon": ["ab"]}]}',
        'NaN': '{"imgHeight": 24, "imgWidth": 40, "objects": [{"label": "car", "polygon": [[1, NaN]]}]}',
        'far away': '{"imgHeight": 24, "imgWidth": 40, "objects": [{"label": "car", "polygon": [[1, 1e9]]}]}',
    }[kind]


@pytest.mark.parametrize('kind', [
    'not json', 'no objects', 'a list', 'a number', 'no size', 'a huge size', 'a size of text', 'objects of numbers',
    'no label', 'no points', 'a label of numbers', 'points of three', 'points of text', 'NaN', 'far away'])
def test_malformed_polygons_drop_the_image(tree: Tree, kind: str) -> None:
    tree.polygons([]).write_text(malformed(kind))
    tree.picture('bonn_000000_000000')
    tree.pixels(base='bonn_000000_000000')
    manifest = tree.convert()
    [[reason, [issue]]] = manifest.dropped.items()
    assert (reason, issue.image_id) == ('malformed annotation', BASE) and 'polygons.json: ' in issue.detail
    assert manifest.counts.images == 1


@pytest.mark.parametrize(('values', 'reason'), [
    (np.zeros([HEIGHT, WIDTH], np.uint8), 'malformed annotation'),             # labelIds
    (np.zeros([HEIGHT, WIDTH, 3], np.uint8), 'malformed annotation'),          # colours
    (np.zeros([WIDTH, HEIGHT], np.uint16), 'size mismatch'),
    (None, 'missing annotation file')])
def test_invalid_pixels_drop_the_image(tree: Tree, values: Any, reason: str) -> None:
    tree.pixels()
    path = tree.root / 'gtFine' / 'train' / 'aachen' / f'{BASE}_gtFine_instanceIds.png'
    path.unlink()
    if values is not None:
        Image.fromarray(values).save(path)
    tree.picture('bonn_000000_000000')
    tree.pixels(base='bonn_000000_000000')
    manifest = tree.convert()
    assert {reason: [each.image_id for each in entries] for reason, entries in manifest.dropped.items()} == {
        reason: [BASE]}


def test_wrong_folders_are_one_clear_line(tree: Tree) -> None:
    for arguments, message in (
            (('val',), r'leftImg8bit/val: no such directory; there are train; give a root that holds this split'),
            (('train',), r'gtFine/train: no such directory; unpack gtFine there, or give other annotations: none'),
            (('train', 'rough'), "annotations is 'rough', expected one of fine, coarse, none")):
        with pytest.raises(ConversionError, match=message):
            cityscapes.find(tree.root, *arguments)
    with pytest.raises(ConversionError, match='leftImg8bit/train: no such directory; give a root'):
        cityscapes.find(tree.root / 'gtFine', 'train')
    (tree.root / 'leftImg8bit' / 'val').mkdir()
    with pytest.raises(ConversionError, match=r'val: it holds no CITY/\*_leftImg8bit.png; unpack leftImg8bit there'):
        cityscapes.find(tree.root, 'val')


def test_without_cityscapesscripts_the_remedy_is_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.pixels()
    monkeypatch.setitem(__import__('sys').modules, 'cityscapesscripts.helpers.labels', None)
    with pytest.raises(ConversionError, match=r"not installed: pip install .*\[cityscapes\]'"):
        cityscapes.find(tree.root, 'train')


def test_a_data_set_can_be_pickled(tree: Tree) -> None:
    tree.pixels()
    data_set = cityscapes.find(tree.root, 'train')
    assert conversion.check(pickle.loads(pickle.dumps(data_set))) == conversion.check(data_set)
