"""Matching of detections with objects: by hand, and AP against pycocotools on random and on COCO's own detections."""
from __future__ import annotations

import json

import numpy as np
import pytest

from mrcnn_tf.evaluation import coco, matching
from mrcnn_tf.evaluation.assignment import IOUS
from tests.evaluation.arrays import imperfect, results_of, truth_of
from tests.paths import SHARED

PARITY = SHARED / 'data' / 'cocoeval_parity'


def mean_precision(found: matching.Matches) -> list[float]:
    """Return AP of each category that has objects."""
    values = []
    for k in np.flatnonzero(found.counts()):
        of_iou = []
        for t in range(len(IOUS)):
            kept = (found.detections.label == k) & ~found.detections.ignored[:, t]
            of_iou.append(matching.average_precision(
                found.detections.score[kept], found.detections.matched[kept, t] >= 0, found.counts()[k]))
        values.append(float(np.mean(of_iou)))
    return values


def test_matches_by_hand() -> None:
    first, second = [0, 0, 100, 100], [0, 50, 100, 100]     # their IoU is 1/3
    truth = truth_of([(2, 1, first), (2, 1, second), (2, 2, first)], images=2)
    found = matching.match(truth, results_of([
        (2, 1, [0, 0, 100, 72], .5), (2, 1, first, .9), (2, 3, second, .7), (1, 1, first, .1)]), 'bbox')
    assert found.image_ids == [1, 2] and found.objects.image.tolist() == [1, 1, 1]
    assert found.objects.neighbor == pytest.approx([1, 1 / 3, 1]) and found.objects.area.tolist() == [1e4] * 3
    detections = found.detections
    assert detections.score.tolist() == [.1, .9, .7, .5] and detections.result.tolist() == [3, 1, 2, 0]
    assert detections.label.tolist() == [0, 0, 2, 0] and detections.image.tolist() == [0, 1, 1, 1]
    # The first cat is taken; of the second one, [0, 50, 100, 72 - 50] is covered: 2200 / (7200 + 10000 - 2200) = 0.147.
    assert (detections.matched[1] == 0).all() and (detections.matched[[0, 2, 3]] == -1).all()
    assert detections.same_iou == pytest.approx([0, 1, 0, .72]) and detections.same_object.tolist() == [-1, 0, -1, 0]
    assert detections.other_iou == pytest.approx([0, 1, 1, .72])
    assert detections.other_object.tolist() == [-1, 2, 1, 2]


def test_a_lower_iou_finds_what_a_higher_one_does_not() -> None:
    found = matching.match(truth_of([(1, 1, [0, 0, 100, 100])]), results_of([
        (1, 1, [0, 0, 100, 72], .9), (1, 1, [0, 0, 100, 100], .8)]), 'bbox').detections
    # at 0.50 to 0.70 the better one, from 0.75 on the other
    assert found.matched[0].tolist() == [0] * 5 + [-1] * 5 and found.matched[1].tolist() == [-1] * 5 + [0] * 5


def test_a_crowd_takes_many_detections_but_no_object_of_its_own() -> None:
    found = matching.match(truth_of([(1, 1, [0, 0, 50, 50]), (1, 1, [0, 0, 200, 200], True)]), results_of([
        (1, 1, [0, 0, 50, 50], .9), (1, 1, [0, 0, 50, 50], .8), (1, 1, [150, 0, 100, 100], .7),
        (1, 2, [0, 0, 50, 50], .6)]), 'bbox')
    assert len(found.objects.label) == 1
    assert found.detections.matched[:, 0].tolist() == [0, -1, -1, -1]
    # of the third, half is in the crowd; the fourth is of another category
    assert found.detections.ignored[:, 0].tolist() == [False, True, True, False]
    assert found.detections.ignored[:, 1].tolist() == [False, True, False, False]


def test_the_best_hundred_of_each_category_count() -> None:
    boxes = [(1, 1 + i % 2, [i, 0, 10, 10], 1 - i / 1000) for i in range(250)]
    found = matching.match(truth_of([]), results_of([*boxes, (1, 77, [0, 0, 9, 9], .9)]), 'bbox').detections
    assert found.label.tolist() == [0, 1] * 100 and found.score.min() == pytest.approx(1 - 199 / 1000)


def test_no_images() -> None:
    found = matching.match(truth_of([], images=0), [], 'bbox')
    assert found.detections.matched.shape == (0, 10) and len(found.pairs.iou) == 0


def test_average_precision_equals_that_of_pycocotools() -> None:
    truth, results = imperfect(seed=0, images=40)
    values = coco.average_precision(truth, results, 'bbox')
    assert mean_precision(matching.match(truth, results, 'bbox')) == pytest.approx(
        [values[f'AP/{name}'] for name in coco.names_of(truth)], abs=1e-12)


@pytest.mark.skipif(not PARITY.is_dir(), reason='needs the evaluation parity set in ../shared/data')
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_average_precision_equals_that_of_pycocotools_on_coco(kind: str) -> None:
    """With ties of scores, crowds and objects that several detections overlap."""
    truth = coco.read_coco(PARITY / 'instances_val2014_100.json')
    results = json.loads((PARITY / f'instances_val2014_fake{kind}100_results.json').read_text())
    expected = [value for name, value in coco.average_precision(truth, results, kind).items()
                if name.startswith('AP/') and value is not None]
    assert mean_precision(matching.match(truth, results, kind)) == pytest.approx(expected, abs=1e-12)


def test_an_object_without_a_mask_is_a_crowd_of_masks() -> None:
    truth = truth_of([(1, 1, [0, 0, 40, 40])])
    segment = {'size': [400, 400], 'counts': list(coco.expected(truth, 'segm'))[0]['segmentation']['counts']}
    results = [{**each, 'segmentation': segment} for each in results_of([(1, 1, [0, 0, 40, 40], .9)])]
    found = matching.match(truth, results, 'segm')
    assert len(found.objects.label) == 0 and found.detections.ignored.all()
