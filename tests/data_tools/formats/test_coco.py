"""COCO to TFRecord: annotations that are unchanged, repaired or dropped, and errors that stop the conversion."""
from __future__ import annotations

import collections
import copy
import io
import json
import os
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools import conversion, examples
from data_tools.examples import Rules
from data_tools.formats import coco
from data_tools.issues import ConversionError
from data_tools.sharding import writer
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, IssueEntry, Manifest, Source

HEIGHT, WIDTH = 20, 30
NAN, INFINITE = float('nan'), float('inf')
# Pixels of rows 2..7 and columns 4..9 of an image 20 high and 30 wide: 20 to a column, 4 columns before.
RLE = {'size': [HEIGHT, WIDTH], 'counts': [82, *[6, 14] * 5, 6, 412]}
POLYGON = [4, 2, 10, 2, 10, 8, 4, 8]      # the same ones

GOOD: dict[str, Any] = {'id': 1, 'image_id': 1, 'category_id': 7, 'iscrowd': 0, 'area': 33.5, 'bbox': [4, 2, 6, 6],
                        'segmentation': [POLYGON]}
DATA: dict[str, Any] = {
    'images': [{'id': 1, 'file_name': 'a.png', 'height': HEIGHT, 'width': WIDTH}],
    'annotations': [GOOD],
    'categories': [{'id': 90, 'name': 'zebra'}, {'id': 7, 'name': 'cat'}, {'id': 12, 'name': 'dog'}]}

# Of DATA's categories, only one has an object.
UNUSED = {'category without objects': [
    IssueEntry(None, None, f'category {category}; --drop-unused-categories drops it', 'a.json')
    for category in ("12 'dog'", "90 'zebra'")]}


def annotation(**changes: Any) -> dict[str, Any]:
    changed = {**copy.deepcopy(GOOD), **changes}
    return {key: value for key, value in changed.items() if value is not ...}     # ... takes the key away


