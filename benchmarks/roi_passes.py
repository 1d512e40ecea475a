"""Counts the passes of adaptive RoIAlign under XLA, on boxes like those of training.

    python -m benchmarks.roi_passes annotations/instances_val2017.json

A pass reads four cells in each bin of some boxes of a batch. Boxes need different numbers of passes. Prints one JSON
line for each kind of model: the mean over batches of the largest number that a box needs (the passes if all boxes were
in one bucket), of the passes over all boxes in the buckets of `mrcnn_tf.layers.roi`, and of the number that boxes need;
`worst_passes`, the largest of a batch; `buckets`, their number; and `iterations`, the sum over the buckets.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import tensorflow as tf

from mrcnn_tf.layers import roi
from mrcnn_tf.layers.roi import xla_engine
from mrcnn_tf.layers.roi.sampling import AVERAGE

FPN = (4, 8, 16, 32)
KINDS = {    # side of the result, strides, channels, boxes of an image, images
    'C4, training': (14, (16,), 1024, 512, 2), 'DC5, training': (7, (16,), 2048, 512, 2),
    'FPN box head, training': (7, FPN, 256, 512, 2), 'FPN box head, inference': (7, FPN, 256, 1000, 1),
    'FPN mask head, training': (14, FPN, 256, 128, 2)}


def objects(path: pathlib.Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the size [2] and the boxes [n, 4] of each image with objects, resized to 800/1333 px."""
    data, found = json.loads(path.read_bytes()), []
    boxes: dict[int, list[list[float]]] = {}
    for each in data['annotations']:
        boxes.setdefault(each['image_id'], []).append(each['bbox'])
    for image in data['images']:
        if image['id'] in boxes:
            size = np.array([image['height'], image['width']])
            scale = min(800 / size.min(), 1333 / size.max())
            x, y, width, height = np.array(boxes[image['id']]).T * scale
            found.append((size * scale, np.stack([y, x, y + height, x + width], axis=1)))
    return found


def random_rois(size: np.ndarray, boxes: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return RoIs [number, 4]: a quarter are objects, moved by a tenth of their sides, the others are anywhere."""
    near = boxes[rng.integers(0, len(boxes), number // 4)]
    near = near + rng.normal(0, .1, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
    count = number - len(near)
    side = rng.choice([32, 64, 128, 256, 512], count, p=[.3, .25, .2, .15, .1]) * np.exp(rng.normal(0, .3, count))
    half = side[:, None] * np.exp(rng.normal(0, .25, (count, 1)) * [1, -1]) / 2
    center = rng.uniform(0, 1, (count, 2)) * size
    return np.clip(np.concatenate([near, np.concatenate([center - half, center + half], 1)]), 0, np.tile(size, 2))


def passes(boxes: np.ndarray, side: int, strides: tuple[int, ...], channels: int) -> tuple[float, float, float, int]:
    """Return the passes of one bucket, the mean of the buckets' and of what boxes [B, N, 4] need, and the buckets."""
    rois = tf.constant(boxes, tf.float32)
    levels = roi.assign_levels(rois, len(strides)) if len(strides) > 1 else tf.zeros(rois.shape[:2], tf.int32)
    plan = roi.sampling_plan(rois, levels, strides, (side, side), 0, True)
    needed = xla_engine.Passes([], 0, AVERAGE).number(plan)
    by_bucket = tf.gather(needed, xla_engine.buckets(needed, side * side * channels)).numpy()
    return by_bucket.max(), by_bucket.max(axis=1).mean(), by_bucket.mean(), len(by_bucket)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=pathlib.Path)
    parser.add_argument('--batches', type=int, default=50)
    given = parser.parse_args()
    images, rng = objects(given.annotations), np.random.default_rng(0)
    for name, (side, strides, channels, number, batch) in KINDS.items():
        found = np.array([passes(np.stack([random_rois(*images[i], number, rng) for i in rng.integers(
            0, len(images), batch)]), side, strides, channels) for _ in range(given.batches)])
        most, bucketed, needed, buckets = found.astype(float).mean(axis=0).round(1).tolist()
        print(json.dumps({'what': name, 'one_bucket': most, 'passes': bucketed, 'needed': needed,
                          'worst_passes': round(float(found[:, 1].max()), 1), 'buckets': int(buckets),
                          'iterations': round(bucketed * buckets, 1)}), flush=True)


if __name__ == '__main__':
    main()
