"""Conversion and checking for all formats: EXIF, strictness, empty images; a check finds the same issues."""
from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools import conversion, data_set, examples, issues
from data_tools.data_set import ConvertedObject, DataSet, ImageAnnotations, Item
from data_tools.examples import Rules
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, InvalidDataError, Issue
from mrcnn_tf.config import Config, DataConfig, ModelConfig
from mrcnn_tf.input import records
from mrcnn_tf.input.dataset import training_dataset
from mrcnn_tf.input.manifest import Category, Counts, IssueEntry, Manifest, Source

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


@dataclass(frozen=True)
class Fixed:
    """Annotations that the item itself holds: size and left edges of the objects."""
    images: pathlib.Path

    def path(self, item: Item) -> pathlib.Path:
        return self.images / item.file_name

    def read(self, item: Item) -> ImageAnnotations:
        if item.reference == 'unreadable':
            raise InvalidDataError('malformed xml', 'line 1')
        size, lefts = item.reference
        warnings = [Issue('unusual name', 'x')] if 5 in lefts else []
        return ImageAnnotations(list(enumerate(lefts, 1)), 'a.json', size, 3, warnings)

    def convert_object(self, item: Item, value: Any, file: ImageFile) -> ConvertedObject:
        if value < 0:
            raise InvalidDataError('box outside the image', f'at {value}')
        repairs = [Issue('box clipped', 'by 2')] if value == 2 else []
        warnings = [Issue('box and mask disagree', 'a lot')] if value == 3 else []
        annotation = records.ObjectAnnotation((0, value, 1, value + 1), 1, 'cat', 1., value == 4)
        return ConvertedObject(annotation, repairs, warnings)


def make_data_set(path: pathlib.Path, annotations: dict[str, Any], orientation: int = 1, mode: str = 'RGB') -> DataSet:
    """Return images of 8 x 12 with annotations: by file name, what `Fixed` reads of it."""
    for name in annotations:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(PIXELS).convert(mode).save(path / name, exif=exif)
    items = [Item(f'id {i}', i, name, 100, 0, value, 'val') for i, (name, value) in
             enumerate(annotations.items(), 1)]
    head = Manifest('', [Category(1, 1, 'cat')], Counts(), 0, {}, {}, [], False,
                            Source('coco', 'a.json', str(path)))
    return DataSet(head, items, Fixed(path))


def written(path: pathlib.Path) -> list[dict[str, list[Any]]]:
    shards = Manifest.read(path).shard_paths(path)
    features = [tf.train.Example.FromString(each.numpy()).features.feature for each in tf.data.TFRecordDataset(shards)]
    return [{key: list(getattr(value, value.WhichOneof('kind')).value) if value.WhichOneof('kind') else []
             for key, value in record.items()} for record in features]


ANNOTATIONS = {
    'a.png': ((8, 12), [0, 1, 4]), 'b.png': ((8, 12), []), 'c.png': ((12, 8), [0, 1]), 'd.jpg': ((8, 12), [2, -1]),
    'e.jpg': (None, [-1]), 'f.jpg': 'unreadable', 'g.png': ((8, 12), [3, 5])}
EXCHANGED = 'c.png: height 8, width 12; the annotations say height 12, width 8: exchanged'
DROPPED = {
    'size mismatch': [IssueEntry(
        'id 3', None, f'{EXCHANGED} (and its 2 annotations)', 'c.png', 2)],
    'box outside the image': [IssueEntry('id 4', 2, 'at -1', 'a.json'),
                              IssueEntry('id 5', 1, 'at -1', 'a.json')],
    'malformed xml': [IssueEntry('id 6', None, 'line 1', 'f.jpg')]}
REPAIRED = {'box clipped': [IssueEntry('id 4', 1, 'by 2', 'a.json')]}
KEPT = {'unusual name': [IssueEntry('id 7', None, 'x', 'a.json')],
        'box and mask disagree': [IssueEntry('id 7', 1, 'a lot', 'a.json')]}


