"""COCO's precision and recall of a set, equal to pycocotools' to the last bit.

pycocotools visits every image, category and area range in Python loops. Here, an image is matched at once, for all its
categories, areas and IoUs; regions are compared only where detection and object have the same category.

T IoUs, R recalls, K categories sorted by id, A area ranges, M limits of detections per image and category; D
detections and G objects of an image, n detections of a category in all images.
"""
from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_tf.evaluation.assignment import IOUS, assign

AREAS = np.array([[0, 1e5 ** 2], [0, 32 ** 2], [32 ** 2, 96 ** 2], [96 ** 2, 1e5 ** 2]])    # px^2, both included
RECALLS = np.linspace(0, 1, 101)
Entry = Mapping[str, Any]


class _Image(NamedTuple):
    """The detections of an image or a set, those of a category and image together, best first; and the objects."""
    label: np.ndarray      # int [D], position of the category
    rank: np.ndarray       # int [D], position among the image's detections of the category
    score: np.ndarray      # float [D]
    hit: np.ndarray        # bool [A, T, D], finds an object
    ignored: np.ndarray    # bool [A, T, D]
    objects: np.ndarray    # int [G], the categories of the objects
    counted: np.ndarray    # bool [A, G], no crowd, and its area is in the range


# The type of Python's map of one sequence.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def accumulate(image_ids: Iterable[int], category_ids: Iterable[int], objects: Iterable[Entry],
               detections: Iterable[Entry], kind: str, limits: Sequence[int], mapped: Map = map
               ) -> tuple[np.ndarray, np.ndarray]:
    """Return precision at RECALLS, float64 [T, R, K, A, M], and the maximum recall, float64 [T, K, A, M].

    Both are -1 where there are no objects.

    Args:
        image_ids, category_ids: of the set; detections of other images or categories do not count.
        objects: annotations in COCO's format, with area, iscrowd and RLE.
        detections: in COCO's results format.
        kind: 'bbox' or 'segm'.
        limits: M numbers, ascending.
        mapped: as Python's map, for the images; that of `Processes` matches them in several processes.
    """
    labels = {number: k for k, number in enumerate(sorted(category_ids))}
    expected, found = _grouped(objects, labels), _grouped(detections, labels)
    match = functools.partial(_matched, labels=labels, kind=kind, limit=limits[-1])
    images = list(mapped(match, ((expected.get(i, []), found.get(i, [])) for i in sorted(image_ids))))
    shape = [len(labels), len(AREAS), len(limits)]
    precision, recall = np.full([len(IOUS), len(RECALLS), *shape], -1.), np.full([len(IOUS), *shape], -1.)
    if images:
        joined = _Image(*(np.concatenate(arrays, axis=-1) for arrays in zip(*images, strict=True)))
        for k, area in itertools.product(labels.values(), range(len(AREAS))):
            precision[:, :, k, area], recall[:, k, area] = _curves(joined, k, area, limits)
    return precision, recall


def _grouped(entries: Iterable[Entry], labels: Mapping[int, int]) -> dict[int, list[Entry]]:
    """Return the entries of each image that have one of the categories."""
    groups: dict[int, list[Entry]] = {}
    for each in entries:
        if each['category_id'] in labels:
            groups.setdefault(each['image_id'], []).append(each)
    return groups


def _matched(image: tuple[Sequence[Entry], Sequence[Entry]], labels: Mapping[int, int], kind: str, limit: int
             ) -> _Image:
    """Return the detections of an image, given objects and detections, and what they find.

    limit: how many of each category are used, the best.
    """
    objects, detections = image
    score = np.array([each['score'] for each in detections], np.float64)
    label = np.array([labels[each['category_id']] for each in detections], np.int64)
    order = np.lexsort([-score, label])
    rank = np.arange(len(order)) - np.searchsorted(label[order], label[order])
    order, rank = order[rank < limit], rank[rank < limit]
    score, label, detections = score[order], label[order], [detections[i] for i in order]
    object_label = np.array([labels[each['category_id']] for each in objects], np.int64)
    crowd = np.array([each['iscrowd'] for each in objects], bool)
    out_of_range = _outside(np.array([each['area'] for each in objects], np.float64)) | crowd            # [A, G]
    overlaps = _overlaps(detections, label, objects, object_label, kind)
    assigned = assign(overlaps, out_of_range, crowd)                                                     # [A, T, D]
    hit = assigned >= 0
    ignored = np.where(hit, _at(out_of_range, assigned), _outside(_areas(detections, kind))[:, None])
    return _Image(label, rank, score, hit & ~ignored, ignored, object_label, ~out_of_range)


