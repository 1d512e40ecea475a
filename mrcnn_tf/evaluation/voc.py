"""PASCAL VOC's mean average precision (Everingham et al., IJCV 2010, 2015): IoU 0.5, difficult objects ignored.

A detection is right if the object of its class and image that it overlaps most, by at least 0.5, is not taken yet; the
best-scored detection takes it. What falls on a difficult object counts neither way. The area of a box is that of its
continuous edges, which is what the development kit's "+ 1" on whole pixels comes to.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_tf.evaluation.coco import GroundTruth, Metrics
from mrcnn_tf.files.text import one_line

IOU = 0.5


def mean_average_precision(truth: GroundTruth, detections: Sequence[Mapping[str, Any]], eleven_point: bool) -> Metrics:
    """mAP and AP/NAME of every category, 0..1; None for a category without objects that count.

    Args:
        truth: with `difficult` in its annotations; crowds are taken as difficult.
        detections: COCO's results: image_id, category_id, score, bbox [x, y, width, height] in px.
        eleven_point: VOC 2007's mean over recalls 0, 0.1, ... 1; else the area under the curve, as from 2010 on.
    """
    metrics: Metrics = {'mAP': None}
    for number, name in truth.categories:
        objects = [each for each in truth.annotations if each['category_id'] == number]
        found = [each for each in detections if each['category_id'] == number]
        metrics[f'AP/{name}'] = _average_precision(objects, found, eleven_point)
    values = [value for value in metrics.values() if value is not None]
    metrics['mAP'] = float(np.mean(values)) if values else None
    return metrics


def table(metrics: Metrics) -> str:
    """A line for each category, and the mean, in per cent as the papers print them."""
    rows = [(one_line(name.removeprefix('voc/').removeprefix('AP/'), 60), value) for name, value in metrics.items()]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'{name.ljust(width)}  {_percent(value):>5}' for name, value in rows)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'


def _average_precision(objects: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]],
                       eleven_point: bool) -> float | None:
    """Of one category."""
    count = sum(not _ignored(each) for each in objects)
    if not count:
        return None
    right, wrong = _judge(objects, detections)
    recall = np.cumsum(right) / count
    precision = np.cumsum(right) / np.maximum(np.cumsum(right) + np.cumsum(wrong), 1)
    # The best precision at this recall or any higher.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_point:
        reached = [envelope[recall >= level - 1e-12] for level in np.arange(11) / 10]
        return float(np.mean([values[0] if len(values) else 0. for values in reached]))
    return float(np.sum(np.diff(recall, prepend=0.) * envelope))


def _judge(objects: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]
           ) -> tuple[np.ndarray, np.ndarray]:
    """Whether each detection, the best-scored first, is right and whether it is wrong: bool [n] each."""
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for each in objects:
        of_image.setdefault(each['image_id'], []).append(each)
    taken: set[int] = set()
    ordered = sorted(detections, key=lambda each: -each['score'])
    right, wrong = np.zeros(len(ordered), bool), np.zeros(len(ordered), bool)
    for k, detection in enumerate(ordered):
        nearest = _nearest(detection, of_image.get(detection['image_id'], ()))
        if nearest is None or (not _ignored(nearest) and id(nearest) in taken):
            wrong[k] = True
        elif not _ignored(nearest):
            right[k] = True
            taken.add(id(nearest))
    return right, wrong


def _nearest(detection: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The object of largest IoU, of equals the first, where that is enough."""
    if not objects:
        return None
    overlaps = _iou(np.asarray(detection['bbox'], np.float64), np.asarray([o['bbox'] for o in objects], np.float64))
    best = int(np.argmax(overlaps))
    return objects[best] if overlaps[best] >= IOU else None


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """[4] and [n, 4], x, y, width, height -> [n]."""
    sides = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0.), axis=1)
    return shared / (np.prod(box[2:]) + np.prod(boxes[:, 2:], axis=1) - shared)


def _ignored(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get('difficult')) or bool(annotation['iscrowd'])
