"""Thresholds, calibration, confusion, sizes, crowding and worst images, by hand."""
from __future__ import annotations

import pytest

from mrcnn_tf.evaluation import diagnostics
from mrcnn_tf.evaluation.diagnostics import Threshold
from mrcnn_tf.evaluation.matching import Matches, match
from tests.evaluation.arrays import results_of, truth_of

A, B, C = [0, 0, 100, 100], [200, 0, 100, 100], [0, 200, 100, 100]
NOWHERE = [350, 350, 20, 20]
CAT, DOG, COW = 1, 2, 3


def matches_of(objects: list, detections: list, images: int = 1) -> Matches:
    return match(truth_of(objects, images), results_of(detections), 'bbox')


def test_the_best_threshold() -> None:
    found = matches_of([(1, CAT, A), (1, CAT, B), (1, CAT, C), (1, DOG, A)], [
        (1, CAT, A, .9), (1, CAT, NOWHERE, .8), (1, CAT, B, .7), (1, CAT, [300, 300, 20, 20], .2)])
    # F1 of cats: 2 * 1 / (1 + 3) = 0.5, 0.4, 2 * 2 / (3 + 3) = 0.667, 0.571; of all: 0.4, 0.333, 0.571, 0.5
    assert diagnostics.best_threshold(found, 0) == pytest.approx(Threshold(.7, 2 / 3, 2 / 3, 2 / 3))
    assert diagnostics.best_threshold(found) == pytest.approx(Threshold(.7, 2 / 3, 2 / 4, 4 / 7))
    assert diagnostics.best_threshold(found, 1) == Threshold(None)      # an object and no detections
    assert diagnostics.best_threshold(found, 2) == Threshold(None)      # neither


def test_a_threshold_does_not_separate_equal_scores() -> None:
    found = matches_of([(1, CAT, A)], [(1, CAT, A, .5), (1, CAT, B, .5), (1, CAT, C, .5)])
    assert diagnostics.best_threshold(found, 0) == pytest.approx(Threshold(.5, 1 / 3, 1, 1 / 2))


def test_calibration() -> None:
    rows, error = diagnostics.calibration(matches_of([(1, CAT, A), (1, CAT, B)], [
        (1, CAT, A, 1.), (1, CAT, B, .92), (1, CAT, C, .96), (1, CAT, NOWHERE, .3)]))
    assert rows[9] == pytest.approx({'low': .9, 'high': 1, 'detections': 3, 'score': .96, 'precision': 2 / 3})
    assert rows[3] == pytest.approx({'low': .3, 'high': .4, 'detections': 1, 'score': .3, 'precision': 0})
    assert rows[5] == {'low': .5, 'high': .6, 'detections': 0, 'score': None, 'precision': None}
    assert error == pytest.approx((3 * (.96 - 2 / 3) + .3) / 4)
    assert diagnostics.calibration(matches_of([], []))[1] is None


def test_confusion() -> None:
    found = matches_of([(1, CAT, A), (1, DOG, B), (1, COW, C), (1, CAT, [0, 0, 390, 390], True)], [
        (1, CAT, A, .9), (1, DOG, A, .8), (1, CAT, B, .7), (1, CAT, NOWHERE, .6), (1, COW, C, .1)])
    # A is found by the cat, so the dog there is background. The cat at B is a dog; it is in the crowd of cats, so it is
    # ignored, as the one nowhere is. The cow is below the threshold.
    assert diagnostics.confusion(found, .5).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0]]
    alone = matches_of([(1, DOG, B), (1, COW, [210, 0, 100, 100])], [(1, CAT, B, .9), (1, CAT, NOWHERE, .9)])
    assert diagnostics.confusion(alone, .5).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_recall_by_size_and_by_neighbor() -> None:
    found = matches_of([(1, CAT, [0, 0, 15, 15]), (1, CAT, [100, 0, 32, 32]), (1, CAT, [110, 0, 32, 32])], [
        (1, CAT, [100, 0, 32, 32], .9), (1, CAT, [0, 0, 15, 9], .8)])     # the second has IoU 0.6
    rows = diagnostics.by_size(found)
    assert [(row['low'], row['high'], row['objects'], row['recall'], row['AR']) for row in rows] == [
        (0, 16, 1, 1, pytest.approx(.3)), (16, 32, 0, None, None), (32, 64, 2, .5, .5), (64, 128, 0, None, None),
        (128, 256, 0, None, None), (256, None, 0, None, None)]
    # 22 of 42 columns: IoU 0.524
    assert [(row['objects'], row['recall']) for row in diagnostics.by_neighbor(found)] == [
        (1, 1), (0, None), (0, None), (0, None), (2, .5)]


def test_ap_by_crowding() -> None:
    found = matches_of([(1, CAT, A), (2, CAT, A), (2, CAT, B), (2, DOG, C)], [
        (1, CAT, A, .3), (1, CAT, B, .9), (2, CAT, A, .9), (2, CAT, B, .8), (3, CAT, A, .99)], images=3)
    one, few, *others = diagnostics.by_crowding(found)
    # alone the cat comes second, in image 2 cats are found and the dog is not; image 3 has no objects
    assert one == pytest.approx({'low': 1, 'high': 2, 'images': 1, 'objects': 1, 'AP': .5, 'AP50': .5})
    assert few == pytest.approx({'low': 2, 'high': 5, 'images': 1, 'objects': 3, 'AP': .5, 'AP50': .5})
    assert {row['AP'] for row in others} == {None} and others[-1]['high'] is None


def test_the_worst_images() -> None:
    found = matches_of([(1, CAT, A), (2, CAT, A), (3, CAT, A), (3, CAT, B)], [
        (1, CAT, A, .9), (3, CAT, C, .9), (4, CAT, A, .9), (4, CAT, B, .1)], images=5)
    counts = diagnostics.image_counts(found, .5)
    assert counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, 0], [0, 0, 0]]
    assert diagnostics.f1(counts).tolist() == [1, 0, 0, 0, 1]
    assert diagnostics.worst_images(counts, 9) == [2, 1, 3]     # those without errors are left out