def picture(path: pathlib.Path, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(values).save(path)
    return path.read_bytes()


class Folder:
    """A data set in a directory of its own: images, json, and what is made of them."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        (path / 'images').mkdir()
        picture(path / 'images' / 'a.png')

    def convert(self, annotations: list[Any] | None = None, images: list[Any] | None = None,
                **options: Any) -> Manifest:
        data = {**DATA, 'annotations': DATA['annotations'] if annotations is None else annotations,
                'images': DATA['images'] if images is None else images}
        (self.path / 'a.json').write_text(json.dumps(data))
        return self.run(**options)

    def run(self, name: str = 'train', rules: Rules = examples.DEFAULTS, options: writer.Options = writer.DEFAULTS,
            **reading: Any) -> Manifest:
        data_set = coco.find(self.path / 'a.json', self.path / 'images', coco.Options(**reading))
        manifest = conversion.convert(data_set, self.path / 'out', name, rules, options)
        writer.summarize(manifest)
        return manifest

    def parse(self, name: str = 'train', with_masks: bool = True) -> list[dict[str, Any]]:
        path = self.path / 'out' / f'{name}.json'
        shards = tf.data.TFRecordDataset(Manifest.read(path).shard_paths(path))
        return [{key: value.numpy() for key, value in records.parse(each, with_masks).items()} for each in shards]


@pytest.fixture()
def folder(tmp_path: pathlib.Path) -> Folder:
    return Folder(tmp_path)


def decoded(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)))


def square() -> np.ndarray:
    mask = np.zeros([HEIGHT, WIDTH], np.uint8)
    mask[2:8, 4:10] = 1
    return mask


def test_an_image_and_its_object(folder: Folder) -> None:
    manifest = folder.convert()
    [record] = folder.parse()
    assert record['encoded'] == (folder.path / 'images' / 'a.png').read_bytes()
    assert (record['image_id'], record['source_id'], record['height'], record['width']) == (1, b'1', HEIGHT, WIDTH)
    np.testing.assert_array_equal(record['boxes'], [[2, 4, 8, 10]])      # y1, x1, y2, x2
    assert (record['labels'].tolist(), record['crowd'].tolist(), record['area'].tolist()) == ([1], [False], [33.5])
    assert record['annotation_ids'].tolist() == [1]
    np.testing.assert_array_equal(decoded(record['masks'][0]), square())
    assert manifest == Manifest(
        'train', [Category(1, 7, 'cat'), Category(2, 12, 'dog'), Category(3, 90, 'zebra')],
        Counts(1, 0, 1, 0), 1, {}, {}, manifest.shards, True,
        Source('coco', str(folder.path / 'a.json'), str(folder.path / 'images')), exif='error',
        kept=UNUSED)


def test_sparse_category_ids_become_labels_in_order_of_id(folder: Folder) -> None:
    folder.convert([annotation(id=i, category_id=c) for i, c in enumerate((90, 7, 12.0), 1)])
    assert folder.parse()[0]['labels'].tolist() == [3, 1, 2]


@pytest.mark.parametrize('crowd', [0, 1])
@pytest.mark.parametrize('kind', ['polygon', 'counts', 'text'])
def test_every_segmentation_with_or_without_crowd(folder: Folder, kind: str, crowd: int) -> None:
    text = coco_mask.encode(np.asfortranarray(square()))['counts'].decode()
    value = {'polygon': [POLYGON], 'counts': RLE, 'text': {'size': [HEIGHT, WIDTH], 'counts': text}}[kind]
    manifest = folder.convert([annotation(iscrowd=crowd, segmentation=value)])
    [record] = folder.parse()
    np.testing.assert_array_equal(decoded(record['masks'][0]), square())
    assert record['crowd'].tolist() == [bool(crowd)]
    assert manifest.counts == Counts(1, 0, 1, crowd)


def test_images_without_objects_are_kept(folder: Folder) -> None:
    picture(folder.path / 'images' / 'b.png')
    manifest = folder.convert([], [*DATA['images'], {'id': 5, 'file_name': 'b.png', 'height': HEIGHT, 'width': WIDTH}])
    assert manifest.counts == Counts(2, 2, 0, 0) and manifest.max_objects_per_image == 0
    assert [record['boxes'].shape for record in folder.parse()] == [(0, 4), (0, 4)]


def test_many_objects_are_all_kept(folder: Folder) -> None:
    manifest = folder.convert([annotation(id=i) for i in range(1, 131)])
    assert manifest.max_objects_per_image == 130
    assert folder.parse()[0]['annotation_ids'].tolist() == list(range(1, 131))


@pytest.mark.parametrize('bbox, box', [
    ([-2, 3, 8, 4], [3, 0, 7, 6]),
    ([25, 15, 10, 10], [15, 25, 20, 30]),
    ([-1e9, -1e9, 2e9, 2e9], [0, 0, 20, 30]),
])
def test_a_box_across_the_border_is_clipped_and_counted(folder: Folder, bbox: list[float], box: list[float]) -> None:
    manifest = folder.convert([annotation(id=9, bbox=bbox)])
    np.testing.assert_array_equal(folder.parse()[0]['boxes'], [box])
    [issue] = manifest.repaired['box clipped']
    assert (issue.image_id, issue.annotation_id) == (1, 9) and str(bbox[0]) in issue.detail
    assert manifest.dropped == {}


def test_rounding_at_the_border_is_no_repair(folder: Folder) -> None:
    # 29.9 + 0.1 is 30, and 10.1 + 9.9 is 20; neither is exact in binary.
    assert folder.convert([annotation(bbox=[29.9, 10.1, 0.1 + 1e-9, 9.9])]).repaired == {}
    np.testing.assert_allclose(folder.parse()[0]['boxes'], [[10.1, 29.9, 20, 30]], rtol=1e-7)


@pytest.mark.parametrize('changes, area', [
    ({'area': 12}, 12.0),
    ({'area': ...}, 36.0),                                        # of the mask
    ({'area': ..., 'segmentation': [[4, 2, 10, 2, 10, 5, 4, 5]]}, 18.0),
])
def test_areas(folder: Folder, changes: dict[str, Any], area: float) -> None:
    assert folder.convert([annotation(**changes)]).repaired == {}
    assert folder.parse()[0]['area'].tolist() == [area]


@pytest.mark.parametrize('area', [0, -1, NAN, INFINITE, 'much', 1e300, True])
def test_an_impossible_area_is_computed_and_counted(folder: Folder, area: Any) -> None:
    manifest = folder.convert([annotation(area=area)])
    assert folder.parse()[0]['area'].tolist() == [36.0]
    assert {reason: len(entries) for reason, entries in manifest.repaired.items()} == {'area computed': 1}


def test_a_short_polygon_beside_a_good_one_is_left_out_and_counted(folder: Folder) -> None:
    manifest = folder.convert([annotation(segmentation=[[1, 1, 2, 2], POLYGON])])
    np.testing.assert_array_equal(decoded(folder.parse()[0]['masks'][0]), square())
    assert manifest.repaired == {'polygon with fewer than 3 points': [IssueEntry(1, 1, '2 points', 'a.json')]}
    assert manifest.dropped == {}


DROPPED = [
    ({'bbox': [4, 2, 0, 6], 'segmentation': []}, 'box without area'),
    ({'bbox': [4, 2, 6, 0.0], 'segmentation': []}, 'box without area'),
    ({'bbox': [4, 2, -6, 6], 'segmentation': []}, 'box without area'),
    ({'bbox': [29, 2, 1e-9, 6], 'segmentation': []}, 'box without area'),             # nothing of it in float32
    ({'bbox': [31, 2, 5, 6]}, 'box outside the image'),
    ({'bbox': [30, 2, 5, 6]}, 'box outside the image'),           # touches the border
    ({'bbox': [-6, 2, 6, 6]}, 'box outside the image'),
    ({'bbox': [4, -20, 6, 6]}, 'box outside the image'),
    ({'bbox': [4, 200, 6, 6]}, 'box outside the image'),
    ({'bbox': [4, NAN, 6, 6], 'segmentation': []}, 'non-finite numbers'),
    ({'bbox': [4, 2, INFINITE, 6], 'segmentation': []}, 'non-finite numbers'),
    ({'bbox': [4, 2, 6], 'segmentation': []}, 'malformed box'),
    ({'bbox': [4, 2, 6, 'x'], 'segmentation': []}, 'malformed box'),
    ({'bbox': [4, 2, 6, 10 ** 400], 'segmentation': []}, 'non-finite numbers'),
    ({'bbox': {}, 'segmentation': []}, 'malformed box'),
    ({'bbox': ..., 'segmentation': ...}, 'malformed box'),
    ({'bbox': [4, 2, 6, 6, 30], 'segmentation': []}, 'rotated box'),
    ({'category_id': 8}, 'category not in the list'),
    ({'category_id': '7x'}, 'category not in the list'),
    ({'category_id': True}, 'category not in the list'),
    ({'category_id': 7.5}, 'category not in the list'),
    ({'category_id': [7]}, 'category not in the list'),
    ({'category_id': ...}, 'category not in the list'),
    ({'image_id': 2}, 'annotation for a missing image'),
    ({'image_id': [1]}, 'annotation for a missing image'),
    ({'image_id': NAN}, 'annotation for a missing image'),
    ({'image_id': ...}, 'annotation for a missing image'),
    ({'segmentation': [[4, 2, 10, 8]]}, 'polygon with fewer than 3 points'),
    ({'segmentation': [[4, 2, 10, 8], [1, 1]]}, 'polygon with fewer than 3 points'),
    ({'segmentation': [[4, 2, 10, 2, 10, 8, 4]]}, 'malformed polygon'),
    ({'segmentation': [[4, 2, 10, 2, NAN, 8]]}, 'non-finite numbers'),
    ({'segmentation': 7}, 'malformed segmentation'),
    ({'segmentation': {**RLE, 'size': [WIDTH, HEIGHT]}}, 'mask of another size'),
    ({'segmentation': {**RLE, 'counts': [82, 518, 3]}}, 'malformed RLE'),
    ({'segmentation': {**RLE, 'counts': [600]}}, 'empty mask'),
]


@pytest.mark.parametrize('changes, reason', DROPPED)
def test_an_annotation_is_dropped_and_counted(
        folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any],
        reason: str) -> None:
    monkeypatch.setenv('COLUMNS', '200')
    manifest = folder.convert([annotation(id=8, **changes), annotation(id=9)])
    assert {reason: [issue.annotation_id for issue in entries] for reason, entries in manifest.dropped.items()} == {
        reason: [8]}
    assert {issue.file for entries in manifest.dropped.values() for issue in entries} == {'a.json'}
    assert manifest.repaired == {} and manifest.counts == Counts(1, 0, 1, 0)
    assert folder.parse()[0]['annotation_ids'].tolist() == [9]
    [row] = [line for line in capsys.readouterr().out.splitlines() if 'dropped' in line]
    assert [cell.strip() for cell in row.split('│')[1:4]] == ['dropped', reason, '1']



IMAGES = {
    'missing image file': lambda path: None,
    'corrupt image': lambda path: path.write_bytes((path.parent / 'a.png').read_bytes()[:-200]),
    'image format that needs --transcode': lambda path: Image.new('RGB', (WIDTH, HEIGHT)).save(path, 'BMP'),
    'unsupported image format': lambda path: Image.new('CMYK', (WIDTH, HEIGHT)).save(path, 'TIFF'),
    'size mismatch': lambda path: picture(path, WIDTH, HEIGHT),
}


@pytest.mark.parametrize('reason', IMAGES)
def test_an_image_is_dropped_with_its_annotations_and_counted(folder: Folder, reason: str) -> None:
    IMAGES[reason](folder.path / 'images' / 'b.jpg')
    manifest = folder.convert(
        [annotation(id=1, image_id=40), annotation(id=2, image_id=40), annotation(id=3)],
        [{'id': 40, 'file_name': 'b.jpg', 'height': HEIGHT, 'width': WIDTH}, *DATA['images']],
        rules=Rules(allow_loss=True))
    [[logged, [issue]]] = manifest.dropped.items()
    assert (logged, issue.image_id, issue.annotation_id, issue.file) == (reason, 40, None, 'b.jpg')
    assert 'b.jpg' in issue.detail and issue.detail.endswith(' (and its 2 annotations)')
    assert manifest.counts == Counts(1, 0, 1, 0)
    assert [record['image_id'] for record in folder.parse()] == [1]


def test_an_image_of_another_format_is_transcoded_on_request(
        folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(folder.path / 'images' / 'b.jpg', 'TIFF')
    listed = [{'id': 40, 'file_name': 'b.jpg', 'height': HEIGHT, 'width': WIDTH}, *DATA['images']]
    folder.convert([annotation(image_id=40), annotation()], listed)
    assert '1 of the dropped images would be kept with --transcode' in capsys.readouterr().out
    manifest = folder.convert([annotation(image_id=40), annotation()], listed,
                              rules=Rules(transcode=True, strict=True))
    assert (manifest.dropped, manifest.repaired) == ({}, {'image transcoded to PNG': [
        IssueEntry(40, None, 'TIFF', 'b.jpg')]})
    first = folder.parse()[0]
    np.testing.assert_array_equal(tf.io.decode_png(first['encoded']), pixels)
    assert 'would be kept with --transcode' not in capsys.readouterr().out


@pytest.mark.parametrize('size', [(None, None), (0, 0), (-1, WIDTH), (str(HEIGHT), str(WIDTH)), (NAN, True)])
def test_an_invalid_size_is_not_compared(folder: Folder, size: tuple[Any, Any]) -> None:
    manifest = folder.convert(images=[{'id': 1, 'file_name': 'a.png', 'height': size[0], 'width': size[1]}])
    assert manifest.counts == Counts(1, 0, 1, 0) and manifest.dropped == {}
    assert manifest.kept == {**UNUSED, 'size not stated': [
        IssueEntry(1, None, f'height {size[0]!r}, width {size[1]!r}', 'a.json')]}


@pytest.mark.parametrize('crowd', ['yes', 2, [1]])
def test_an_invalid_crowd_flag_gives_a_warning(folder: Folder, crowd: Any) -> None:
    manifest = folder.convert([annotation(iscrowd=crowd)])
    assert manifest.counts.crowds == 0 and manifest.kept == {**UNUSED, 'iscrowd neither 0 nor 1': [
        IssueEntry(1, 1, f'iscrowd is {crowd!r}', 'a.json')]}


@pytest.mark.parametrize(('text', 'crowds'), [('1', 1), ('0', 0)])
def test_a_crowd_flag_may_be_text(folder: Folder, text: str, crowds: int) -> None:
    manifest = folder.convert([annotation(iscrowd=text)])
    assert manifest.counts == Counts(1, 0, 1, crowds)
    assert manifest.repaired == {'iscrowd as text': [IssueEntry(1, 1, f'iscrowd is {text!r}', 'a.json')]}


def test_crowds_may_be_single_objects(folder: Folder) -> None:
    """Brush tools mark every mask as a crowd: the set gets a warning, and on request they are objects."""
    assert folder.convert([annotation(iscrowd=1)]).counts.crowds == 1
    data_set = coco.find(folder.path / 'a.json', folder.path / 'images', coco.Options(crowds=False))
    manifest = conversion.check(data_set)
    assert manifest.counts == Counts(1, 0, 1, 0)
    assert manifest.repaired['crowd taken as one object'] == [IssueEntry(1, 1, 'iscrowd is 1', 'a.json')]


def test_a_corrupt_jpeg_is_dropped(folder: Folder) -> None:
    whole = picture(folder.path / 'images' / 'b.jpg')
    (folder.path / 'images' / 'b.jpg').write_bytes(whole[:len(whole) // 2])
    manifest = folder.convert([], [*DATA['images'], {'id': 2, 'file_name': 'b.jpg', 'height': HEIGHT, 'width': WIDTH}])
    assert [issue.image_id for issue in manifest.dropped['corrupt image']] == [2]


def test_a_photograph_that_is_not_rotated(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (HEIGHT, WIDTH)).save(folder.path / 'images' / 'b.jpg', exif=exif)
    manifest = folder.convert([], [*DATA['images'], {'id': 2, 'file_name': 'b.jpg', 'height': HEIGHT, 'width': WIDTH}],
                              rules=Rules(exif='ignore'))
    assert manifest.dropped['size mismatch'] == [IssueEntry(
        2, None, 'b.jpg: height 30, width 20, with EXIF orientation 6; the annotations say height 20, '
                 'width 30: exchanged', 'b.jpg')]


def test_an_image_without_a_stated_size_has_that_of_the_file(folder: Folder) -> None:
    folder.convert(images=[{'id': 1, 'file_name': 'a.png'}])
    assert [(record['height'], record['width']) for record in folder.parse()] == [(HEIGHT, WIDTH)]


def test_files_in_folders_and_jpeg(folder: Folder) -> None:
    (folder.path / 'images' / 'sub').mkdir()
    data = picture(folder.path / 'images' / 'sub' / 'b.jpg')
    folder.convert([], [{'id': 3, 'file_name': 'sub/b.jpg', 'height': HEIGHT, 'width': WIDTH}], name='val')
    [record] = folder.parse('val')
    assert (record['encoded'], record['image_id']) == (data, 3)


def test_ids_that_are_text_become_ordinals(folder: Folder) -> None:
    picture(folder.path / 'images' / 'b.png')
    size = {'height': HEIGHT, 'width': WIDTH}
    images = [{'id': 'x', 'file_name': 'a.png', **size}, {'id': 77, 'file_name': 'b.png', **size}]
    folder.convert([annotation(id='p', image_id='x'), annotation(id=..., image_id=77), annotation(id=6, image_id=77)],
                   images)
    first, second = folder.parse()
    assert (first['image_id'], first['source_id'], first['annotation_ids'].tolist()) == (1, b'x', [1])
    assert (second['image_id'], second['source_id'], second['annotation_ids'].tolist()) == (2, b'77', [2, 6])


@pytest.mark.parametrize('bbox', [[4, 2, 0, 6], [0, 0, 0, 0], [], [4, 2, NAN, 6], {}, [4, 2, 6, 6, 30]], ids=str)
def test_an_invalid_box_is_replaced_by_that_of_the_mask(folder: Folder, bbox: Any) -> None:
    manifest = folder.convert([annotation(bbox=bbox)])
    np.testing.assert_array_equal(folder.parse()[0]['boxes'], [[2, 4, 8, 10]])
    assert (manifest.dropped, list(manifest.repaired)) == ({}, ['box computed'])
    boxes = folder.run(masks=False)
    np.testing.assert_array_equal(folder.parse(with_masks=False)[0]['boxes'], [[2, 4, 8, 10]])
    assert (boxes.dropped, list(boxes.repaired), boxes.has_masks) == ({}, ['box computed'], False)


@pytest.mark.parametrize('missing', [[], None, [[]], {}, ...], ids=str)
def test_an_object_with_a_box_only_is_kept(folder: Folder, capsys: pytest.CaptureFixture[str], missing: Any) -> None:
    """With an empty mask and the mark; `--boxes` leaves out all masks."""
    manifest = folder.convert([annotation(id=8, segmentation=missing), annotation(id=9)])
    [record] = folder.parse()
    assert record['has_mask'].tolist() == [False, True] and not decoded(record['masks'][0]).any()
    np.testing.assert_array_equal(decoded(record['masks'][1]), square())
    assert manifest.counts == Counts(1, 0, 2, 0, 1) and manifest.has_masks and manifest.dropped == {}
    assert [each.annotation_id for each in manifest.kept['object without a mask']] == [8]
    assert '1 of 2 objects have a box and no mask: they have box losses' in capsys.readouterr().out
    boxes = folder.run(masks=False)
    assert boxes.counts == Counts(1, 0, 2, 0) and boxes.kept == UNUSED and not boxes.has_masks


def test_the_format_of_boxes(folder: Folder) -> None:
    """Corners stop the conversion before anything is written, unless the format is given; nothing else does."""
    corners = [annotation(id=i, bbox=[x, 10, x + 6, 18], segmentation=[]) for i, x in enumerate((14, 20, 24), 1)]
    with pytest.raises(ConversionError, match='a.json: 3 of 3 boxes end beyond the image; they look like x1, y1, x2'):
        folder.convert(corners)
    assert not (folder.path / 'out').exists()
    folder.convert(corners, box_format='xyxy')
    np.testing.assert_array_equal(folder.parse(with_masks=False)[0]['boxes'][0], [10, 14, 18, 20])
    assert folder.convert(corners, box_format='xywh').repaired.keys() == {'box clipped'}


def test_polygons_in_fractions_of_the_image(folder: Folder) -> None:
    unit = [v / side for v, side in zip(POLYGON, (WIDTH, HEIGHT) * 4, strict=True)]
    manifest = folder.convert([annotation(bbox=None, segmentation=[unit])])
    np.testing.assert_array_equal(decoded(folder.parse()[0]['masks'][0]), square())
    assert set(manifest.repaired) == {'box computed', 'segmentation in another form'}


def test_an_annotation_without_id_is_named_by_its_place(folder: Folder) -> None:
    manifest = folder.convert([annotation(), annotation(id=..., bbox=[1], segmentation=[]),
                               annotation(id=None, image_id=9)], rules=Rules(allow_loss=True))
    assert {reason: [each.annotation_id for each in entries] for reason, entries in manifest.dropped.items()} == {
        'malformed box': ['number 2'], 'annotation for a missing image': ['number 3']}


def test_a_missing_box_is_replaced_by_that_of_the_mask(folder: Folder) -> None:
    manifest = folder.convert([annotation(bbox=None), annotation(id=2, bbox=...)])
    assert [issue.annotation_id for issue in manifest.repaired['box computed']] == [1, 2]
    np.testing.assert_array_equal(folder.parse()[0]['boxes'], [[2, 4, 8, 10]] * 2)


def test_an_object_that_is_listed_again_gives_a_warning(folder: Folder) -> None:
    # Of the same box: another category, another mask, a crowd; then all equal but the id and the area.
    manifest = folder.convert([
        annotation(id=1), annotation(id=2, category_id=12), annotation(id=3, segmentation=[[4, 2, 10, 2, 10, 8]]),
        annotation(id=4, iscrowd=1), annotation(id=5, area=1), annotation(id=..., bbox=[4, 2, 6, 6])])
    assert [(each.image_id, each.detail) for each in manifest.kept['object listed again']] == [
        (1, 'annotation 5 is the same as 1'), (1, 'annotation number 6 is the same as 1')]
    assert manifest.counts.objects == 6


def test_a_file_of_several_images_is_named_with_their_ids(folder: Folder) -> None:
    (folder.path / 'images' / 'B.png').write_bytes((folder.path / 'images' / 'a.png').read_bytes())
    manifest = folder.convert(images=[{'id': i, 'file_name': name} for i, name in enumerate(
        ('a.png', 'x\\a.png', './a.png', 'B.png', 'gone.png', 'gone.png'), 1)])
    assert manifest.kept['file of several images'] == [IssueEntry(
        2, None, "'a.png' is the file of the images 1 and 2 and 3; in each, the objects of the others are background: "
                 'give them one id', 'a.png')]
    assert [each.image_id for each in manifest.dropped['missing image file']] == [5, 6]


def test_objects_of_other_categories_are_dropped(folder: Folder) -> None:
    (folder.path / 'keep.txt').write_text('zebra\n12\n')
    manifest = folder.convert([annotation(id=1), annotation(id=2, category_id='90'), annotation(id=3, category_id=12)],
                              categories=folder.path / 'keep.txt', rules=Rules(allow_loss=False))
    assert [(each.label, each.id) for each in manifest.categories] == [(1, 12), (2, 90)]
    [record] = folder.parse()
    assert (record['annotation_ids'].tolist(), record['labels'].tolist()) == ([2, 3], [2, 1])
    assert manifest.dropped == {'category left out': [IssueEntry(None, None, "category 7 'cat': 1 object", 'a.json')]}


def test_a_box_beside_its_mask_is_kept_and_counted(folder: Folder) -> None:
    # Of the mask 4..10 x 2..8: half of a box twice as wide, the whole of itself, nothing elsewhere.
    manifest = folder.convert([annotation(id=i, bbox=box) for i, box in enumerate(
        ([4, 2, 6, 6], [4, 2, 12, 6], [4, 2, 12.5, 6], [20, 12, 6, 6]), 1)])
    assert [issue.annotation_id for issue in manifest.kept['box and mask disagree']] == [3, 4]
    assert manifest.counts.objects == 4 and manifest.dropped == {}


@pytest.mark.parametrize('categories', [DATA['categories'], ...])
@pytest.mark.parametrize('annotations', [[], ...])
def test_a_test_set_without_annotations(folder: Folder, annotations: Any, categories: Any) -> None:
    data = {'images': DATA['images'], 'annotations': annotations, 'categories': categories}
    (folder.path / 'a.json').write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))
    manifest = folder.run()
    assert manifest.counts == Counts(1, 1, 0, 0) and not manifest.has_masks
    assert len(manifest.categories) == (0 if categories is ... else 3)
    assert [record['image_id'] for record in folder.parse(with_masks=False)] == [1]


def test_lvis(folder: Folder) -> None:
    """No iscrowd, a URL in place of the name, ids beyond 32 bits; its folders may lie in one."""
    for path in (folder.path / 'images' / 'train2017', folder.path / 'images' / 'val2017'):
        path.mkdir()
    first = picture(folder.path / 'images' / 'train2017' / '000000000009.png')
    second = picture(folder.path / 'images' / '000000000025.png')
    url, size = 'http://images.cocodataset.org', {'height': HEIGHT, 'width': WIDTH}
    images = [{'id': 9, 'coco_url': f'{url}/train2017/000000000009.png', 'not_exhaustive_category_ids': [], **size},
              {'id': 2 ** 40, 'coco_url': f'{url}/val2017/000000000025.png', **size}]
    manifest = folder.convert([annotation(id=2 ** 50, image_id=9, iscrowd=...)], images)
    assert manifest.dropped == {} and manifest.counts == Counts(2, 1, 1, 0)
    records_ = folder.parse()
    assert [record['encoded'] for record in records_] == [first, second]
    assert [record['image_id'] for record in records_] == [9, 2 ** 40]
    assert (records_[0]['annotation_ids'].tolist(), records_[0]['crowd'].tolist()) == ([2 ** 50], [False])


def test_many_categories_with_large_ids(folder: Folder) -> None:
    (folder.path / 'a.json').write_text(json.dumps({
        **DATA, 'categories': [{'id': 2 ** 40 - 7 * i, 'name': f'c{i}'} for i in range(1203)],
        'annotations': [annotation(category_id=2 ** 40), annotation(category_id=2 ** 40 - 7 * 1202)]}))
    manifest = folder.run()
    assert [(c.label, c.id, c.name) for c in manifest.categories[::1202]] == [
        (1, 2 ** 40 - 7 * 1202, 'c1202'), (1203, 2 ** 40, 'c0')]
    assert folder.parse()[0]['labels'].tolist() == [1203, 1]


def test_ids_beyond_64_bits_become_ordinals(folder: Folder) -> None:
    image = {**DATA['images'][0], 'id': 2 ** 64}
    folder.convert([annotation(id=2 ** 63, image_id=2 ** 64)], [image])
    [record] = folder.parse()
    assert (record['image_id'], record['source_id'], record['annotation_ids'].tolist()) == (
        1, str(2 ** 64).encode(), [1])


def test_boxes_only(folder: Folder) -> None:
    whole = folder.convert([annotation(segmentation=..., area=...)])
    assert not whole.has_masks and whole.dropped == {}
    assert folder.parse(with_masks=False)[0]['area'].tolist() == [36.0]
    assert not folder.convert([annotation(segmentation='none')], masks=False).has_masks
    assert folder.parse(with_masks=False)[0]['labels'].tolist() == [1]
    with pytest.raises(tf.errors.InvalidArgumentError, match='masks of 0 objects, labels of 1'):
        folder.parse()


def test_a_data_set_can_be_pickled(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write, options = writer.write, writer.Options(images_per_shard=2)

    def through_pickle(items: Any, make: Any, head: Any, *others: Any) -> Manifest:
        assert others[-2] is options
        return write(*pickle.loads(pickle.dumps((items, make, head))), *others)

    plain = folder.convert()
    monkeypatch.setattr(writer, 'write', through_pickle)
    assert folder.convert(options=options) == plain


def without(key: str, index: int | None = None, field: str = '') -> dict[str, Any]:
    data = copy.deepcopy(DATA)
    if index is None:
        del data[key]
    else:
        del data[key][index][field]
    return data


def with_(key: str, value: Any) -> dict[str, Any]:
    return {**copy.deepcopy(DATA), key: value}


@pytest.mark.parametrize('data, message', [
    ('', r'not JSON at line 1 column 1'),
    ('{"images": [\n  {"id": 1,}\n]}', r'not JSON at line 2 column \d+: .*; correct it there, or copy the file again'),
    (json.dumps(DATA)[:-20], r'not JSON at line 1 column \d+'),
    (b'{"a": "\xff"}', 'not JSON at byte 7: not UTF-8: save it as UTF-8'),
    ('[1]', "no list 'images'; give an instances json"),
    (without('images'), "no list 'images'"),
    (with_('annotations', None), "'annotations' is no list"),
    (without('categories'), "no list 'categories'"),
    (with_('annotations', [{'id': 1, 'image_id': 1, 'keypoints': [1, 2, 2]}]),
     'its annotations are keypoints and have neither "bbox" nor "segmentation", so there are no objects; give'),
    (with_('annotations', [{'id': 1, 'image_id': 1, 'caption': 'a cat'}]), 'its annotations are captions'),
    (json.dumps({'images': [], 'annotations': [{'id': 1, 'image_id': 1, 'caption': 'a cat'}]}),
     'its annotations are captions'),
    (with_('annotations', [{'image_id': 1, 'segments_info': [{'id': 9}]}]), 'its annotations are panoptic segments'),
    (with_('categories', {}), 'categories is empty'),
    (with_('categories', {'7': 'cat'}), r"categories\['7'\] is 'cat', expected an object in braces"),
    (with_('categories', 7), "'categories' is no list"),
    (with_('annotations', [GOOD, 5]), r'annotations\[1\] is 5, expected an object in braces'),
    (without('images', 0, 'file_name'), r'images\[0\] needs an "id"'),
    (without('images', 0, 'id'), r'images\[0\] needs an "id"'),
    (with_('images', [{'id': '\ud800', 'file_name': 'a.png'}]), r'images\[0\] needs an "id"'),
    (with_('images', [{'id': 1, 'file_name': '\udfff.png'}]), r'images\[0\] needs an "id"'),
    (with_('images', [{'id': 1, 'file_name': ''}]), r'images\[0\] needs an "id"'),
    (with_('images', DATA['images'] * 2), 'image id 1 is listed twice'),
    (with_('images', []), r'no image is left to write \(1 annotation for a missing image\)'),
    (without('categories', 1, 'name'), r'categories\[1\] needs an int "id" and a text "name"'),
    (without('categories', 2, 'id'), r'categories\[2\] needs an int "id" and a text "name"'),
    (json.dumps(DATA)[:-1] + ', "images": []}', "two lists 'images'"),
    (with_('categories', []), 'categories is empty'),
    (with_('categories', [{'id': 7, 'name': 'a'}] * 2), 'category id 7 is listed twice'),
])
def test_a_json_that_is_not_cocos_is_one_clear_line(folder: Folder, data: Any, message: str) -> None:
    path = folder.path / 'a.json'
    path.write_bytes(data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else
                     json.dumps(data).encode())
    with pytest.raises(ConversionError, match=f'^{path}: .*{message}') as error:
        folder.run()
    assert '\n' not in str(error.value)
    assert not (folder.path / 'out').exists() or not list((folder.path / 'out').iterdir())


def test_a_json_that_changes_during_the_conversion(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch(*arguments: Any) -> Manifest:
        os.utime(folder.path / 'a.json', ns=(0, 0))
        return write(*arguments)

    write = writer.write
    monkeypatch.setattr(writer, 'write', touch)
    with pytest.raises(ConversionError, match='a.json: it was changed while its images were converted; convert it aga'):
        folder.convert()


def test_annotations_before_images_and_images_in_any_order(folder: Folder) -> None:
    picture(folder.path / 'images' / 'b.png')
    images = [{'id': i, 'file_name': f'{name}.png'} for i, name in ((5, 'b'), (1, 'a'), (3, 'a'))]
    entries = [annotation(id=i, image_id=image) for i, image in enumerate((3, 5, 3, 77, 5, 3.0), 1)]
    (folder.path / 'a.json').write_text(json.dumps({
        'annotations': entries, 'info': {'images': [1]}, 'licenses': [{}], 'categories': DATA['categories'],
        'images': images}))
    manifest = folder.run()
    assert [(r['image_id'], r['annotation_ids'].tolist()) for r in folder.parse()] == [
        (5, [2, 5]), (1, []), (3, [1, 3, 6])]
    assert manifest.dropped == {'annotation for a missing image': [
        IssueEntry(77, 4, 'image_id 77 is not in the list', 'a.json')]}


def test_a_missing_json(folder: Folder) -> None:
    with pytest.raises(ConversionError, match='a.json: No such file or directory; give an instances json'):
        folder.run()


def test_a_wrong_directory_of_images(folder: Folder) -> None:
    (folder.path / 'images' / 'a.png').unlink()
    message = r'no image is left to write \(1 missing image file\); is .*images their directory'
    with pytest.raises(ConversionError, match=message):
        folder.convert()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_nuclei(tmp_path: pathlib.Path, nuclei_dir: pathlib.Path, split: str) -> None:
    path = nuclei_dir / 'annotations' / f'instances_{split}.json'
    manifest = coco.convert(path, nuclei_dir / 'images', tmp_path, split)
    assert manifest.counts == {'train': Counts(267, 0, 7680, 0), 'val': Counts(40, 0, 1067, 0)}[split]
    assert manifest.max_objects_per_image == {'train': 99, 'val': 90}[split]
    assert manifest.dropped == {} and manifest.repaired == {} and manifest.has_masks
    _agree(path, nuclei_dir / 'images', tmp_path / f'{split}.json')


@pytest.mark.parametrize('split', ['train2017', 'val2017'])
def test_coco(tmp_path: pathlib.Path, coco_dir: pathlib.Path, split: str) -> None:
    path = coco_dir / 'annotations' / f'instances_{split}.json'
    manifest = coco.convert(path, coco_dir / split, tmp_path, split)
    assert manifest.counts == {
        'train2017': Counts(47, 0, 524, 6), 'val2017': Counts(57, 2, 517, 7)}[split]
    assert manifest.dropped == {}
    assert [(c.label, c.id, c.name) for c in manifest.categories][::79] == [(1, 1, 'person'), (80, 90, 'toothbrush')]
    _agree(path, coco_dir / split, tmp_path / f'{split}.json')


def _agree(annotations: pathlib.Path, images: pathlib.Path, path: pathlib.Path) -> None:
    """Each record against the json, its masks as pycocotools decodes them."""
    data = json.loads(annotations.read_text())
    manifest = Manifest.read(path)
    ids = {category.label: category.id for category in manifest.categories}
    listed = {image['id']: image for image in data['images']}
    of_image = collections.defaultdict(list)
    for each in data['annotations']:
        of_image[each['image_id']].append(each)
    shards = tf.data.TFRecordDataset(manifest.shard_paths(path))
    for record in shards.map(lambda serialized: records.parse(serialized, True)).as_numpy_iterator():
        image, expected = listed.pop(int(record['image_id'])), of_image[int(record['image_id'])]
        assert record['encoded'] == (images / image['file_name']).read_bytes()
        boxes = np.array([each['bbox'] for each in expected]).reshape(-1, 4)
        np.testing.assert_allclose(record['boxes'][:, [1, 0]], boxes[:, :2], rtol=1e-6)
        np.testing.assert_allclose(record['boxes'][:, [3, 2]], boxes[:, :2] + boxes[:, 2:], rtol=1e-6)
        assert [ids[label] for label in record['labels']] == [each['category_id'] for each in expected]
        assert record['annotation_ids'].tolist() == [each['id'] for each in expected]
        assert record['crowd'].tolist() == [each['iscrowd'] == 1 for each in expected]
        np.testing.assert_allclose(record['area'], [each['area'] for each in expected], rtol=1e-6)
        for each, png in list(zip(expected, record['masks'], strict=True))[:5]:
            np.testing.assert_array_equal(decoded(png), _mask(each['segmentation'], image['height'], image['width']))
    assert not listed


def _mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list) or isinstance(segmentation['counts'], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(coco_mask.merge(segmentation) if isinstance(segmentation, list) else segmentation)
