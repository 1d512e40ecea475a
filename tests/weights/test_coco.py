"""COCO's categories, compared with its annotation files."""
from __future__ import annotations

import json

from mrcnn_tf.input.manifest import Category
from mrcnn_tf.weights import coco


def test_names_and_ids_are_those_of_the_annotations(coco_dir) -> None:
    path = next((coco_dir / 'annotations').glob('instances_*.json'))
    listed = json.loads(path.read_text())['categories']
    assert {each['id']: each['name'] for each in listed} == coco.COCO


def test_categories_for_a_number_of_classes() -> None:
    eighty, ninety, three = (coco.categories(count) for count in (80, 90, 3))
    assert [c.label for c in eighty] == list(range(1, 81)) and eighty[-1] == Category(80, 90, 'toothbrush')
    assert all(c.label == c.id for c in ninety) and ninety[11].name == 'unused 12' and ninety[12].name == 'stop sign'
    assert sum(c.name.startswith('unused') for c in ninety) == 10
    assert three == [Category(1, 1, 'class 1'), Category(2, 2, 'class 2'), Category(3, 3, 'class 3')]
