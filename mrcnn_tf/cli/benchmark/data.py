"""The input of training, the conversion of a data set, and the metrics of a set."""
from __future__ import annotations

import contextlib
import io
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from data_tools import conversion
from data_tools.formats import coco as coco_format
from data_tools.sharding import writer
from mrcnn_tf import files
from mrcnn_tf.cli.benchmark.networks import Work
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import coco
from mrcnn_tf.evaluation.run import processes_of
from mrcnn_tf.input.dataset import training_parts
from mrcnn_tf.input.manifest import Category

_DETECTIONS, _SIDE = 100, 28    # of each image; cells of a mask
_CELLS = (np.arange(_SIDE) + .5) / _SIDE
_ELLIPSE = ((_CELLS[:, None] - .5) ** 2 + (_CELLS - .5) ** 2 <= .25).astype(np.float32)


def training_input(config: Config, images: int) -> Work:
    """Return the reading of at least `images` training images: from shards to batches, with the config's changes."""
    batches = iter(training_parts(str(config.data.train), config)[0])
    count = -(-images // config.data.batch_size)
    said = {'data': str(config.data.train), 'batch': config.data.batch_size, 'images': count * config.data.batch_size}

    def read() -> None:
        for _ in range(count):
            next(batches)

    return read, said


def conversion_of(annotations: pathlib.Path, images: pathlib.Path, least: int, workers: int, directory: pathlib.Path
                  ) -> Work:
    """Return the conversion of a COCO json with masks, its images repeated until there are at least `least`.

    Args:
        annotations: COCO's instances json.
        images: the directory of its images.
        least: the number of images.
        workers: the number of processes.
        directory: an empty one, for the sets.
    """
    repeated = directory / 'annotations.json'
    count = repeat(annotations, repeated, least)
    said: dict[str, Any] = {'data': str(annotations), 'images': count, 'workers': workers}
    options = writer.Options(images_per_shard=-(-count // 4), workers=workers)

    def convert() -> None:
        with tempfile.TemporaryDirectory(dir=directory) as output, contextlib.redirect_stdout(io.StringIO()):
            manifest = conversion.convert(coco_format.find(repeated, images), output, 'train', options=options)
        said['bytes_an_image'] = sum(each.bytes for each in manifest.shards) // count

    return convert, said


def metrics_of(annotations: pathlib.Path, count: int, directory: pathlib.Path, workers: int = 1) -> Work:
    """Return COCO's evaluation of `count` images with 100 detections each, from arrays to metrics and detections.json.

    Of the detections, 60 are near objects, the others are ellipses anywhere.

    Args:
        annotations: COCO's instances json. Its images are repeated, or left out, until there are `count`.
        count: the number of images.
        directory: an empty one, for metrics.json and detections.json.
        workers: number of processes.
    """
    repeated = directory / 'annotations.json'
    repeat(annotations, repeated, count, exactly=True)
    truth = coco.read_coco(repeated)
    found = dict(detections(truth))
    said = {'data': str(annotations), 'images': count, 'detections': _DETECTIONS * count, 'workers': workers}
    categories = [Category(k, number, name) for k, (number, name) in enumerate(truth.categories, 1)]

    def evaluate() -> None:
        evaluator = coco.CocoEvaluator(coco.read_coco(repeated), categories, 'pixel_center')
        with processes_of(workers) as processes:
            evaluator.add_all(found.items(), processes.map)
            metrics = evaluator.evaluate(mapped=processes.map)
        evaluator.write(directory, metrics)
        said.update({name: metrics[name] for name in ('bbox/AP', 'segm/AP') if name in metrics})

    return evaluate, said


def repeat(source: pathlib.Path, target: pathlib.Path, least: int, exactly: bool = False) -> int:
    """Write a COCO json with its images again and again under new ids; return their number.

    Args:
        source: COCO's instances json.
        target: the file to write.
        least: write whole repetitions until there are as many images.
        exactly: write no more than that.

    Raises:
        EvaluationError: the file is not COCO's json, or has no images.
    """
    if not coco.read_coco(source).sizes:
        raise coco.EvaluationError(f'{source}: has no images; give a COCO annotation file with some')
    data = files.read_json(source)
    objects: dict[Any, list[dict[str, Any]]] = {}
    for each in data['annotations']:
        objects.setdefault(each['image_id'], []).append(each)
    total = least if exactly else len(data['images']) * -(-least // len(data['images']))
    images = [data['images'][i % len(data['images'])] for i in range(total)]
    found = [{**each, 'image_id': i} for i, image in enumerate(images, 1) for each in objects.get(image['id'], [])]
    target.write_text(json.dumps({
        **data, 'images': [{**image, 'id': i} for i, image in enumerate(images, 1)],
        'annotations': [{**each, 'id': i} for i, each in enumerate(found, 1)]}))
    return total


def detections(truth: coco.GroundTruth) -> Iterator[tuple[int, Instances]]:
    """Yield each image id with 100 detections, always the same ones; those near objects are near ones with a mask."""
    rng = np.random.default_rng(0)
    objects: dict[int, list[dict[str, Any]]] = {}
    for each in truth.annotations:
        if 'segmentation' in each:
            objects.setdefault(each['image_id'], []).append(each)
    labels = {number: k for k, (number, _) in enumerate(truth.categories, 1)}
    for image, size in truth.sizes.items():
        own = objects.get(image, [])
        rows = [_near(own[rng.integers(len(own))], labels, rng) if own and rng.random() < .6 else
                _anywhere(size, len(labels), rng) for _ in range(_DETECTIONS)]
        boxes, masks, found = (np.array(column) for column in zip(*rows, strict=True))
        yield image, Instances(boxes.astype(np.float32), np.sort(rng.random(_DETECTIONS)).astype(np.float32)[::-1],
                               found.astype(np.int32), masks)


_Row = tuple[np.ndarray, np.ndarray, int]    # box [4] px, mask [28, 28], label


def _near(each: dict[str, Any], labels: dict[int, int], rng: np.random.Generator) -> _Row:
    """Return an object, moved a little, in one of five cases with another label."""
    x, y, width, height = each['bbox']
    whole = coco_mask.decode(each['segmentation'])
    rows, columns = (np.clip(low + side * _CELLS, 0, limit - 1).astype(int)
                     for low, side, limit in ((y, height, whole.shape[0]), (x, width, whole.shape[1])))
    box = np.array([y, x, y + height, x + width]) + rng.normal(0, .06, 4) * [height, width, height, width]
    label = labels[each['category_id']] if rng.random() < .8 else int(rng.integers(1, len(labels) + 1))
    return box, whole[np.ix_(rows, columns)].astype(np.float32), label


def _anywhere(size: tuple[int, int], classes: int, rng: np.random.Generator) -> _Row:
    """Return an ellipse in an image of height and width `size`, with any label."""
    corner, side = rng.uniform(0, .7, 2) * size, rng.uniform(.02, .5, 2) * size
    box = np.concatenate([corner, np.minimum(corner + side, size)])
    return box, _ELLIPSE, int(rng.integers(1, classes + 1))


