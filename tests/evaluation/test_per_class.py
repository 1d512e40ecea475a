"""The table and the file of the metrics of each category, by hand."""
from __future__ import annotations

import csv
import pathlib

import pytest

from mrcnn_tf.evaluation import per_class
from mrcnn_tf.evaluation.coco import CocoEvaluator, GroundTruth
from mrcnn_tf.input.manifest import Category
from tests.evaluation.arrays import instances_of


@pytest.fixture(scope='module')
def rows() -> list[per_class.Row]:
    """Categories 9 `cat`, 3 `dog` and 5 `cow`: of two cats one is found at IoU 0.72, a crowd of dogs, no cow."""
    objects = [(9, [0, 0, 100, 100], 0), (9, [200, 0, 20, 20], 0), (3, [0, 300, 90, 90], 1)]
    truth = GroundTruth('truth', {1: (400, 400)}, [(9, 'cat'), (3, 'dog'), (5, 'cow, "brown"')], [
        {'image_id': 1, 'category_id': category, 'bbox': box, 'area': box[2] * box[3], 'iscrowd': crowd}
        for category, box, crowd in objects], False)
    evaluator = CocoEvaluator(truth, [Category(1, 3, 'dog'), Category(2, 5, 'cow, "brown"'), Category(3, 9, 'cat')], '')
    evaluator.add(1, instances_of([[0, 0, 100, 72]], [.9], [3]))
    evaluator.evaluate()
    return per_class.rows(evaluator)


def test_rows_by_hand(rows: list[per_class.Row]) -> None:
    dog, cow, cat = rows
    assert [(row['category'], row['id'], row['images'], row['objects']) for row in rows] == [
        ('dog', 3, 0, 0), ('cow, "brown"', 5, 0, 0), ('cat', 9, 1, 2)]
    # Precision is 1 up to recall 1/2, which 51 of the 101 recalls do not exceed, at five of the ten IoUs.
    assert cat['bbox/AP50'] == pytest.approx(51 / 101) and cat['bbox/AP'] == pytest.approx(51 / 101 / 2)
    assert cat['bbox/AP75'] == 0 and cat['bbox/APs'] == 0 and cat['bbox/APl'] == pytest.approx(.5)
    assert cat['bbox/AR100'] == pytest.approx(.25) and 'segm/AP' not in cat
    assert {row[f'bbox/{name}'] for row in (dog, cow) for name in ('AP', 'AP50', 'AR100')} == {None}


def test_the_table_leaves_out_categories_without_objects(rows: list[per_class.Row]) -> None:
    head, cat, rest = per_class.table(rows).splitlines()
    assert head.split() == ['category', 'images', 'objects', 'bbox/AP', 'bbox/AP50', 'bbox/AP75']
    assert cat.split() == ['cat', '1', '2', '0.252', '0.505', '0.000']
    assert rest == '2 more categories have no objects in this set'


def test_the_table_shows_the_lowest_of_many_categories() -> None:
    rows = [{'category': f'c{i}', 'objects': 1, 'images': 1, 'bbox/AP': 1 - i / 200, 'bbox/AP50': 1., 'bbox/AP75': 1.}
            for i in range(120)]
    lines = per_class.table(rows).splitlines()
    assert len(lines) == 102 and lines[1].startswith('c119 ') and lines[100].startswith('c20 ')
    assert lines[101] == '20 more categories have a higher bbox/AP; per_class.csv has all'


def test_the_file_is_read_back(rows: list[per_class.Row], tmp_path: pathlib.Path) -> None:
    per_class.write_csv(tmp_path / 'per_class.csv', rows)
    with open(tmp_path / 'per_class.csv', newline='') as stream:
        read = list(csv.DictReader(stream))
    assert [row['category'] for row in read] == ['dog', 'cow, "brown"', 'cat']
    assert read[0]['bbox/AP'] == '' and float(read[2]['bbox/AP50']) == pytest.approx(51 / 101)
