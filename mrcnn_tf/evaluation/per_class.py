"""Metrics of each category: the table that `mrcnn evaluate` prints, and per_class.csv."""
from __future__ import annotations

import collections
import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mrcnn_tf import files
from mrcnn_tf.evaluation.coco import CocoEvaluator, names_of
from mrcnn_tf.files.text import one_line

_METRICS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR100')
_PRINTED = ('AP', 'AP50', 'AP75')
_LONGEST, _ROWS = 40, 100     # characters of a name; rows before the table refers to the file

Row = Mapping[str, Any]


def rows(evaluator: CocoEvaluator) -> list[Row]:
    """Return the metrics of each category, sorted by id, after `CocoEvaluator.evaluate`.

    Each row has category, id, images and objects (crowds do not count), and bbox/AP, bbox/AP50, bbox/AP75, bbox/APs,
    bbox/APm, bbox/APl, bbox/AR100; with masks also segm/AP, ... A metric is 0..1, or None without objects.
    """
    objects = [each for each in evaluator.truth.annotations if not each['iscrowd']]
    counts = collections.Counter(each['category_id'] for each in objects)
    images = collections.Counter(number for number, _ in {(each['category_id'], each['image_id']) for each in objects})
    return [{'category': name, 'id': number, 'images': images[number], 'objects': counts[number],
             **{f'{kind}/{metric}': curves.mean(metric, k)
                for kind, curves in evaluator.curves.items() for metric in _METRICS}}
            for k, ((number, _), name) in enumerate(zip(
                sorted(evaluator.truth.categories), names_of(evaluator.truth), strict=True))]


def table(of_classes: Sequence[Row]) -> str:
    """Return a table with a line for each category that has objects; '-' stands for None.

    Of more than 100 categories, the 100 with the lowest AP are shown.
    """
    kinds = [kind for kind in ('bbox', 'segm') if of_classes and f'{kind}/AP' in of_classes[0]]
    present = [row for row in of_classes if row['objects']]
    shown = present if len(present) <= _ROWS else sorted(present, key=lambda row: row[f'{kinds[-1]}/AP'])[:_ROWS]
    columns = [f'{kind}/{metric}' for kind in kinds for metric in _PRINTED]
    names = [one_line(row['category'], _LONGEST) for row in shown]
    width = max(map(len, [*names, 'category']))
    lines = [f'{"category":{width}}  {"images":>7}  {"objects":>7}' + ''.join(f'  {column:>9}' for column in columns)]
    lines += [f'{name:{width}}  {row["images"]:>7}  {row["objects"]:>7}' + ''.join(
        f'  {"-" if row[column] is None else f"{row[column]:.3f}":>9}' for column in columns)
        for name, row in zip(names, shown, strict=True)]
    absent, hidden = len(of_classes) - len(present), len(present) - len(shown)
    if absent:
        lines.append(f'{absent} more categor{"y has" if absent == 1 else "ies have"} no objects in this set')
    if hidden:
        lines.append(f'{hidden} more categories have a higher {kinds[-1]}/AP; per_class.csv has all')
    return '\n'.join(lines)


def write_csv(path: str | os.PathLike[str], of_classes: Sequence[Row]) -> None:
    """Write the rows as CSV with a header, atomically; None is an empty field.

    Raises:
        OSError: the disk is full or not writable.
    """
    with files.atomic_path(path) as temporary, open(
            temporary, 'w', encoding='utf-8', errors='backslashreplace', newline='') as stream:
        writer = csv.DictWriter(stream, list(of_classes[0]) if of_classes else ['category'])
        writer.writeheader()
        writer.writerows(of_classes)
