"""Inference and training steps of a detector, on noise or on image files."""
from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.input.synthetic import training_batch
from mrcnn_tf.layers.precision import PRECISIONS, precision_policy
from mrcnn_tf.serving.predictor import DetectorPredictor, Predictor, load_predictor
from mrcnn_tf.training import schedules
from mrcnn_tf.training.optimizers import build_optimizer

Work = tuple[Callable[[], Any], dict[str, Any]]    # what is measured; what it says of itself, for the result


def random_predictor(name: str, overrides: Sequence[str], size: tuple[int, int], precision: str = 'float32'
                     ) -> DetectorPredictor:
    """Return the predictor of a config with random weights, which finds as many objects as it may in any image.

    Args:
        name: of a packaged config, or a YAML file.
        overrides: settings KEY=VALUE.
        size: height and width of its images, px; they are not resized.
        precision: of convolutions and matrix products: 'float32' or 'bfloat16'.
    """
    detector, config = random_detector(name, overrides, size, precision)
    categories = [Category(label, label, f'category {label}') for label in range(1, config.model.num_classes + 1)]
    return DetectorPredictor(detector, config, categories, final=True)


def random_detector(name: str, overrides: Sequence[str], size: tuple[int, int], precision: str = 'float32'
                    ) -> tuple[Detector, Config]:
    """Return the detector and the config of `random_predictor`."""
    config = configuration.load(name, [
        f'data.test_short_side={min(size)}', f'data.test_long_side={max(size)}', 'model.backbone.weights=none',
        'model.detections.score_threshold=0', *overrides])
    with precision_policy(PRECISIONS[precision]):
        detector = build_detector(config.model)
    _detect_everything(detector)
    return detector, config


def _detect_everything(detector: Detector) -> None:
    """Change weights so that each proposal is an object of class 1, and boxes are anchors of similar scores."""
    proposer, box = detector.proposer, detector.box
    layers = [layer for head in (box.heads if box else ()) for layer in (head.classes, head.deltas)]
    layers += [proposer.head.objectness, proposer.head.deltas] if hasattr(proposer, 'head') else []
    for layer in layers:
        layer.kernel.assign(tf.zeros_like(layer.kernel))    # random backbones have activations of any size
    for head in box.heads if box else ():
        head.classes.bias.assign(5 * tf.one_hot(1, head.classes.bias.shape[0]))


def inference(predictor: Predictor, size: tuple[int, int], batch: int, paste: bool) -> Work:
    """Return the prediction of a batch of images of noise, from uint8 arrays to boxes and masks.

    Args:
        predictor: of the model.
        size: height and width, px.
        batch: the number of images.
        paste: whether masks are pasted to the size of the image.
    """
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, [batch, *size, 3], np.uint8))
    said = {'height': size[0], 'width': size[1], 'batch': batch, 'images': batch,
            'masks': 'pasted' if paste else 'cells'}

    def predict() -> None:
        found = predictor(images, batch, progress=False)
        said['detections'] = sum(map(len, found))
        if paste:
            _ = [each.masks for each in found]

    return predict, said


def files(predictor: Predictor, paths: Sequence[pathlib.Path], batch: int, paste: bool) -> Work:
    """Return the prediction of image files, from their bytes to boxes and masks; arguments as for `inference`."""
    said: dict[str, Any] = {'batch': batch, 'images': len(paths), 'masks': 'pasted' if paste else 'cells'}

    def predict() -> None:
        said['detections'] = 0
        for found in predictor.stream(paths, batch):
            said['detections'] += len(found)
            _ = found.masks if paste else None

    return predict, said


def load(model: str, overrides: Sequence[str], size: tuple[int, int], checkpoint: str, precision: str | None
         ) -> Predictor:
    """Return the predictor of a model directory, an exported model, or a config with random weights."""
    if os.path.exists(model) and not model.endswith(('.yaml', '.yml')):
        return load_predictor(model, checkpoint, precision)
    return random_predictor(model, overrides, size, precision or 'float32')


def train(config: Config, size: tuple[int, int], objects: int) -> Work:
    """Return a training step on images of noise: losses, gradients and the update of the weights.

    The random weights follow from `train.seed`: the boxes that they propose, and so the work, are the same in each run.

    Args:
        config: the function reads `model`, `data.batch_size`, `solver` and `train`.
        size: height and width of the canvas, px.
        objects: in each image.
    """
    on_gpu = bool(tf.config.list_physical_devices('GPU'))
    compiled = config.train.jit_compile == 'on' or config.train.jit_compile == 'auto' and on_gpu
    solver = schedules.scaled(config.solver, config.data.batch_size)
    data = dataclasses.replace(config.data, max_objects=max(objects, config.data.max_objects))
    keras.utils.set_random_seed(config.train.seed)
    with precision_policy(config.train.precision):
        model = build_detector(config.model, 'xla' if compiled else 'op')
        schedule = schedules.learning_rate(solver, config.data.batch_size)
        model.compile(optimizer=build_optimizer(solver, schedule, model), clip_norm=solver.clip_norm,
                      jit_compile=compiled, accumulation_steps=config.train.accumulation_steps,
                      recompute=config.train.recompute)
    batch = training_batch(data, config.model.needs, size, data.batch_size, objects, config.model.num_classes)
    said = {'height': size[0], 'width': size[1], 'batch': data.batch_size, 'images': data.batch_size,
            'objects': objects, 'precision': config.train.precision, 'engine': model.engine}

    def step() -> None:
        with precision_policy(config.train.precision):
            said['loss'] = float(model.train_on_batch(batch, return_dict=True)['loss'])

    return step, said
