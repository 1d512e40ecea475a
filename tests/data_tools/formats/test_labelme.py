"""Files of labelme as COCO's json, converted: shapes, groups, and folders of splits."""
from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools import folders
from data_tools.examples import DEFAULTS, make_example
from data_tools.formats import labelme


def write(folder: pathlib.Path, name: str, *shapes: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((40, 80), np.uint8)).save(folder / f'{name}.png')
    content = {'shapes': shapes, 'imagePath': f'..\\photos\\{name}.png', 'imageHeight': 40, 'imageWidth': 80}
    (folder / f'{name}.json').write_text(json.dumps(content))


def shape(label: str, points: list[list[float]], kind: str = 'polygon', group: int | None = None) -> dict[str, Any]:
    return {'label': label, 'points': points, 'shape_type': kind, 'group_id': group}


SQUARE, OTHER = [[10, 10], [20, 10], [20, 20], [10, 20]], [[40, 10], [50, 10], [50, 20], [40, 20]]


def test_shapes_become_objects(tmp_path: pathlib.Path) -> None:
    write(tmp_path / 'a', 'one', shape('dog', SQUARE), shape('cat', [[30, 5], [60, 25]], 'rectangle'),
          shape('cat', [[5, 5]], 'point'), shape('cat', [[60, 20], [70, 20]], 'circle'))
    part, = folders.recognise(tmp_path / 'a')
    assert (part.kind, part.split) == ('labelme', '')
    found = folders.find([part], part, tmp_path)
    assert [each.name for each in found.head.categories] == ['cat', 'dog']
    example, log = make_example(found.source, DEFAULTS, found.items[0])
    assert example is not None and {reason: len(entries) for reason, entries in log.dropped.items()} == {
        'malformed box': 1}
    dog, box, circle = example.objects
    assert (dog.name, tuple(dog.box), dog.area, dog.has_mask) == ('dog', (10., 10., 20., 20.), 100., True)
    assert (box.name, tuple(box.box), box.has_mask) == ('cat', (5., 30., 25., 60.), False)
    assert circle.box == pytest.approx((10, 50, 30, 70)) and circle.area == pytest.approx(100 * np.pi, rel=.05)


def test_shapes_of_a_group_are_one_object(tmp_path: pathlib.Path) -> None:
    write(tmp_path, 'one', shape('dog', SQUARE, group=1), shape('dog', OTHER, group=1), shape('cat', SQUARE, group=1))
    annotations = labelme.to_coco(tmp_path)['annotations']
    assert [(each['category_id'], each['bbox'], len(each['segmentation'])) for each in annotations] == [
        (2, [10, 10, 40, 10], 2), (1, [10, 10, 10, 10], 1)]


def test_folders_of_splits(tmp_path: pathlib.Path) -> None:
    for split in ('train', 'val'):
        write(tmp_path / split, split, shape('dog', SQUARE))
    assert {part.split: part.images for part in folders.recognise(tmp_path)} == {
        'train': tmp_path / 'train', 'val': tmp_path / 'val'}
    (tmp_path / 'train').rename(tmp_path / 'more')
    part, = folders.recognise(tmp_path)
    assert part.split == '' and len(folders.find([part], part, tmp_path / 'out').items) == 2
