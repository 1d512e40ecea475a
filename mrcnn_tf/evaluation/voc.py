"""PASCAL VOC's mean average precision (Everingham et al., IJCV 2010, 2015): IoU 0.5, difficult objects ignored.

A detection matches the object of its class and image with the largest IoU, if that is at least 0.5. Of several
detections of an object, the one with the highest score is a true positive and the others are false positives. A
detection that matches a difficult object is ignored. Box areas use continuous edges, as the "+ 1" of the
development kit does for boxes of whole pixels.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_tf.evaluation.coco import GroundTruth, Metrics
from mrcnn_tf.files.text import one_line

IOU = 0.5


def mean_average_precision(ground_truth: GroundTruth, detections: Sequence[Mapping[str, Any]],
                           eleven_point: bool) -> Metrics:
    """Return mAP, and AP/NAME of each category, 0..1; None for a category without objects that are not difficult.

    Args:
        ground_truth: its annotations may have `difficult`; crowds are treated as difficult.
        detections: COCO's results: image_id, category_id, score, bbox [x, y, width, height] in px.
        eleven_point: use the mean over recalls 0, 0.1, ... 1 of VOC 2007; otherwise the area under the curve, as since
            VOC 2010.
    """
    metrics: Metrics = {'mAP': None}
    for number, name in ground_truth.categories:
        objects = [each for each in ground_truth.annotations if each['category_id'] == number]
        of_category = [each for each in detections if each['category_id'] == number]
        metrics[f'AP/{name}'] = _average_precision(objects, of_category, eleven_point)
    values = [value for value in metrics.values() if value is not None]
    metrics['mAP'] = float(np.mean(values)) if values else None
    return metrics


def table(metrics: Metrics) -> str:
    """Return a table with a line for each category and the mean, in percent."""
    rows = [(one_line(name.removeprefix('voc/').removeprefix('AP/'), 60), value) for name, value in metrics.items()]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'{name.ljust(width)}  {_percent(value):>5}' for name, value in rows)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'


def _average_precision(objects: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]],
                       eleven_point: bool) -> float | None:
    """Return the average precision of one category."""
    count = sum(not _ignored(each) for each in objects)
    if not count:
        return None
    positive, negative = _match(objects, detections)
    recall = np.cumsum(positive) / count
    precision = np.cumsum(positive) / np.maximum(np.cumsum(positive) + np.cumsum(negative), 1)
    # The highest precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_point:
        reached = [envelope[recall >= level - 1e-12] for level in np.arange(11) / 10]
        return float(np.mean([values[0] if len(values) else 0. for values in reached]))
    return float(np.sum(np.diff(recall, prepend=0.) * envelope))


def _match(objects: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]
           ) -> tuple[np.ndarray, np.ndarray]:
    """Return which detections, by decreasing score, are true and which are false positives: bool [n] each."""
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for each in objects:
        of_image.setdefault(each['image_id'], []).append(each)
    matched: set[int] = set()
    ordered = sorted(detections, key=lambda each: -each['score'])
    positive, negative = np.zeros(len(ordered), bool), np.zeros(len(ordered), bool)
    for k, detection in enumerate(ordered):
        best = _best_match(detection, of_image.get(detection['image_id'], ()))
        if best is None or (not _ignored(best) and id(best) in matched):
            negative[k] = True
        elif not _ignored(best):
            positive[k] = True
            matched.add(id(best))
    return positive, negative


def _best_match(detection: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the object with the largest IoU (the first one of equals), or None if that is below 0.5."""
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
