"""Matching of all detections of a set with its objects, as COCO does it, kept as arrays for the analysis of errors.

N images, K categories sorted by id, m objects that are not crowds, n detections: the best 100 of each image and
category. T IoUs 0.50:0.05:0.95. A detection that matches only a crowd of its category is ignored. For masks, an object
that has only a box counts as a crowd that fills its box.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_tf.evaluation.accumulation import RECALLS, regions_overlap
from mrcnn_tf.evaluation.assignment import HITS, IOUS, assign
from mrcnn_tf.evaluation.coco import GroundTruth, expected, names_of

LIMIT = 100    # detections of an image and category


@dataclasses.dataclass
class Objects:
    """The objects of all images.

    Attributes:
        image: int [m], position in `Matches.image_ids`.
        label: int [m], position in `Matches.names`.
        area: float [m], px^2.
        neighbor: float [m], the largest IoU of its box with that of another object of the image.
        annotation: int [m], position in `GroundTruth.annotations`.
    """
    image: np.ndarray
    label: np.ndarray
    area: np.ndarray
    neighbor: np.ndarray
    annotation: np.ndarray


@dataclasses.dataclass
class Detections:
    """The detections of all images, image by image, best first.

    Attributes:
        image, label: as of `Objects`, int [n].
        score: float [n].
        result: int [n], position in COCO's results.
        matched: int [n, T], the object that the detection finds at each IoU, or -1.
        ignored: bool [n, T], matches a crowd and no object.
        same_iou, same_object: the largest IoU with an object of the same category, and the object; 0 and -1 without.
        other_iou, other_object: the same of other categories.
    """
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    result: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    same_iou: np.ndarray
    same_object: np.ndarray
    other_iou: np.ndarray
    other_object: np.ndarray


@dataclasses.dataclass
class Pairs:
    """Every detection and object of an image, of any categories, whose IoU is at least 0.5: arrays [p]."""
    detection: np.ndarray
    object: np.ndarray
    iou: np.ndarray


@dataclasses.dataclass
class Matches:
    """Objects, detections and their matches; `image_ids` are sorted, and `names` are of the categories by id."""
    image_ids: list[int]
    names: list[str]
    objects: Objects
    detections: Detections
    pairs: Pairs

    def counts(self) -> np.ndarray:
        """Return the number of objects of each category: int [K]."""
        return np.bincount(self.objects.label, minlength=len(self.names))


def match(truth: GroundTruth, results: Sequence[Mapping[str, Any]], kind: str) -> Matches:
    """Match detections with objects.

    Args:
        truth: the ground truth.
        results: detections in COCO's results format. Those of categories that the truth lacks are left out.
        kind: 'bbox' or 'segm'.
    """
    labels = {number: k for k, (number, _) in enumerate(sorted(truth.categories))}
    image_ids = sorted(truth.sizes)
    annotations = _grouped(list(expected(truth, kind)))
    found = _grouped(results)
    parts, first_object, first_detection = [], 0, 0
    for position, image_id in enumerate(image_ids):
        part = _Image(annotations.get(image_id, []), found.get(image_id, []), labels, kind)
        parts.append(part.arrays(position, first_object, first_detection))
        first_object += len(part.objects)
        first_detection += len(part.detections)
    return Matches(image_ids, names_of(truth), *(
        of_type(**{field.name: _joined([getattr(each[i], field.name) for each in parts], field.name)
                   for field in dataclasses.fields(of_type)})
        for i, of_type in enumerate((Objects, Detections, Pairs))))


def average_precision(score: np.ndarray, positive: np.ndarray, count: int) -> float:
    """Return COCO's average precision over 101 recalls of the detections of a category at one IoU.

    Args:
        score: float [n], without ignored detections.
        positive: bool [n], finds an object.
        count: of the objects, at least 1.
    """
    recall, precision = curve(score, positive, count)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(recall, RECALLS, side='left')
    return float(np.append(envelope, 0.)[reached].mean())


def curve(score: np.ndarray, positive: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision of the best 1, 2, ... n detections: float [n] each; arguments as above."""
    true = np.cumsum(positive[np.argsort(-score, kind='stable')])
    return true / count, true / np.maximum(np.arange(1, len(true) + 1), 1)