def test_check_lists_what_convert_drops_repairs_and_keeps(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, ANNOTATIONS)
    checked = conversion.check(data_set)
    assert (checked.dropped, checked.repaired, checked.kept) == (DROPPED, REPAIRED, KEPT)
    assert checked.counts == Counts(images=5, images_without_objects=2, objects=6, crowds=1)
    assert checked.max_objects_per_image == 3 and checked.shards == []
    manifest = conversion.convert(data_set, tmp_path / 'out', 'val')
    assert (manifest.counts, manifest.dropped, manifest.repaired, manifest.kept, manifest.max_objects_per_image) == (
        checked.counts, checked.dropped, checked.repaired, checked.kept, checked.max_objects_per_image)
    assert manifest == Manifest.read(tmp_path / 'out' / 'val.json')
    assert [record['image/source_id'] for record in written(tmp_path / 'out' / 'val.json')] == [
        [f'id {i}'.encode()] for i in (1, 2, 4, 5, 7)]


def test_two_processes_find_the_same(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, ANNOTATIONS)
    assert conversion.check(data_set, workers=2) == conversion.check(data_set)


def test_images_without_objects_are_dropped_on_request(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, ANNOTATIONS)
    manifest = conversion.convert(data_set, tmp_path / 'out', 'val', Rules(keep_empty=False))
    assert [issue.image_id for issue in manifest.dropped['image without objects']] == ['id 2', 'id 5']
    assert manifest.counts == Counts(3, 0, 6, 1)


@pytest.mark.parametrize('annotations, message', [
    ({'a.png': ((8, 12), [0]), 'd.png': ((8, 12), [2])},
     'a.json: image id 2, annotation 1: would be repaired, box clipped: by 2; fix it or convert without --strict'),
    ({'c.png': ((12, 8), [])},
     f'c.png: image id 1: would be dropped, size mismatch: {EXCHANGED}; fix it or convert without --strict')])
def test_strict_stops_at_the_first(tmp_path: pathlib.Path, annotations: dict[str, Any], message: str) -> None:
    data_set = make_data_set(tmp_path, annotations)
    for run in (lambda: conversion.check(data_set, Rules(strict=True)),
                lambda: conversion.convert(data_set, tmp_path / 'out', 'val', Rules(strict=True))):
        with pytest.raises(ConversionError) as error:
            run()
        assert str(error.value) == message
    assert not (tmp_path / 'out').exists()


def test_strict_stops_at_an_issue_of_the_annotations(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, {'a.png': ((8, 12), [0])})
    data_set.head.dropped['annotation for a missing image'] = [IssueEntry(7, 1, '7', 'a.json')]
    for run in (lambda: conversion.check(data_set, Rules(strict=True)),
                lambda: conversion.convert(data_set, tmp_path / 'out', 'val', Rules(strict=True))):
        with pytest.raises(ConversionError, match='a.json: image 7, annotation 1: would be dropped, annotation for'):
            run()


def test_strict_ignores_warnings_and_requested_drops(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'warnings').mkdir()
    unusual = make_data_set(tmp_path / 'warnings', {'a.png': ((8, 12), [3, 5]), 'b.png': ((8, 12), [])})
    assert conversion.check(unusual, Rules(strict=True, keep_empty=False)).counts.images == 1
    turned = make_data_set(tmp_path, {'a.jpg': ((12, 8), [0])}, orientation=6)
    assert conversion.check(turned, Rules(strict=True, exif='apply')).counts.images == 1


@pytest.mark.parametrize('size, hint', [
    ((12, 8), '; the annotated size is that of exif apply'), ((8, 12), '; the annotated size is that of exif ignore'),
    (None, ''), ((5, 5), '')])
def test_an_exif_orientation_stops_the_conversion(tmp_path: pathlib.Path, size: Any, hint: str) -> None:
    data_set = make_data_set(tmp_path, {'a.jpg': (size, [0])}, orientation=6)
    with pytest.raises(ConversionError) as error:
        conversion.convert(data_set, tmp_path / 'out', 'val')
    detail = ('orientation 6: give exif apply if the annotations are for the rotated image, ignore if they are for the '
              f'pixels as stored{hint} (and its 1 annotations)')
    assert str(error.value) == f'a.jpg: image id 1: stopped, EXIF orientation: {detail}'
    # A check lists them all.
    assert conversion.check(data_set).dropped == {'EXIF orientation': [IssueEntry('id 1', None, detail, 'a.jpg', 1)]}


