"""Where and how a detector fails: thresholds, calibration, confusion, size, crowding, and the images with most errors.

All functions use IoU 0.5, unless they say otherwise, and the matches of `matching.match`. Crowds are ignored. N images,
K categories.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn_tf.evaluation.assignment import IOUS
from mrcnn_tf.evaluation.matching import Matches, average_precision, curve

SIDES = (0, 16, 32, 64, 128, 256, np.inf)       # px, the square root of an area
OBJECTS = (1, 2, 5, 10, 20, 50, np.inf)         # of an image
NEIGHBORS = (0, .1, .2, .3, .5, np.inf)         # IoU with the box of another object

Rows = list[dict[str, Any]]


class Threshold(NamedTuple):
    """The lowest score of the detections to keep, and what they then reach; None if no detection finds an object."""
    score: float | None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


def best_threshold(matches: Matches, category: int | None = None) -> Threshold:
    """Return the threshold with the highest F1 of a category, or of all categories together.

    Of equal ones, the highest score is returned.
    """
    found = matches.detections
    of_class = np.ones_like(found.label, bool) if category is None else found.label == category
    chosen = of_class & ~found.ignored[:, 0]
    count = int(matches.counts().sum() if category is None else matches.counts()[category])
    score, positive = found.score[chosen], found.matched[chosen, 0] >= 0
    if not positive.any():
        return Threshold(None)
    recall, precision = curve(score, positive, count)
    ordered = -np.sort(-score)
    last = np.append(ordered[1:] < ordered[:-1], True)      # a threshold cannot separate equal scores
    f1 = np.where(last, 2 * precision * recall / np.maximum(precision + recall, 1e-12), -1.)
    best = int(np.argmax(f1))
    return Threshold(float(ordered[best]), float(precision[best]), float(recall[best]), float(f1[best]))


def calibration(matches: Matches, bins: int = 10) -> tuple[Rows, float | None]:
    """Return for each range of scores how many detections are correct, and the expected calibration error.

    That error is the mean over detections of the distance between the mean score and the precision of their range.

    Returns:
        Rows with low, high, detections, score (mean) and precision; the last two are None without detections.
    """
    found = matches.detections
    chosen = ~found.ignored[:, 0]
    score, positive = found.score[chosen], found.matched[chosen, 0] >= 0
    of_bin = np.minimum((score * bins).astype(int), bins - 1)
    counts = np.bincount(of_bin, minlength=bins)
    sums, hits = (np.bincount(of_bin, weights=values, minlength=bins) for values in (score, positive.astype(float)))
    rows = [{'low': i / bins, 'high': (i + 1) / bins, 'detections': int(counts[i]),
             'score': float(sums[i] / counts[i]) if counts[i] else None,
             'precision': float(hits[i] / counts[i]) if counts[i] else None} for i in range(bins)]
    return rows, float(np.abs(sums - hits).sum() / counts.sum()) if counts.any() else None


def confusion(matches: Matches, threshold: float) -> np.ndarray:
    """Return the confusion matrix, int [K + 1, K + 1]: rows are objects, columns detections, the last is background.

    Detections below the threshold are left out. Those that find an object of their category are on the diagonal. The
    others are assigned to the objects that are left, whatever their categories, in order of decreasing IoU; what
    remains is counted against background.
    """
    found, objects, background = matches.detections, matches.objects, len(matches.names)
    kept = (found.score >= threshold) & ~found.ignored[:, 0]
    partner = np.where(kept, found.matched[:, 0], -1)
    taken = np.zeros(len(objects.label), bool)
    taken[partner[partner >= 0]] = True
    pairs = matches.pairs
    left = np.flatnonzero(kept[pairs.detection] & (partner[pairs.detection] < 0) & ~taken[pairs.object])
    for i in left[np.argsort(-pairs.iou[left], kind='stable')]:
        detection, thing = pairs.detection[i], pairs.object[i]
        if partner[detection] < 0 and not taken[thing]:
            partner[detection], taken[thing] = thing, True
    rows = np.append(objects.label, background)[partner]      # the last for -1
    size = background + 1
    places = np.concatenate([rows[kept] * size + found.label[kept], objects.label[~taken] * size + background])
    return np.bincount(places, minlength=size * size).reshape(size, size)


def by_size(matches: Matches) -> Rows:
    """Return the recall of objects by the square root of their area, in px; see `_recall_by`."""
    return _recall_by(matches, np.sqrt(matches.objects.area), SIDES)


def by_neighbor(matches: Matches) -> Rows:
    """Return the recall of objects by the largest IoU of their box with another object's; see `_recall_by`."""
    return _recall_by(matches, matches.objects.neighbor, NEIGHBORS)


