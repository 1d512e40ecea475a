"""Splits by image: the shares of the classes, the counts, and that no image is in both parts."""
from __future__ import annotations

import json
import pathlib
from collections import Counter

import numpy as np
import pytest

from data_tools import splitting
from data_tools.issues import ConversionError
from mrcnn_tf.input import record_reader
from mrcnn_tf.input.manifest import IssueEntry, Manifest
from tests.input.small_sets import example, thing, write_set


def test_each_class_has_its_share() -> None:
    classes = [{'a'}] * 40 + [{'b'}] * 10 + [{'a', 'c'}] * 5 + [set[str]()] * 5
    chosen = splitting.stratified(classes, .2, seed=0)
    counts = Counter(name for found, mine in zip(classes, chosen, strict=True) if mine for name in found)
    assert counts == {'a': 9, 'b': 2, 'c': 1} and chosen[55:].sum() == 1 and chosen.sum() == 12


def test_the_seed_determines_the_split() -> None:
    classes = [{'a'}] * 50
    first, again, other = (splitting.stratified(classes, .2, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any() and first.sum() == other.sum() == 10


def write_coco(path: pathlib.Path, images: int) -> pathlib.Path:
    """The second and third image have the same file; annotation 99 has no image."""
    names = ['0.jpg', 'same.jpg', 'same.jpg', *(f'{i}.jpg' for i in range(3, images))]
    path.write_text(json.dumps({
        'info': {'year': 2026}, 'categories': [{'id': 7, 'name': 'cell'}],
        'images': [{'id': i, 'file_name': name} for i, name in enumerate(names)],
        'annotations': [*({'id': i, 'image_id': i % images, 'category_id': 7} for i in range(2 * images)),
                        {'id': 99, 'image_id': 99, 'category_id': 7}]}))
    return path


@pytest.mark.parametrize('seed', [0, 1, 2], ids='seed {}'.format)
def test_a_coco_json_becomes_two(tmp_path: pathlib.Path, seed: int) -> None:
    source = write_coco(tmp_path / 'a.json', 10)
    parts = splitting.split(source, tmp_path / 'out', .3, seed)
    assert [part.path.name for part in parts] == ['a_train.json', 'a_val.json']
    train, validation = (json.loads(part.path.read_text()) for part in parts)
    files = [{image['file_name'] for image in each['images']} for each in (train, validation)]
    assert not files[0] & files[1] and len(files[0] | files[1]) == 9
    assert len(train['images']) + len(validation['images']) == 10 and 2 <= parts[1].images <= 4
    for part, content in zip(parts, (train, validation), strict=True):
        ids = {image['id'] for image in content['images']}
        assert {each['image_id'] for each in content['annotations']} == ids and content['info'] == {'year': 2026}
        assert part.objects == {'cell': len(content['annotations'])} == {'cell': 2 * len(ids)}


def test_a_set_becomes_two_with_the_same_records(tmp_path: pathlib.Path) -> None:
    entry = IssueEntry(3, 4, 'clipped')
    images = [example(i, [thing(label=1 + i % 2)]) for i in range(8)]
    manifest = write_set(tmp_path, images, repaired={'box clipped': [entry]},
                         dropped={'gone': [IssueEntry(77, None, '')]})
    parts = splitting.split(manifest, tmp_path / 'out', .25)
    sets = [Manifest.read(part.path) for part in parts]
    assert [each.counts.images for each in sets] == [6, 2] == [part.images for part in parts]
    assert parts[1].objects == {'class 1': 1, 'class 2': 1}
    assert [len(each.repaired) for each in sets].count(1) == 1 and sets[0].dropped and not sets[1].dropped
    read = [[serialized for _, serialized in record_reader.places(part.path)] for part in parts]
    assert sorted(read[0] + read[1]) == sorted(serialized for _, serialized in record_reader.places(manifest))


def test_few_images_leave_one_in_each_part(tmp_path: pathlib.Path) -> None:
    parts = splitting.split(write_coco(tmp_path / 'a.json', 3), tmp_path, .01)
    assert sorted(part.images for part in parts) == [1, 2]


@pytest.mark.parametrize(('text', 'expected'), [
    ('{', 'give a manifest or a COCO json'), ('[]', 'neither a manifest nor a COCO json'),
    ('{"images": [{"id": 1, "file_name": "a"}], "annotations": []}', 'it has 1 image, and a split needs at least 2')],
    ids=['no json', 'another json', 'one image'])
def test_what_cannot_be_split(tmp_path: pathlib.Path, text: str, expected: str) -> None:
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(ConversionError, match=expected):
        splitting.split(tmp_path / 'a.json', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_a_fraction_is_between_0_and_1(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError, match='--val-fraction is 1; give a number above 0 and below 1'):
        splitting.split(write_coco(tmp_path / 'a.json', 3), tmp_path, 1.)


def test_the_table_names_classes_in_one_part_only() -> None:
    parts = [splitting.Part(pathlib.Path('a_train.json'), 3, Counter(cell=5, dot=1)),
             splitting.Part(pathlib.Path('a_val.json'), 1, Counter(cell=2))]
    lines = splitting.table(parts).splitlines()
    assert [line.split() for line in lines[:-1]] == [
        ['a_train', 'a_val'], ['images', '3', '1'], ['objects', '6', '2'], ['cell', '5', '2'], ['dot', '1', '0']]
    assert lines[-1] == "1 of 2 classes have objects in one part only, such as 'dot': too few images"


def test_images_without_objects_are_split_too() -> None:
    assert np.count_nonzero(splitting.stratified([()] * 10, .2, 0)) == 2
