"""Compares the CPU time of our COCO evaluation, from arrays to metrics, with that of pycocotools alone.

    python benchmarks/evaluate_speed.py annotations/instances_val2017.json --images 500

Every image, repeated if there are too few, gets 100 detections with masks of 28 x 28 cells: 60 are near its objects,
the others are ellipses anywhere. `ours` pastes the masks, encodes them and computes all box and mask metrics.
`pycocotools` starts from the written detections.json. Both include reading the annotations. Prints one JSON line with
CPU seconds, and whether the 24 metrics are equal to the last bit.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import coco
from mrcnn_tf.input.manifest import Category

NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
CELLS = (np.arange(28) + .5) / 28
ELLIPSE = ((CELLS[:, None] - .5) ** 2 + (CELLS - .5) ** 2 <= .25).astype(np.float32)


def repeated(source: pathlib.Path, target: pathlib.Path, count: int) -> None:
    """Write an annotation file of `count` images, those of `source` again and again under new ids."""
    data = json.loads(source.read_bytes())
    objects: dict[int, list[dict]] = {}
    for each in data['annotations']:
        objects.setdefault(each['image_id'], []).append(each)
    images = [data['images'][i % len(data['images'])] for i in range(count)]
    found = [{**each, 'image_id': i} for i, image in enumerate(images, 1) for each in objects.get(image['id'], [])]
    target.write_text(json.dumps({
        **data, 'images': [{**image, 'id': i} for i, image in enumerate(images, 1)],
        'annotations': [{**each, 'id': i} for i, each in enumerate(found, 1)]}))


def random_instances(truth: coco.GroundTruth, image: int, objects: list[dict], rng: np.random.Generator) -> Instances:
    """Return 100 detections of an image."""
    labels = {number: k for k, (number, _) in enumerate(truth.categories, 1)}
    boxes, masks, found = [], [], []
    for _ in range(100):
        if objects and rng.random() < .6:
            each = objects[rng.integers(len(objects))]
            x, y, width, height = each['bbox']
            whole = coco_mask.decode(each['segmentation'])
            rows, columns = (np.clip(low + side * CELLS, 0, limit - 1).astype(int) for low, side, limit in (
                (y, height, whole.shape[0]), (x, width, whole.shape[1])))
            masks.append(whole[np.ix_(rows, columns)].astype(np.float32))
            box = np.array([y, x, y + height, x + width]) + rng.normal(0, .06, 4) * [height, width, height, width]
            found.append(labels[each['category_id']] if rng.random() < .8 else rng.integers(1, len(labels) + 1))
        else:
            size = np.array(truth.sizes[image])
            corner, side = rng.uniform(0, .7, 2) * size, rng.uniform(.02, .5, 2) * size
            box = np.concatenate([corner, np.minimum(corner + side, size)])
            masks.append(ELLIPSE)
            found.append(rng.integers(1, len(labels) + 1))
        boxes.append(box)
    order = np.argsort(-rng.random(100))
    return Instances(np.array(boxes, np.float32), np.sort(rng.random(100))[::-1].astype(np.float32)[order],
                     np.array(found, np.int32), np.array(masks))


def ours(annotations: pathlib.Path, predictions: dict[int, Instances], output: pathlib.Path) -> dict[str, float]:
    """Evaluate and write detections.json; return the metrics."""
    truth = coco.read_coco(annotations)
    categories = [Category(k, number, name) for k, (number, name) in enumerate(truth.categories, 1)]
    evaluator = coco.CocoEvaluator(truth, categories, 'pixel_center')
    for image, instances in predictions.items():
        evaluator.add(image, instances)
    metrics = evaluator.evaluate()
    evaluator.write(output, metrics)
    return metrics


def by_pycocotools(annotations: pathlib.Path, detections: pathlib.Path) -> dict[str, np.ndarray]:
    """Return pycocotools' 12 metrics of boxes and of masks."""
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth, results = COCO(str(annotations)), json.loads(detections.read_bytes())
        for kind, other in (('bbox', 'segmentation'), ('segm', 'bbox')):
            chosen = [{key: value for key, value in each.items() if key != other} for each in results]
            evaluation = COCOeval(truth, truth.loadRes(chosen), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            found[kind] = evaluation.stats
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=pathlib.Path)
    parser.add_argument('--images', type=int, default=500)
    given, rng = parser.parse_args(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        repeated(given.annotations, folder / 'a.json', given.images)
        truth = coco.read_coco(folder / 'a.json')
        objects: dict[int, list[dict]] = {}
        for each in truth.annotations:
            objects.setdefault(each['image_id'], []).append(each)
        predictions = {i: random_instances(truth, i, objects.get(i, []), rng) for i in truth.sizes}
        begun = time.process_time()
        metrics = ours(folder / 'a.json', predictions, folder)
        between = time.process_time()
        reference = by_pycocotools(folder / 'a.json', folder / 'detections.json')
        end = time.process_time()
    equal = all(metrics[f'{kind}/{name}'] == value for kind, values in reference.items()
                for name, value in zip(NAMES, values, strict=True))
    print(json.dumps({'images': given.images, 'detections': 100 * given.images, 'ours': round(between - begun, 2),
                      'pycocotools': round(end - between, 2), 'ratio': round((between - begun) / (end - between), 2),
                      'equal': equal, 'bbox/AP': metrics['bbox/AP'], 'segm/AP': metrics['segm/AP']}))


if __name__ == '__main__':
    main()