class _Image:
    """Annotations and detections of one image: g objects, c crowds, d detections."""

    def __init__(self, annotations: Sequence[tuple[int, Mapping[str, Any]]],
                 results: Sequence[tuple[int, Mapping[str, Any]]], labels: Mapping[int, int], kind: str) -> None:
        self.objects = [each for each in annotations if not each[1]['iscrowd']]
        crowds = [each for each in annotations if each[1]['iscrowd']]
        self.detections = _best([each for each in results if each[1]['category_id'] in labels])
        self.object_labels, crowd_labels, self.labels = (
            np.array([labels[each['category_id']] for _, each in group], np.int32)
            for group in (self.objects, crowds, self.detections))
        self.same = self.labels[:, None] == self.object_labels                                          # [d, g]
        self.overlaps = _overlaps(self.detections, self.objects, kind)                                  # [d, g]
        of_crowds = np.where(self.labels[:, None] == crowd_labels, _overlaps(self.detections, crowds, kind), -1.)
        crowd = np.arange(len(self.objects) + len(crowds)) >= len(self.objects)
        own = np.concatenate([np.where(self.same, self.overlaps, -1.), of_crowds], axis=1)
        assigned = assign(own, crowd[None], crowd)[0].T                                                 # [d, T]
        self.ignored = assigned >= len(self.objects)
        self.matched = np.where(self.ignored, -1, assigned)

    def arrays(self, position: int, first_object: int, first_detection: int) -> tuple[Objects, Detections, Pairs]:
        """Return the arrays of the image, given its position and the numbers of its first object and detection."""
        boxes = _overlaps(self.objects, self.objects, 'bbox')
        np.fill_diagonal(boxes, 0)
        rows, columns = np.nonzero(self.overlaps >= HITS[0])
        return (
            Objects(np.full(len(self.objects), position), self.object_labels,
                    np.array([each['area'] for _, each in self.objects], np.float64), boxes.max(axis=1, initial=0),
                    np.array([number for number, _ in self.objects], np.int64)),
            Detections(np.full(len(self.detections), position), self.labels,
                       np.array([each['score'] for _, each in self.detections], np.float64),
                       np.array([number for number, _ in self.detections], np.int64),
                       np.where(self.matched < 0, -1, self.matched + first_object), self.ignored,
                       *_largest(self.overlaps, self.same, first_object),
                       *_largest(self.overlaps, ~self.same, first_object)),
            Pairs(rows + first_detection, columns + first_object, self.overlaps[rows, columns]))


def _grouped(entries: Sequence[Mapping[str, Any]]) -> dict[int, list[tuple[int, Mapping[str, Any]]]]:
    """Return the entries of each image with their positions."""
    groups: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, each in enumerate(entries):
        groups.setdefault(each['image_id'], []).append((number, each))
    return groups


def _best(results: list[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the best 100 detections of each category, best first."""
    counted: dict[int, int] = {}
    kept = []
    for each in sorted(results, key=lambda each: -each[1]['score']):
        number = counted[each[1]['category_id']] = counted.get(each[1]['category_id'], 0) + 1
        if number <= LIMIT:
            kept.append(each)
    return kept


def _overlaps(left: Sequence[tuple[int, Mapping[str, Any]]], right: Sequence[tuple[int, Mapping[str, Any]]],
              kind: str) -> np.ndarray:
    """Return IoU float64 [left, right]; with crowds, the part of the left region that the right one covers."""
    return regions_overlap([each for _, each in left], [each for _, each in right], kind)


def _largest(overlaps: np.ndarray, chosen: np.ndarray, first_object: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest chosen IoU of each row and its object: float [d], int [d]; 0 and -1 without overlap."""
    if not overlaps.shape[1]:
        return np.zeros(len(overlaps)), np.full(len(overlaps), -1)
    values = np.where(chosen, overlaps, 0.)
    largest = values.max(axis=1)
    return largest, np.where(largest > 0, values.argmax(axis=1) + first_object, -1)


def _joined(arrays: list[np.ndarray], name: str) -> np.ndarray:
    if arrays:
        return np.concatenate(arrays)
    return np.zeros([0, len(IOUS)] if name in ('matched', 'ignored') else 0, int)
