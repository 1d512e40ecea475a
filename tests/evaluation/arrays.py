"""Detections and ground truth from a few numbers, for tests by hand. Boxes are [x, y, width, height] as in COCO."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation.coco import GroundTruth

NAMES = ('cat', 'dog', 'cow')


def instances_of(boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int]) -> Instances:
    """Return instances without masks."""
    x, y, width, height = np.array(boxes, np.float32).reshape(-1, 4).T
    return Instances(np.stack([y, x, y + height, x + width], 1), np.array(scores, np.float32),
                     np.array(labels, np.int32))


def truth_of(objects: Sequence[tuple[Any, ...]], images: int = 1) -> GroundTruth:
    """Return the ground truth of images 1, 2, ... of categories 1 `cat`, 2 `dog`, 3 `cow`.

    Args:
        objects: image, category and box of each object, and True for a crowd.
        images: how many.
    """
    annotations = [{'image_id': image, 'category_id': category, 'bbox': list(map(float, box)),
                    'area': float(box[2] * box[3]), 'iscrowd': int(bool(crowd))}
                   for image, category, box, *crowd in objects]
    return GroundTruth('truth.json', {i: (400, 400) for i in range(1, images + 1)}, list(enumerate(NAMES, 1)),
                       annotations, False)


def results_of(detections: Sequence[tuple[int, int, Sequence[float], float]]) -> list[dict[str, Any]]:
    """Return COCO's results of detections: image, category, box and score of each."""
    return [{'image_id': image, 'category_id': category, 'bbox': list(map(float, box)), 'score': score}
            for image, category, box, score in detections]


def imperfect(seed: int, images: int) -> tuple[GroundTruth, list[dict[str, Any]]]:
    """Return random ground truth of 3 categories, and detections with errors of every kind and scores without ties."""
    rng = np.random.default_rng(seed)
    objects = [(image, int(rng.integers(1, 4)), rng.integers(0, 300, 2).tolist() + rng.integers(10, 100, 2).tolist())
               for image in range(1, images + 1) for _ in range(rng.integers(0, 8))]
    detections = []
    for image, category, box in objects:
        for _ in range(rng.choice(4, p=[.15, .6, .15, .1])):
            shift = rng.normal(0, rng.choice([.03, .3]), 4) * np.array(box[2:] * 2)
            moved = np.maximum(np.array(box) + shift, [0, 0, 1, 1]).round(2).tolist()
            named = category if rng.random() < .8 else int(rng.integers(1, 4))
            detections.append((image, named, moved, rng.random() ** .7))
    for image in range(1, images + 1):
        for _ in range(rng.poisson(.7)):
            box = rng.integers(0, 300, 2).tolist() + rng.integers(10, 100, 2).tolist()
            detections.append((image, int(rng.integers(1, 4)), box, rng.random() * .6))
    return truth_of(objects, images), results_of(detections)