def by_crowding(matches: Matches) -> Rows:
    """Return AP of the images by how many objects they have.

    Returns:
        Rows with low, high (exclusive; None: no limit), images, objects, AP and AP50; None without objects.
    """
    per_image = np.bincount(matches.objects.image, minlength=len(matches.image_ids))
    rows = []
    for low, high in zip(OBJECTS, OBJECTS[1:], strict=False):
        chosen = (per_image >= low) & (per_image < high)
        values = _average_precision(matches, chosen)
        rows.append({'low': low, 'high': _limit(high), 'images': int(chosen.sum()),
                     'objects': int(per_image[chosen].sum()), 'AP': _mean(values), 'AP50': _mean(values[:, 0])})
    return rows


def image_counts(matches: Matches, threshold: float) -> np.ndarray:
    """Return true positives, false positives and false negatives of each image at a threshold: int [N, 3]."""
    found, total = matches.detections, len(matches.image_ids)
    kept = (found.score >= threshold) & ~found.ignored[:, 0]
    positive = found.matched[:, 0] >= 0
    true, false = (np.bincount(found.image[kept & flag], minlength=total) for flag in (positive, ~positive))
    return np.stack([true, false, np.bincount(matches.objects.image, minlength=total) - true], axis=1)


def f1(counts: np.ndarray) -> np.ndarray:
    """Return F1 of rows of true positives, false positives and false negatives; 1 where there are none of them."""
    true, errors = counts[:, 0], counts[:, 1] + counts[:, 2]
    return np.where(true + errors > 0, 2 * true / np.maximum(2 * true + errors, 1), 1.)


def worst_images(counts: np.ndarray, limit: int) -> Sequence[int]:
    """Return the positions of the images with errors, by increasing F1, then by decreasing number of errors."""
    errors = counts[:, 1] + counts[:, 2]
    order = np.lexsort((-errors, f1(counts)))
    return [int(i) for i in order[:limit] if errors[i]]


def _recall_by(matches: Matches, values: np.ndarray, edges: Sequence[float]) -> Rows:
    """Return rows with low, high (exclusive; None: no limit), objects, recall (IoU 0.5) and AR (mean over IoUs)."""
    hits = np.zeros([len(values), len(IOUS)], bool)
    for t in range(len(IOUS)):
        matched = matches.detections.matched[:, t]
        hits[matched[matched >= 0], t] = True
    rows = []
    for low, high in zip(edges, edges[1:], strict=False):
        chosen = hits[(values >= low) & (values < high)]
        rows.append({'low': low, 'high': _limit(high), 'objects': len(chosen), 'recall': _mean(chosen[:, 0]),
                     'AR': _mean(chosen)})
    return rows


def _average_precision(matches: Matches, images: np.ndarray) -> np.ndarray:
    """Return AP of each category and IoU on the chosen images (bool [N]); only of categories with objects: [k, T]."""
    found, objects = matches.detections, matches.objects
    counts = np.bincount(objects.label[images[objects.image]], minlength=len(matches.names))
    values = np.zeros([len(matches.names), len(IOUS)])
    for k in np.flatnonzero(counts):
        of_class = np.flatnonzero(images[found.image] & (found.label == k))
        for t in range(len(IOUS)):
            kept = of_class[~found.ignored[of_class, t]]
            values[k, t] = average_precision(found.score[kept], found.matched[kept, t] >= 0, counts[k])
    return values[counts > 0]


def _limit(high: float) -> float | None:
    return None if np.isinf(high) else high


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