def test_a_rotated_photograph_is_a_png_of_the_same_pixels(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, {'a.jpg': ((12, 8), [0])}, orientation=6)
    manifest = conversion.convert(data_set, tmp_path / 'out', 'val', Rules(exif='apply'))
    assert manifest.repaired == {
        'EXIF orientation applied': [IssueEntry('id 1', None, 'orientation 6', 'a.jpg')]}
    assert (manifest.exif, *map(manifest.turned_otherwise, examples.EXIF)) == ('apply', 0, 0, 1)
    [record] = written(tmp_path / 'out' / 'val.json')
    assert (record['image/format'], record['image/height'], record['image/width']) == ([b'png'], [12], [8])
    stored = np.array(Image.open(tmp_path / 'a.jpg'))
    np.testing.assert_array_equal(Image.open(io.BytesIO(record['image/encoded'][0])), np.rot90(stored, -1))


def test_a_photograph_left_as_stored_is_copied_and_counted(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, {'a.jpg': ((8, 12), [0])}, orientation=6)
    manifest = conversion.convert(data_set, tmp_path / 'out', 'val', Rules(exif='ignore'))
    assert manifest.kept == {'EXIF orientation ignored': [IssueEntry('id 1', None, 'orientation 6', 'a.jpg')]}
    assert (manifest.exif, *map(manifest.turned_otherwise, examples.EXIF)) == ('ignore', 0, 1, 0)
    [record] = written(tmp_path / 'out' / 'val.json')
    assert record['image/encoded'] == [(tmp_path / 'a.jpg').read_bytes()]


def test_an_upright_photograph_is_copied_under_every_rule(tmp_path: pathlib.Path) -> None:
    for rule in examples.EXIF:
        data_set = make_data_set(tmp_path, {'a.jpg': ((8, 12), [0])})
        manifest = conversion.convert(data_set, tmp_path / 'out', 'val', Rules(exif=rule))
        assert manifest.repaired == manifest.kept == {}
        assert written(tmp_path / 'out' / 'val.json')[0]['image/encoded'] == [(tmp_path / 'a.jpg').read_bytes()]


def test_channels_type_and_split_are_in_the_record(tmp_path: pathlib.Path) -> None:
    manifest = conversion.convert(make_data_set(tmp_path, {'a.png': ((8, 12), [0])}, mode='L'), tmp_path / 'out', 'val')
    [record] = written(tmp_path / 'out' / 'val.json')
    assert (record['image/channels'], record['image/dtype'], record['image/split']) == ([1], [b'uint8'], [b'val'])
    assert manifest.kept == {'channels differ': [
        IssueEntry('id 1', None, 'the file has 1, the annotations say 3', 'a.json')]}


def test_training_reads_images_of_any_channels_and_depth(tmp_path: pathlib.Path) -> None:
    kinds = {'grey.png': (np.uint8, 1), 'deep.png': (np.uint16, 1), 'two.png': (np.uint8, 2), 'four.png': (np.uint8, 4)}
    data_set, expected = make_data_set(tmp_path, {name: ((8, 12), [0]) for name in kinds}), {}
    for number, (name, (kind, channels)) in enumerate(kinds.items(), 1):
        grey = np.random.default_rng(number).integers(0, np.iinfo(kind).max + 1, (8, 12, 1), kind)
        Image.fromarray(grey[..., 0] if channels == 1 else np.repeat(grey, channels, axis=2)).save(tmp_path / name)
        # Transparency is left out; 65535 of 16 bit is 255.
        expected[number] = np.repeat(grey / (257 if kind is np.uint16 else 1), 3, axis=2)
    conversion.convert(data_set, tmp_path / 'out', 'val')
    assert [(record['image/dtype'], record['image/channels']) for record in written(tmp_path / 'out' / 'val.json')] == [
        ([np.dtype(kind).name.encode()], [channels]) for kind, channels in kinds.values()]
    settings = Config(data=DataConfig(
        batch_size=4, short_sides=[8], long_side=12, test_short_side=8, test_long_side=12, canvases=[[12, 12]],
        flip_horizontal=0.), model=ModelConfig(num_classes=1))
    batch = next(training_dataset(tmp_path / 'out' / 'val.json', settings, needs=()).as_numpy_iterator())
    assert sorted(batch['image_ids'].tolist()) == [1, 2, 3, 4]
    for image_id, image in zip(batch['image_ids'].tolist(), batch['images'], strict=True):
        np.testing.assert_allclose(image[:8], expected[image_id], rtol=1e-6)


