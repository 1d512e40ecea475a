"""Analysis of errors by TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV
2020): six kinds of errors, and how much AP50 rises if the errors of one kind are corrected.

A detection that finds no object at IoU 0.5 is a false positive. Its kind depends on its largest IoU with objects of the
same and of other categories; the first row that applies counts:

| kind | condition | correction |
|---|---|---|
| localization | 0.1 <= IoU < 0.5, same category | it finds the object |
| classification | IoU >= 0.5, another category | it gets the category of the object and finds it |
| duplicate | IoU >= 0.5, same category, found by a better detection | it is removed |
| both | 0.1 <= IoU < 0.5, another category | it is removed |
| background | all others | it is removed |
| missed | an object that no detection finds or would find after the first two corrections | it does not count |

Where several detections would find the same object, the best one does and the others are removed. As in the authors'
program, this is one detection for localization and classification together, and a category that a correction leaves
without objects and detections does not count in the mean. Unlike there, detections in crowds are not errors, and
categories without objects never count.
"""
from __future__ import annotations

import dataclasses

import numpy as np

from mrcnn_tf.evaluation.matching import Matches, average_precision

KINDS = ('classification', 'localization', 'both', 'duplicate', 'background', 'missed')
_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
FOREGROUND, BACKGROUND = .5, .1     # IoU


@dataclasses.dataclass
class Errors:
    """The errors of a set: n detections, m objects, K categories.

    Attributes:
        kind: int [n], position in `KINDS`, or -1: the detection is correct or ignored.
        missed: bool [m].
        precision: AP50 of each category, float [K]; NaN without objects.
        corrected: by kind, the same after the correction of its errors; also by `false positives` and `false
            negatives`, after the removal of all of them.
        counts: by kind, of the category of the detection or the missed object: int [K].
    """
    kind: np.ndarray
    missed: np.ndarray
    precision: np.ndarray
    corrected: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]

    def cost(self, kind: str) -> float | None:
        """Return how much the mean AP50 rises if the errors of a kind are corrected; None without objects."""
        means = [values[~np.isnan(values)] for values in (self.corrected[kind], self.precision)]
        return float(means[0].mean() - means[1].mean()) if all(map(len, means)) else None


def analyze(matches: Matches) -> Errors:
    """Return the errors of a set."""
    kind = _kinds(matches)
    corrected, usable = _corrections(matches, kind)
    found = np.zeros(len(matches.objects.label), bool)
    found[matches.detections.matched[:, 0][matches.detections.matched[:, 0] >= 0]] = True
    missed = ~found & ~usable
    oracle = _Oracle(matches, kind, corrected)
    nothing = np.zeros_like(missed)
    fixed = {name: oracle.precision([i], nothing) for i, name in enumerate(KINDS[:-1])}
    fixed['missed'] = oracle.precision([], missed)
    fixed['false positives'] = oracle.precision([], nothing, only_correct=True)
    fixed['false negatives'] = oracle.precision([], ~found)
    total = len(matches.names)
    counts = {name: np.bincount(matches.detections.label[kind == i], minlength=total)
              for i, name in enumerate(KINDS[:-1])}
    counts['missed'] = np.bincount(matches.objects.label[missed], minlength=total)
    return Errors(kind, missed, oracle.precision([], nothing), fixed, counts)


def _kinds(matches: Matches) -> np.ndarray:
    """Return the kind of error of each detection, -1 without: int [n]."""
    found = matches.detections
    wrong = (found.matched[:, 0] < 0) & ~found.ignored[:, 0]
    conditions = [~wrong, (found.same_iou >= BACKGROUND) & (found.same_iou < FOREGROUND),
                  found.other_iou >= FOREGROUND, found.same_iou >= FOREGROUND, found.other_iou >= BACKGROUND]
    return np.select(conditions, [-1, _LOCALIZATION, _CLASSIFICATION, _DUPLICATE, _BOTH], _BACKGROUND)


def _corrections(matches: Matches, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the object that each detection finds once corrected, -1 if none; and which objects those errors point to.

    Returns:
        int [n], bool [m].
    """
    found = matches.detections
    target = np.select([kind == _LOCALIZATION, kind == _CLASSIFICATION], [found.same_object, found.other_object], -1)
    taken = np.zeros(len(matches.objects.label), bool)
    taken[found.matched[:, 0][found.matched[:, 0] >= 0]] = True
    candidates = np.flatnonzero(target >= 0)
    candidates = candidates[~taken[target[candidates]]]
    candidates = candidates[np.argsort(-found.score[candidates], kind='stable')]
    usable, best = np.unique(target[candidates], return_index=True)
    corrected = np.full(len(target), -1)
    corrected[candidates[best]] = usable
    pointed_to = np.zeros(len(taken), bool)
    pointed_to[usable] = True
    return corrected, pointed_to


class _Oracle:
    """Computes AP50 of each category after the correction of some errors."""

    def __init__(self, matches: Matches, kind: np.ndarray, corrected: np.ndarray) -> None:
        self._matches, self._kind, self._corrected = matches, kind, corrected
        self._counts = matches.counts()

    def precision(self, kinds: list[int], forgotten: np.ndarray, only_correct: bool = False) -> np.ndarray:
        """Return AP50 by category, NaN without objects: float [K].

        Args:
            kinds: of errors to correct.
            forgotten: bool [m], objects that do not count.
            only_correct: without false positives.
        """
        found = self._matches.detections
        fixed = np.isin(self._kind, kinds)
        moved = fixed & (self._corrected >= 0)
        positive = (found.matched[:, 0] >= 0) | moved
        kept = positive if only_correct else ~found.ignored[:, 0] & (~fixed | moved)
        label = found.label.copy()
        label[moved] = self._matches.objects.label[self._corrected[moved]]
        counts = self._counts - np.bincount(self._matches.objects.label[forgotten], minlength=len(self._counts))
        values = np.full(len(counts), np.nan)
        for k in np.flatnonzero(self._counts):
            of_class = kept & (label == k)
            if counts[k]:
                values[k] = average_precision(found.score[of_class], positive[of_class], counts[k])
            elif of_class.any():
                values[k] = 0.
        return values
