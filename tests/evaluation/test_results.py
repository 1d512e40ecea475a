"""Detections of a file: what is read, what is refused, and their metrics on a set of 16 images."""
from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_tf.evaluation import results
from mrcnn_tf.evaluation.coco import EvaluationError, read_manifest
from mrcnn_tf.evaluation.report import read as read_report
from mrcnn_tf.evaluation.write_report import Report
from tests.evaluation.arrays import truth_of
from tests.training.tiny import write_data

TRUTH = truth_of([(1, 1, (10, 10, 40, 40))])     # an image of 400 x 400 px


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp('results')
    write_data(directory)
    return directory


def written(directory: pathlib.Path, content: Any) -> pathlib.Path:
    path = directory / 'detections.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def square() -> np.ndarray:
    """A mask of 400 x 400 px with a square of 40 px at 10, 10."""
    mask = np.zeros([400, 400], np.uint8, order='F')
    mask[10:50, 10:50] = 1
    return mask


def detection(**changes: Any) -> dict[str, Any]:
    return {'image_id': 1, 'category_id': 1, 'bbox': [10, 10, 40, 40], 'score': .5, **changes}


def test_a_mask_gives_the_box_that_a_detection_lacks(tmp_path: pathlib.Path) -> None:
    rle = coco_mask.encode(square())
    # The columns of the square: 10 of zeros, then 40 runs of ones.
    counts = [10 * 400 + 10, 40, *[360, 40] * 39, 350 * 400 + 350]
    without = {key: value for key, value in detection().items() if key != 'bbox'}
    read = results.read(written(tmp_path, [
        {**without, 'segmentation': {**rle, 'counts': rle['counts'].decode()}},
        {**without, 'segmentation': {'size': [400, 400], 'counts': counts}}]), TRUTH)
    assert [each['bbox'] for each in read] == [[10, 10, 40, 40]] * 2
    assert all((coco_mask.decode(each['segmentation']) == square()).all() for each in read)


def test_the_file_of_predict(tmp_path: pathlib.Path) -> None:
    assert results.read(written(tmp_path, {'annotations': [detection(id=1, iscrowd=0)]}), TRUTH) == [detection()]


WRONG = 'detection 1 .from 0.: expected image_id, category_id, a finite score, and bbox'


@pytest.mark.parametrize(('content', 'message'), [
    ('[', 'not JSON'), ({'images': []}, "expected a list of detections in COCO's results format, .*found dict"),
    ([detection(), 7], WRONG), ([detection(), detection(score='high')], WRONG),
    ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": NaN}]', 'a finite score'),
    ([detection(), detection(bbox=[1, 2, 3])], WRONG), ([detection(), detection(bbox=[1, 2, -3, 4])], WRONG),
    ([detection(), {'image_id': 1, 'category_id': 1, 'score': 1}], WRONG),
    ([detection(), detection(segmentation=[[1, 1, 5, 1, 5, 5]])], WRONG),
    ([detection(), detection(segmentation={'size': [4, 4], 'counts': [16]})], WRONG),
    ([detection(), detection(image_id=[1])], WRONG),
    ([detection(image_id=7)], 'truth.json has no image 7 or no category 1; give the set on which'),
    ([detection(category_id=9)], 'has no image 1 or no category 9')], ids=[
        'no JSON', 'no list', 'a number', 'score', 'NaN', 'three numbers', 'negative width', 'no box', 'polygon',
        'other size', 'list as id', 'other image', 'other category'])
def test_what_is_no_detection_is_refused(tmp_path: pathlib.Path, content: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        results.read(written(tmp_path, content), TRUTH)


def test_ground_truth_as_detections_is_perfect(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The report names the step of metrics.json only if that belongs to the file."""
    truth = read_manifest(data / 'train.json')
    found = [{**each, 'score': .9} for each in truth.annotations]
    path, page = written(tmp_path, found), tmp_path / 'report.html'
    (tmp_path / 'metrics.json').write_text(json.dumps({'step': 7, 'detections': len(found)}))
    evaluation = results.evaluate_classes(path, data / 'train.json', report=Report(page, pictures=1))
    assert evaluation.metrics['bbox/AP'] == evaluation.metrics['segm/AP'] == 1
    assert [row['bbox/AP'] for row in evaluation.classes] == [1, 1]
    assert read_report(page)['model'] == f'{tmp_path}, step 7' and 'worst images' in page.read_text().lower()
    assert results.evaluate_results(written(tmp_path, found[1:]), data / 'train.json', 'voc2012')['voc/mAP'] < 1
    results.evaluate_results(path, data / 'train.json', report=Report(page, pictures=0))
    assert read_report(page)['model'] == str(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ['detections.json', 'metrics.json', 'report.html']


def test_metrics_that_need_a_model_are_refused() -> None:
    with pytest.raises(EvaluationError, match="metric 'recall' of detections in a file: expected coco, voc2007, voc"):
        results.evaluate_results('found.json', 'train.json', 'recall')