def test_a_report_lists_every_problem(tmp_path: pathlib.Path) -> None:
    checked = conversion.check(make_data_set(tmp_path, ANNOTATIONS))
    report = json.loads(conversion.report(checked))
    assert {key: report[key] for key in ('format', 'version', 'counts')} == {
        'format': 'mrcnn_tf report', 'version': 1,
        'counts': {'images': 5, 'images_without_objects': 2, 'objects': 6, 'crowds': 1, 'objects_without_mask': 0}}
    assert report['problem_counts'] == {
        'dropped': {'box outside the image': 2, 'malformed xml': 1, 'size mismatch': 1}, 'repaired': {'box clipped': 1},
        'kept': {'box and mask disagree': 1, 'unusual name': 1}}
    assert len(report['problems']) == 7
    assert report['problems'][0] == {'action': 'dropped', 'reason': 'box outside the image', 'file': 'a.json',
                                     'image_id': 'id 4', 'annotation_id': 2, 'detail': 'at -1', 'annotations': 0}
    assert [issues.issue_line(*problem) for problem in issues.list_issues(checked)][:3] == [
        'a.json: image id 4, annotation 2: dropped, box outside the image: at -1',
        'a.json: image id 5, annotation 1: dropped, box outside the image: at -1',
        'f.jpg: image id 6: dropped, malformed xml: line 1']


def test_a_data_set_can_be_pickled(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, ANNOTATIONS)
    assert conversion.check(pickle.loads(pickle.dumps(data_set))) == conversion.check(data_set)


def test_an_image_of_too_many_annotations_is_dropped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_set, '_MAX_OBJECTS', 2)
    manifest = conversion.check(make_data_set(tmp_path, {'a.png': ((8, 12), [0, 1]), 'b.png': ((8, 12), [0, 1, 4])}))
    assert manifest.counts.images == 1 and manifest.dropped == {'too many annotations': [IssueEntry(
        'id 2', None, '3 on one image, at most 2 are converted; cut the image into smaller ones', 'b.png', 3)]}


def test_a_file_name_that_is_not_utf_8_is_dropped(tmp_path: pathlib.Path) -> None:
    name = os.fsdecode(b'caf\xe9.png')
    annotated = make_data_set(tmp_path, {'a.png': (None, [1]), name: (None, [1])})
    manifest = conversion.convert(annotated, tmp_path, 'set')
    [dropped] = manifest.dropped.pop('file name not in UTF-8')
    assert (dropped.image_id, dropped.detail) == ('id 2', "'caf\\udce9.png'; rename the file")
    assert manifest.dropped == {} and manifest.counts.images == 1


def test_a_category_name_of_megabytes_is_refused(tmp_path: pathlib.Path) -> None:
    data_set = make_data_set(tmp_path, {'a.png': ((8, 12), [0])})
    head = replace(data_set.head, categories=[Category(1, 7, 'x' * 10 ** 7)])
    for refuse in (conversion.check, lambda each: conversion.convert(each, tmp_path / 'out', 'set')):
        with pytest.raises(ConversionError, match='^a.json: category 7 has a name of 10,000,000 characters, .*1,000$'):
            refuse(replace(data_set, head=head))
