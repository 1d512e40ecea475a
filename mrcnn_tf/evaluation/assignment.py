"""Assignment of the detections of an image to its objects, as COCO does it (pycocotools' `evaluateImg`).

D detections, G objects, A area ranges, T IoUs 0.50:0.05:0.95.
"""
from __future__ import annotations

import numpy as np

IOUS = np.linspace(.5, .95, 10)
HITS = np.minimum(IOUS, 1 - 1e-10)    # as in pycocotools: two equal regions may have an IoU slightly below 1


def assign(overlaps: np.ndarray, ignored: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the object of each detection for each area range and IoU, -1 without: int [A, T, D].

    Detections choose one after another. A detection takes the object with the largest overlap among those that are not
    ignored and not taken, in a tie the last one; only without any, an ignored one. A crowd can be taken many times.

    Args:
        overlaps: float [D, G], IoU, or for a crowd the part of the detection that it covers; -1 for an object of
            another category. The best detection comes first.
        ignored: bool [A, G], crowds and objects whose area is not in the range.
        crowd: bool [G].
    """
    number = len(crowd)
    assigned = np.full([len(ignored), len(HITS), len(overlaps)], -1)
    taken = np.zeros([len(ignored), len(HITS), number], bool)
    columns = np.arange(number)
    # Integers that rank the objects of a detection: distinct, so that a tie needs no further rule.
    rank = np.empty(overlaps.shape, int)
    np.put_along_axis(rank, np.argsort(overlaps, axis=1, kind='stable'), columns[None], axis=1)
    rank = rank[:, None] + np.where(ignored, 1, number + 1)                                # [D, A, G], from 1
    reaches = overlaps[:, None, None, :] >= HITS[:, None]                                  # [D, 1, T, G]
    for d in np.flatnonzero(overlaps.max(axis=1, initial=-1) >= HITS[0]):
        open_ = np.where(taken, 0, reaches[d] * rank[d][:, None])                          # [A, T, G]
        best = open_.argmax(axis=-1)                                                       # [A, T]
        hit = open_.max(axis=-1) > 0
        assigned[..., d] = np.where(hit, best, -1)
        taken |= hit[..., None] & (columns == best[..., None]) & ~crowd
    return assigned
