"""Draws the best and the worst predictions of a model on a set, each as a picture beside the ground truth.

    python -m benchmarks.prediction_pictures runs/nuclei data/nuclei/val.json docs/pictures/nuclei --best 1 --worst 2

Reads detections.json, which `mrcnn evaluate` wrote. Images are ranked by F1: detections with a score of at least 0.5
are matched to objects of their category with a box IoU of at least 0.5. Writes
OUTPUT_best_1.jpg, OUTPUT_worst_1.jpg, ...
"""
from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pathlib
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.evaluation.coco import read_manifest
from mrcnn_tf.input import record_reader
from mrcnn_tf.input.manifest import Manifest

THRESHOLD = 0.5    # for scores and for IoU


def instances_of(results: list[dict[str, Any]], labels: dict[int, int]) -> Instances:
    """Convert COCO results or annotations of one image to Instances, best score first."""
    results = sorted((r for r in results if r.get('score', 1) >= THRESHOLD), key=lambda r: -r.get('score', 1))
    x, y, width, height = np.array([r['bbox'] for r in results], np.float32).reshape(-1, 4).T
    masks = np.array([coco_mask.decode(r['segmentation']) for r in results], bool) if results and all(
        r.get('segmentation') for r in results) else None
    return Instances(np.stack([y, x, y + height, x + width], axis=1),
                     np.array([r.get('score', 1) for r in results], np.float32),
                     np.array([labels[r['category_id']] for r in results], np.int32), masks)


def share(truth: Instances, found: Instances) -> float:
    """Return the F1 score of an image, 0..1: 2 x matches / (objects + detections); an object matches at most once."""
    def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
        common = np.prod(np.maximum(sides, 0), axis=2)
        areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
        return common / (areas[0][:, None] + areas[1][None] - common)

    free = (overlap(found.boxes, truth.boxes) >= THRESHOLD) & (found.labels[:, None] == truth.labels[None])
    pairs = 0
    for row in range(len(found)):
        if free[row].any():
            pairs, free[:, free[row].argmax()] = pairs + 1, False
    return 2 * pairs / max(1, len(found) + len(truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model_dir', type=pathlib.Path)
    parser.add_argument('manifest', type=pathlib.Path)
    parser.add_argument('output')
    parser.add_argument('--best', type=int, default=1)
    parser.add_argument('--worst', type=int, default=1)
    given = parser.parse_args()
    manifest, truth = Manifest.read(given.manifest), read_manifest(given.manifest)
    labels, names = {c.id: c.label for c in manifest.categories}, [c.name for c in manifest.categories]
    found, objects = collections.defaultdict(list), collections.defaultdict(list)
    for result in json.loads((given.model_dir / 'detections.json').read_text()):
        found[result['image_id']].append(result)
    for annotation in truth.annotations:
        objects[annotation['image_id']].append(annotation)
    pictures = {}
    for _, serialized in record_reader.places(given.manifest):
        record = record_reader.decode(serialized)
        pairs = [instances_of(each[record.image_id], labels) for each in (objects, found)]
        image = np.asarray(Image.open(io.BytesIO(record.encoded)).convert('RGB'))
        pictures[record.image_id] = share(*pairs), image, pairs
    ranked = sorted(pictures.values(), key=lambda each: -each[0])
    for kind, chosen in (('best', ranked[:given.best]), ('worst', ranked[::-1][:given.worst])):
        for number, (score, image, pairs) in enumerate(chosen, 1):
            drawn = [visualize.draw(image, each, names, confidence=bool(k)) for k, each in enumerate(pairs)]
            sheet = visualize.side_by_side(drawn, ('ground truth', f'prediction, F1 {score:.2f}'))
            path = f'{given.output}_{kind}_{number}.jpg'
            Image.fromarray(sheet).reduce(2).save(path, quality=85)
            print(path, sheet.shape, f'{len(pairs[0])} objects, {len(pairs[1])} found, F1 {score:.3f}')


if __name__ == '__main__':
    main()
