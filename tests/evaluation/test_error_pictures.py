"""Pictures of the worst images: which objects and detections are marked how, and the figures of a small set."""
from __future__ import annotations

import base64
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from mrcnn_tf.evaluation import error_pictures, report
from mrcnn_tf.evaluation.coco import CocoEvaluator, read_manifest
from mrcnn_tf.evaluation.error_pictures import _CORRECT, _IGNORED, _WRONG
from mrcnn_tf.input.manifest import Category, Manifest
from tests.evaluation.arrays import NAMES, instances_of, truth_of
from tests.training.tiny import write_data

A, B, C = [0, 0, 100, 100], [200, 0, 100, 100], [0, 200, 100, 100]
CAT, DOG = 1, 2


def test_marks_by_hand() -> None:
    truth = truth_of([(2, CAT, A), (2, DOG, B), (2, CAT, C, True)], images=2)
    evaluator = CocoEvaluator(truth, [Category(k, k, name) for k, name in enumerate(NAMES, 1)], '')
    evaluator.add(1, instances_of([], [], []))
    evaluator.add(2, instances_of([A, B, [10, 210, 20, 20], B], [.9, .8, .7, .1], [CAT, CAT, CAT, DOG]))
    evaluator.evaluate()
    analysis = report.analyses(evaluator)['bbox']
    analysis.threshold = .5
    shown = error_pictures.objects(evaluator, analysis, 1)
    assert [(mark.text, mark.color) for mark in shown] == [
        ('cat', _CORRECT), ('dog missed', _WRONG), ('cat (crowd)', _IGNORED)]
    shown = error_pictures.detections(evaluator, analysis, 1)
    assert [(mark.text, mark.color) for mark in shown] == [
        ('cat 0.70', _IGNORED), ('cat 0.80 classification', _WRONG), ('cat 0.90', _CORRECT)]
    assert error_pictures.objects(evaluator, analysis, 0) == error_pictures.detections(evaluator, analysis, 0) == []


@pytest.fixture(scope='module')
def missing(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, CocoEvaluator]:
    """A set of 16 images, whose objects are all found but those of images 3 and 5."""
    directory = tmp_path_factory.mktemp('pictures')
    write_data(directory)
    truth = read_manifest(directory / 'train.json')
    categories = Manifest.read(directory / 'train.json').categories
    evaluator = CocoEvaluator(truth, categories, '')
    for image in truth.sizes:
        boxes = [each['bbox'] for each in truth.annotations if each['image_id'] == image]
        labels = [each['category_id'] for each in truth.annotations if each['image_id'] == image]
        count = {3: 1, 5: 0}.get(image, len(boxes))
        evaluator.add(image, instances_of(boxes[:count], [.9] * count, labels[:count]))
    evaluator.evaluate()
    return directory / 'train.json', evaluator


def test_the_worst_images_come_first_and_those_without_errors_do_not(missing: tuple[pathlib.Path, CocoEvaluator]
                                                                     ) -> None:
    manifest, evaluator = missing
    found = error_pictures.figures(manifest, evaluator, report.analyses(evaluator)['bbox'], 9)
    assert [re.findall(r'id (\d+): (\d) correct, (\d) wrong, (\d) missed', each)[0] for each in found] == [
        ('5', '0', '0', '2'), ('3', '1', '0', '1')]
    content = re.findall('base64,([^"]+)"', found[0])[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert('RGB'), int)
    # 64 px are enlarged to 500. On the left are two red masks with names, on the right nothing is marked.
    assert pixels.shape[1] > 1000
    red = (pixels[..., 0] - pixels[..., 1]) > 60
    assert red[:, :pixels.shape[1] // 2].sum() > 20000 and not red[:, pixels.shape[1] // 2:].any()


def test_no_images_are_read_for_no_pictures(missing: tuple[pathlib.Path, CocoEvaluator]) -> None:
    _, evaluator = missing
    assert error_pictures.figures('missing.json', evaluator, report.analyses(evaluator)['bbox'], 0) == []