def _at(flags: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the flags bool [A, G] at int [A, T, D]; False at -1."""
    padded = np.pad(flags, [[0, 0], [0, 1]])
    return np.take_along_axis(padded[:, None], index, axis=2)


def _outside(areas: np.ndarray) -> np.ndarray:
    """Return whether areas [n] are outside of each range: bool [A, n]."""
    return (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:])


def _areas(detections: Sequence[Entry], kind: str) -> np.ndarray:
    """Return the areas of boxes or masks, px^2."""
    if kind == 'bbox' or not detections:
        return np.array([each['bbox'][2] * each['bbox'][3] for each in detections], np.float64)
    return np.asarray(coco_mask.area([each['segmentation'] for each in detections]), np.float64)


def _overlaps(detections: Sequence[Entry], label: np.ndarray, objects: Sequence[Entry], object_label: np.ndarray,
              kind: str) -> np.ndarray:
    """Return the overlaps [D, G] of detections, sorted by category, with objects; -1 for other categories."""
    overlaps = np.full([len(detections), len(objects)], -1.)
    for each in np.unique(object_label):
        first, last = np.searchsorted(label, [each, each + 1]).tolist()
        columns = np.flatnonzero(object_label == each)
        if last > first:
            same = [objects[i] for i in columns.tolist()]
            overlaps[first:last, columns] = regions_overlap(detections[first:last], same, kind)
    return overlaps


def regions_overlap(detections: Sequence[Entry], objects: Sequence[Entry], kind: str) -> np.ndarray:
    """Return the IoU of each pair, and for crowds the part of the detection that the crowd covers: float64 [d, g].

    Args:
        detections, objects: in COCO's format; objects have iscrowd.
        kind: 'bbox' or 'segm'.
    """
    if not detections or not objects:
        return np.zeros([len(detections), len(objects)])
    key = 'bbox' if kind == 'bbox' else 'segmentation'
    regions: list[Any] = [[each[key] for each in group] for group in (detections, objects)]
    if kind == 'bbox':
        regions = [np.array(region, np.float64) for region in regions]
    return np.asarray(coco_mask.iou(*regions, [int(each['iscrowd']) for each in objects]))


def _curves(images: _Image, label: int, area: int, limits: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return precision [T, R, M] and maximum recall [T, M] of a category and an area range."""
    count = int(np.count_nonzero(images.counted[area][images.objects == label]))
    if not count:
        return np.full([1, 1, len(limits)], -1.), np.full([1, len(limits)], -1.)
    chosen = np.flatnonzero(images.label == label)
    chosen = chosen[np.argsort(-images.score[chosen], kind='stable')]
    within = [chosen[images.rank[chosen] < limit] for limit in limits]
    of_limits = [_curve(images.hit[area][:, kept], images.ignored[area][:, kept], count) for kept in within]
    precision, recall = zip(*of_limits, strict=True)
    return np.stack(precision, axis=-1), np.stack(recall, axis=-1)


def _curve(hit: np.ndarray, ignored: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return precision at RECALLS [T, R] and the maximum recall [T] of detections, best first: bool [T, n] each."""
    true, false = (np.cumsum(each, axis=1).astype(float) for each in (hit, ~hit & ~ignored))
    recall = true / count
    precision = true / (false + true + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.pad(envelope, [[0, 0], [0, 1]])    # no precision where the recall is not reached
    reached = np.stack([np.searchsorted(row, RECALLS, side='left') for row in recall])
    return np.take_along_axis(envelope, reached, axis=1), np.pad(recall, [[0, 0], [1, 0]])[:, -1]
