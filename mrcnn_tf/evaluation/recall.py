"""Class-agnostic recall of region proposals (Faster R-CNN, fig. 4).

P: proposals of an image; G: its objects; N: the number of its best proposals that are evaluated. Proposals and objects
are matched one to one in order of decreasing IoU (Hosang et al., 1502.05082). The matching is the same for all IoU
thresholds; an object is recalled if the IoU with its proposal reaches the threshold. AR is the mean over IoU
0.50:0.05:0.95; ARs, ARm and ARl are of objects below 32^2, up to 96^2 and above 96^2 px^2. Crowds and difficult objects
are ignored.

pycocotools matches separately for each threshold, in order of the scores. The results are equal if no proposal overlaps
several objects; otherwise either of them may be higher.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_tf.evaluation.coco import EvaluationError, GroundTruth, Metrics, PathLike
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import Manifest

LIMITS = (50, 100, 300, 1000, 2000)    # N
_IOUS = np.arange(50, 100, 5) / 100
_AREAS = {'': (0., np.inf), 's': (0., 32. ** 2), 'm': (32. ** 2, 96. ** 2), 'l': (96. ** 2, np.inf)}    # px^2


def average_recall(ground_truth: GroundTruth, proposals: Iterable[tuple[int, np.ndarray]]) -> Metrics:
    """Return recall/R50@N, R55@N, ... R95@N, AR@N, ARs@N, ARm@N and ARl@N, for each N of `LIMITS`.

    Args:
        ground_truth: its annotations may have `difficult`.
        proposals: for each image of the set, its id and boxes float32 [P, 4] as [y1, x1, y2, x2] in px, best first.

    Returns:
        Values 0..1, or None if there are no objects.

    Raises:
        EvaluationError: an image of the set is missing.
    """
    objects = _objects(ground_truth)
    areas, overlaps = [np.zeros(0)], [np.zeros([0, len(LIMITS)])]
    for image_id, boxes in proposals:
        annotations = objects.pop(image_id)
        areas.append(np.array([each['area'] for each in annotations], np.float64))
        overlaps.append(_overlaps(boxes, [each['bbox'] for each in annotations]))
    if objects:
        raise EvaluationError(f'{ground_truth.source}: {len(objects)} of {len(ground_truth.sizes)} images have no '
                              f'proposals, such as image {min(objects)}; give the proposals of each image')
    return _numbers(np.concatenate(areas), np.concatenate(overlaps))


def read_proposals(manifest: PathLike) -> Iterator[tuple[int, np.ndarray]]:
    """Yield image id and proposals of each record of a set, for `average_recall`.

    Raises:
        ManifestError, InputError: the set cannot be used.
        EvaluationError: its records have no proposals.
    """
    if not Manifest.read(manifest).has_proposals:
        raise EvaluationError(f'{manifest}: its records have no proposals; attach some with `mrcnn convert proposals`')
    for record in ground_truth(manifest):
        yield record['image_id'], record['proposals']


def match(overlaps: np.ndarray) -> np.ndarray:
    """Return the IoU of each object with its proposal, 0 without one: float [P, G] -> [G]."""
    remaining, matched = overlaps.copy(), np.zeros(overlaps.shape[1])
    for _ in range(min(overlaps.shape)):
        box, thing = np.unravel_index(np.argmax(remaining), remaining.shape)
        matched[thing] = remaining[box, thing]
        remaining[box], remaining[:, thing] = -1., -1.
    return matched


def table(metrics: Mapping[str, float | None]) -> str:
    """Return a table with a line for each N and a column for each IoU and mean; '-' stands for None."""
    names = list(dict.fromkeys(name.removeprefix('recall/').split('@')[0] for name in metrics))
    lines = [f'{"boxes":>5}' + ''.join(f'{name:>7}' for name in names)]
    for limit in LIMITS:
        values = (metrics[f'recall/{name}@{limit}'] for name in names)
        lines.append(f'{limit:>5}' + ''.join(f'{"-" if value is None else f"{value:.3f}":>7}' for value in values))
    return '\n'.join(lines)


def _objects(ground_truth: GroundTruth) -> dict[int, list[Mapping[str, Any]]]:
    """Return the objects of each image that are not crowds or difficult."""
    objects: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in ground_truth.sizes}
    for each in ground_truth.annotations:
        if not each['iscrowd'] and not each.get('difficult'):
            objects[each['image_id']].append(each)
    return objects


def _overlaps(boxes: np.ndarray, objects: list[list[float]]) -> np.ndarray:
    """Return the matched IoU of each object with the best N proposals of an image, for each N: [G, len(LIMITS)]."""
    if not objects or not len(boxes):
        return np.zeros([len(objects), len(LIMITS)])
    y1, x1, y2, x2 = boxes[:LIMITS[-1]].astype(np.float64).T
    overlaps = coco_mask.iou(np.stack([x1, y1, x2 - x1, y2 - y1], 1), np.array(objects, np.float64), [0] * len(objects))
    return np.stack([match(overlaps[:limit]) for limit in LIMITS], axis=1)


def _numbers(areas: np.ndarray, overlaps: np.ndarray) -> Metrics:
    """Return the metrics, given areas [n] and matched IoU [n, len(LIMITS)] of all objects."""
    metrics: Metrics = {}
    for limit, matched in zip(LIMITS, overlaps.T, strict=True):
        recalled = matched[:, None] >= _IOUS                                                 # [n, 10]
        metrics.update({f'recall/R{100 * iou:.0f}@{limit}': _mean(column) for iou, column in zip(
            _IOUS, recalled.T, strict=True)})
        metrics.update({f'recall/AR{name}@{limit}': _mean(recalled[(areas >= low) & (areas <= high)])
                        for name, (low, high) in _AREAS.items()})
    return metrics


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
