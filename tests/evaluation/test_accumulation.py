"""Precision and recall against pycocotools, to the last bit."""
from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_tf.evaluation.accumulation import accumulate

SIDE, CATEGORIES = 150, (2, 5, 9, 11)


def entry(rng: np.random.Generator, box: np.ndarray, image: int) -> dict:
    """Return a region of whole pixels: a box, and an ellipse in it as RLE."""
    x, y, width, height = box.tolist()
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = ((rows - y) / height * 2 - 1) ** 2 + ((columns - x) / width * 2 - 1) ** 2 <= 1
    code = coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {'image_id': image, 'category_id': int(rng.choice(CATEGORIES[:3])), 'bbox': [x, y, width, height],
            'segmentation': code, 'iscrowd': 0}


def random_set(seed: int, detections: int) -> tuple[list[dict], list[dict]]:
    """Return objects of three areas, a fifth of them crowds, and detections near them: many ties, and 2 empty images.

    The fourth category has no objects but a detection.
    """
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(1, 7):
        boxes = np.concatenate([rng.integers(0, 60, (8, 2)), rng.choice([8, 31, 32, 33, 50, 100], (8, 2))], axis=1)
        if image not in (2, 5):
            objects += [entry(rng, box, image) for box in boxes]
        if image not in (3, 5):
            moved = boxes[rng.integers(0, 8, detections)] + rng.choice([0, 0, 2, 5], (detections, 4))
            found += [entry(rng, box, image) for box in moved]
    for each in objects:
        each['iscrowd'] = int(rng.random() < .2)
        each['area'] = float(coco_mask.area(each['segmentation']) + rng.integers(0, 2))
    for each in found:
        each['score'] = rng.integers(0, 8) / 8
    return objects, [*found, {**found[0], 'category_id': 11}]


def by_pycocotools(objects: list[dict], detections: list[dict], kind: str, limits: list[int]) -> COCOeval:
    """Return pycocotools' evaluation; the area of a detection is that of its box or of its mask."""
    area = {'bbox': lambda d: d['bbox'][2] * d['bbox'][3], 'segm': lambda d: float(coco_mask.area(d['segmentation']))}
    sets = []
    for entries in (objects, [{**each, 'area': area[kind](each)} for each in detections]):
        sets.append(COCO())
        sets[-1].dataset = {'images': [{'id': i, 'height': SIDE, 'width': SIDE} for i in range(1, 8)],
                            'categories': [{'id': i} for i in CATEGORIES],
                            'annotations': [{**each, 'id': i} for i, each in enumerate(entries, 1)]}
        sets[-1].createIndex()
    evaluation = COCOeval(*sets, kind)
    evaluation.params.maxDets = limits
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize(('seed', 'detections', 'limits'), [
    (0, 30, [1, 10, 100]), (1, 60, [1, 5, 9]), (2, 60, [1, 10, 100, 300])], ids=['all', 'limited', 'four limits'])
def test_curves_are_those_of_pycocotools(kind, seed, detections, limits) -> None:
    objects, found = random_set(seed, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = by_pycocotools(objects, found, kind, limits).eval
    precision, recall = accumulate(range(1, 8), CATEGORIES, objects, found, kind, limits)
    np.testing.assert_array_equal(precision, reference['precision'])
    np.testing.assert_array_equal(recall, reference['recall'])
    assert (precision[..., 3, :, :] == -1).all() and 0 < precision[..., :3, 0, 2].mean() < 1


def test_detections_of_other_images_and_categories_do_not_count() -> None:
    objects, found = random_set(3, 10)
    expected = accumulate(range(1, 8), CATEGORIES, objects, found, 'bbox', [100])
    more = [*found, {**found[0], 'image_id': 8}, {**found[0], 'category_id': 1}]
    for ours, theirs in zip(expected, accumulate(range(1, 8), CATEGORIES, objects, more, 'bbox', [100]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_set_without_images() -> None:
    assert (accumulate([], CATEGORIES, [], [], 'segm', [1, 100])[0] == np.full([10, 101, 4, 4, 2], -1.)).all()
