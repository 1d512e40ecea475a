"""TIDE's analysis of errors: cases by hand, and numbers of the authors' program, tidecv 1.0.1, on random detections."""
from __future__ import annotations

import numpy as np
import pytest

from mrcnn_tf.evaluation import matching
from mrcnn_tf.evaluation.errors import KINDS, Errors, analyze
from tests.evaluation.arrays import imperfect, results_of, truth_of

CAT, DOG, COW = 1, 2, 3
FOUND = (1 + 50 * (1 + 2 / 3)) / 101     # correct, wrong, correct, of two objects: precision 1 up to recall 1/2


def errors_of(objects: list, detections: list) -> Errors:
    return analyze(matching.match(truth_of(objects), results_of(detections), 'bbox'))


def test_one_error_of_each_kind() -> None:
    cat, dog, cow = [0, 0, 100, 100], [200, 0, 100, 100], [0, 200, 100, 100]
    found = errors_of([(1, CAT, cat), (1, DOG, dog), (1, COW, cow)], [
        (1, CAT, cat, .9), (1, CAT, cat, .8), (1, CAT, dog, .7), (1, DOG, [200, 0, 30, 100], .6),
        (1, DOG, [0, 200, 20, 100], .5), (1, CAT, [350, 350, 20, 20], .4)])
    assert [KINDS[i] if i >= 0 else 'correct' for i in found.kind] == [
        'correct', 'duplicate', 'classification', 'localization', 'both', 'background']
    assert found.missed.tolist() == [False, False, True]     # the dog would be found by either correction
    assert {kind: counts.tolist() for kind, counts in found.counts.items()} == {
        'classification': [1, 0, 0], 'localization': [0, 1, 0], 'both': [0, 1, 0], 'duplicate': [1, 0, 0],
        'background': [1, 0, 0], 'missed': [0, 0, 1]}
    # The cat is found first (AP50 1), dog and cow never (0). Corrected, the detection of score 0.7 finds the dog. The
    # one of score 0.6, which would find it too, is worse and is removed. Without the cow, two categories are left;
    # without dog and cow, detections of dogs are still there, and none of cows.
    assert found.precision.tolist() == [1, 0, 0]
    expected = {'classification': 2 / 3, 'missed': 1 / 2, 'false negatives': 1 / 2}
    for kind in found.corrected:
        assert found.cost(kind) == pytest.approx(expected.get(kind, 1 / 3) - 1 / 3), kind


@pytest.mark.parametrize(('category', 'box', 'kind'), [
    (CAT, [1, 0, 100, 100], 'duplicate'), (CAT, [350, 350, 20, 20], 'background'),
    (CAT, [300, 0, 30, 100], 'both')], ids=['duplicate', 'background', 'both'])
def test_what_the_removal_of_a_detection_is_worth(category: int, box: list[int], kind: str) -> None:
    """Of two cats both are found, with a wrong detection between them; there is also a dog that is found."""
    cats, dog = [[0, 0, 100, 100], [0, 200, 100, 100]], [300, 0, 100, 100]
    found = errors_of([(1, CAT, cats[0]), (1, CAT, cats[1]), (1, DOG, dog)], [
        (1, CAT, cats[0], .9), (1, category, box, .8), (1, CAT, cats[1], .7), (1, DOG, dog, .6)])
    assert found.precision[:2] == pytest.approx([FOUND, 1]) and np.isnan(found.precision[2])
    costs = {name: found.cost(name) for name in found.corrected}
    for name, cost in costs.items():
        assert cost == pytest.approx((1 - FOUND) / 2 if name in (kind, 'false positives') else 0), name


def test_a_localization_error_is_worth_the_object_that_it_would_find() -> None:
    found = errors_of([(1, CAT, [0, 0, 100, 100])], [(1, CAT, [0, 0, 49, 100], .9), (1, CAT, [0, 0, 100, 20], .8)])
    assert found.counts['localization'].tolist() == [2, 0, 0] and not found.missed.any()
    assert found.precision[0] == 0 and found.cost('localization') == pytest.approx(1) and found.cost('missed') == 0


def test_detections_in_a_crowd_are_no_errors() -> None:
    found = errors_of([(1, CAT, [0, 0, 50, 50]), (1, CAT, [100, 100, 200, 200], True)], [
        (1, CAT, [120, 120, 20, 20], .9), (1, CAT, [0, 0, 50, 50], .8), (1, DOG, [120, 120, 20, 20], .7)])
    assert found.kind.tolist() == [-1, -1, KINDS.index('background')] and not found.missed.any()
    assert found.precision[0] == pytest.approx(1)


def test_nothing_to_analyze() -> None:
    for objects, detections in (([], []), ([], [(1, CAT, [0, 0, 9, 9], .9)])):
        found = errors_of(objects, detections)
        assert {found.cost(kind) for kind in found.corrected} == {None}
        assert found.counts['background'].sum() == len(detections)
    missed = errors_of([(1, CAT, [0, 0, 9, 9])], [])
    assert missed.missed.tolist() == [True] and missed.cost('background') == 0 and missed.cost('missed') is None


def test_the_numbers_of_tidecv(monkeypatch: pytest.MonkeyPatch) -> None:
    """tidecv samples precision at the recalls 0 / 100, 1 / 100, ...; pycocotools' differ in the last bit."""
    monkeypatch.setattr(matching, 'RECALLS', np.arange(101) / 100)
    found = analyze(matching.match(*imperfect(seed=5, images=60), 'bbox'))
    assert 100 * np.nanmean(found.precision) == pytest.approx(25.79854141772192)
    assert {kind: 100 * (found.cost(kind) or 0) for kind in found.corrected} == pytest.approx({
        'classification': 4.628830239557331, 'localization': 24.84160651705394, 'both': 1.6411884824517955,
        'duplicate': 1.2380732647220505, 'background': 2.250398544315015, 'missed': 9.099033482420296,
        'false positives': 23.706409077327592, 'false negatives': 25.53543402741709})
    assert [int(found.counts[kind].sum()) for kind in KINDS] == [23, 75, 25, 25, 56, 58]
