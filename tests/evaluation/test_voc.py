"""VOC's mean average precision, computed by hand."""
from __future__ import annotations

import numpy as np
import pytest

from mrcnn_tf.evaluation import voc
from mrcnn_tf.evaluation.coco import GroundTruth


def truth(*annotations: dict) -> GroundTruth:
    return GroundTruth('here', {1: (100, 100), 2: (100, 100)}, [(1, 'cat'), (2, 'dog')], list(annotations), False)


def thing(image: int, x: float, category: int = 1, **flags: bool) -> dict:
    """An object of 10 x 10 px at x, 0."""
    return {'image_id': image, 'category_id': category, 'bbox': [x, 0., 10., 10.], 'area': 100., 'iscrowd': 0, **flags}


def found(image: int, x: float, score: float, category: int = 1, width: float = 10.) -> dict:
    return {'image_id': image, 'category_id': category, 'bbox': [x, 0., width, 10.], 'score': score}


def test_average_precision_of_both_years() -> None:
    """Four objects. By score: true, false, true, false, true positive: recalls 1/4, 1/4, 1/2, 1/2, 3/4, precisions
    1, 1/2, 2/3, 1/2, 3/5. Area: (1 + 2/3 + 3/5) / 4. Eleven points: 3 at 1, 3 at 2/3, 2 at 3/5, 3 at 0."""
    objects = truth(*(thing(1, 20. * k) for k in range(3)), thing(2, 0.))
    detections = [found(1, 40., .5), found(1, 0., .9), found(2, 50., .8), found(1, 20., .7), found(2, 80., .6)]
    assert voc.mean_average_precision(objects, detections, False)['AP/cat'] == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert voc.mean_average_precision(objects, detections, True)['AP/cat'] == pytest.approx(
        (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)


def test_the_second_detection_of_an_object_is_a_false_positive() -> None:
    """Also if its IoU is larger. All detections of a difficult object are ignored."""
    objects = truth(thing(1, 0.), thing(1, 50., difficult=True))
    detections = [found(1, 2., .9), found(1, 0., .8), found(1, 50., .7), found(1, 51., .6)]
    positive, negative = voc._match(objects.annotations, detections)
    assert positive.tolist() == [True, False, False, False] and negative.tolist() == [False, True, False, False]
    assert voc.mean_average_precision(objects, detections, False)['AP/cat'] == 1.


@pytest.mark.parametrize(('width', 'match'), [(20., True), (20.001, False), (5., True), (4.999, False)])
def test_an_iou_of_one_half_is_a_match(width, match) -> None:
    detections = [found(1, 0., .9, width=width)]
    assert voc.mean_average_precision(truth(thing(1, 0.)), detections, False)['AP/cat'] == float(match)


def test_only_objects_of_the_same_image_and_category_match() -> None:
    objects = truth(thing(1, 0.), thing(2, 0., category=2))
    metrics = voc.mean_average_precision(objects, [found(2, 0., .9), found(2, 0., .8, category=2)], True)
    assert metrics == {'mAP': .5, 'AP/cat': 0., 'AP/dog': 1.}


def test_categories_without_objects_are_ignored() -> None:
    """Also categories with only difficult objects and crowds."""
    objects = truth(thing(1, 0.), {**thing(1, 50., category=2), 'iscrowd': 1})
    metrics = voc.mean_average_precision(objects, [found(1, 0., .9), found(1, 0., .9, category=2)], False)
    assert metrics == {'mAP': 1., 'AP/cat': 1., 'AP/dog': None}
    assert voc.mean_average_precision(truth(), [], False) == {'mAP': None, 'AP/cat': None, 'AP/dog': None}


def test_perfect_detections_have_precision_one() -> None:
    rng = np.random.default_rng(0)
    objects = truth(*(thing(image, 15. * k) for image in (1, 2) for k in range(5)))
    detections = [found(image, 15. * k, float(rng.uniform())) for image in (1, 2) for k in range(5)]
    for eleven_point in (True, False):
        assert voc.mean_average_precision(objects, detections, eleven_point)['mAP'] == pytest.approx(1.)


def test_the_table_is_in_percent() -> None:
    lines = voc.table({'mAP': .5, 'AP/cat': .123, 'AP/dog': None}).splitlines()
    assert lines == ['mAP   50.0', 'cat   12.3', 'dog      -']
