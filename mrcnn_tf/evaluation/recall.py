"""Recall of proposals: which part of the objects they cover, whatever their classes (Faster R-CNN fig. 4).

P proposals and G objects of an image, N the best proposals of it that count. Proposals and objects are matched one to
one, the pair of the largest IoU first (Hosang et al., 1502.05082), once for all IoU; an object is recalled at an IoU
that its proposal reaches. AR is the mean over IoU 0.50:0.05:0.95; ARs, ARm, ARl count objects below 32^2, up to 96^2
and above in px^2. Crowds and difficult objects count neither way.

pycocotools matches anew at each IoU and gives the best-scored proposal its choice first. The two agree where no
proposal reaches several objects; elsewhere either may find an object more.
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


def average_recall(truth: GroundTruth, proposals: Iterable[tuple[int, np.ndarray]]) -> Metrics:
    """recall/R50@N, R55@N, ... R95@N, AR@N, ARs@N, ARm@N and ARl@N, for N of `LIMITS`.

    Args:
        truth: with `difficult` in its annotations where the data say so.
        proposals: image id, and boxes float32 [P, 4] as [y1, x1, y2, x2] in px of the image, best first; each image of
            the set once.

    Returns:
        0..1, or None where there is nothing to count.

    Raises:
        EvaluationError: an image of the set is missing.
    """
    objects = _objects(truth)
    areas, overlaps = [np.zeros(0)], [np.zeros([0, len(LIMITS)])]
    for image_id, boxes in proposals:
        annotations = objects.pop(image_id)
        areas.append(np.array([each['area'] for each in annotations], np.float64))
        overlaps.append(_overlaps(boxes, [each['bbox'] for each in annotations]))
    if objects:
        raise EvaluationError(f'{truth.source}: {len(objects)} of {len(truth.sizes)} images have no proposals, such as '
                              f'{min(objects)}; each must be added once')
    return _numbers(np.concatenate(areas), np.concatenate(overlaps))


def stored(manifest: PathLike) -> Iterator[tuple[int, np.ndarray]]:
    """Image id and proposals of each record of a set, as `average_recall` takes them.

    Raises:
        ManifestError, InputError: the set cannot be used.
        EvaluationError: its records have no proposals.
    """
    if not Manifest.read(manifest).has_proposals:
        raise EvaluationError(f'{manifest}: its records have no proposals; attach some with `mrcnn convert proposals`')
    for record in ground_truth(manifest):
        yield record['image_id'], record['proposals']


def match(overlaps: np.ndarray) -> np.ndarray:
    """IoU of proposals and objects, float [P, G] -> that of each object and its proposal, 0 without one, [G]."""
    free, matched = overlaps.copy(), np.zeros(overlaps.shape[1])
    for _ in range(min(overlaps.shape)):
        box, thing = np.unravel_index(np.argmax(free), free.shape)
        matched[thing] = free[box, thing]
        free[box], free[:, thing] = -1., -1.
    return matched


def table(metrics: Mapping[str, float | None]) -> str:
    """A line for each N, a column for each IoU and each mean; '-' where there is nothing to count."""
    names = list(dict.fromkeys(name.removeprefix('recall/').split('@')[0] for name in metrics))
    lines = [f'{"boxes":>5}' + ''.join(f'{name:>7}' for name in names)]
    for limit in LIMITS:
        values = (metrics[f'recall/{name}@{limit}'] for name in names)
        lines.append(f'{limit:>5}' + ''.join(f'{"-" if value is None else f"{value:.3f}":>7}' for value in values))
    return '\n'.join(lines)


def _objects(truth: GroundTruth) -> dict[int, list[Mapping[str, Any]]]:
    """Those of each image that count."""
    objects: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in truth.sizes}
    for each in truth.annotations:
        if not each['iscrowd'] and not each.get('difficult'):
            objects[each['image_id']].append(each)
    return objects


def _overlaps(boxes: np.ndarray, objects: list[list[float]]) -> np.ndarray:
    """What `match` gives of the best N proposals of an image, for each N: [G, len(LIMITS)]."""
    if not objects or not len(boxes):
        return np.zeros([len(objects), len(LIMITS)])
    y1, x1, y2, x2 = boxes[:LIMITS[-1]].astype(np.float64).T
    overlaps = coco_mask.iou(np.stack([x1, y1, x2 - x1, y2 - y1], 1), np.array(objects, np.float64), [0] * len(objects))
    return np.stack([match(overlaps[:limit]) for limit in LIMITS], axis=1)


def _numbers(areas: np.ndarray, overlaps: np.ndarray) -> Metrics:
    """areas [n] and overlaps [n, len(LIMITS)] of all objects."""
    metrics: Metrics = {}
    for limit, matched in zip(LIMITS, overlaps.T, strict=True):
        recalled = matched[:, None] >= _IOUS                                                 # [n, 10]
        metrics.update({f'recall/R{100 * iou:.0f}@{limit}': _mean(column) for iou, column in zip(
            _IOUS, recalled.T, strict=True)})
        metrics.update({f'recall/AR{name}@{limit}': _mean(recalled[(areas >= least) & (areas <= most)])
                        for name, (least, most) in _AREAS.items()})
    return metrics


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
