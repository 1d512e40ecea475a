"""Assignment of detections to objects, by hand; `test_accumulation` compares it with pycocotools."""
from __future__ import annotations

import numpy as np

from mrcnn_tf.evaluation.assignment import assign

NO_CROWD = np.zeros(2, bool)


def first(assigned: np.ndarray) -> list[int]:
    """Return the objects of all detections in the first area range at IoU 0.5."""
    return assigned[0, 0].tolist()


def test_a_detection_takes_the_best_free_object_and_in_a_tie_the_last() -> None:
    overlaps = np.array([[.6, .8], [.7, .9], [.5, .4], [.7, .7]])
    assert first(assign(overlaps, NO_CROWD[None], NO_CROWD)) == [1, 0, -1, -1]
    assert first(assign(overlaps[3:], NO_CROWD[None], NO_CROWD)) == [1]
    # At 0.50 to 0.80 the first takes the second object; from 0.85 on, it takes none and the second detection does.
    assert assign(overlaps, NO_CROWD[None], NO_CROWD)[0, :, 1].tolist() == [0] * 5 + [-1, -1, 1, 1, -1]


def test_an_ignored_object_is_taken_only_without_another() -> None:
    overlaps = np.array([[.6, .9], [.6, .9], [.6, .9]])
    assert first(assign(overlaps, np.array([[False, True]]), NO_CROWD)) == [0, 1, -1]
    crowd = np.array([False, True])
    assert first(assign(overlaps, crowd[None], crowd)) == [0, 1, 1]


def test_area_ranges_are_assigned_separately() -> None:
    ignored = np.array([[False, False], [True, False], [True, True]])
    assert assign(np.array([[.9, .6]]), ignored, NO_CROWD)[:, 0, 0].tolist() == [0, 1, 0]


def test_nothing_to_assign() -> None:
    assert assign(np.zeros([0, 2]), NO_CROWD[None], NO_CROWD).shape == (1, 10, 0)
    assert (assign(np.zeros([3, 0]), np.zeros([4, 0], bool), NO_CROWD[:0]) == -1).all()
