"""The whole way in a few minutes on a laptop: draw, convert, train, evaluate, export, predict with the export, look.

Each stage is what a user's own data goes through; nothing is simplified but the data. The directory of a demo holds
data/ (drawn pictures and shards), model/ (a model directory), saved_model/1/, metrics.json and prediction.png.
"""
from __future__ import annotations

import itertools
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from data_tools.formats import coco, shapes
from mrcnn_tf import config as configuration
from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.evaluation.coco import Metrics, table
from mrcnn_tf.evaluation.run import evaluate
from mrcnn_tf.input.dataset import training_dataset
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.serving import alone, predictor
from mrcnn_tf.serving.export import export
from mrcnn_tf.training import schedules
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.trainer import train

CONFIG = 'shapes_r18_fpn'
SETS = (('train', 240, 1), ('val', 40, 2))    # name, images, seed
SHOWN = 6                                     # images in the picture
TIMED_STEPS = 16
LEAST_STEPS = 20

_MARK = '.mrcnn_demo'
_MADE = ('data', 'model', 'saved_model', 'metrics.json', 'prediction.png')
# Largest difference between the model and its export: px, and of scores. The graphs are optimized in different ways.
_SAME = (0.1, 1e-3)


class DemoError(ValueError):
    """A directory that cannot be used; the message is one line with the remedy."""


def run(output: str | pathlib.Path, minutes: float) -> Metrics:
    """Goes the whole way, and says at each stage what it does.

    Args:
        output: directory, made where it is missing; what an earlier demo made there is replaced.
        minutes: to train, with the compilation of the first step.

    Returns:
        COCO's numbers of the validation set, as in metrics.json.

    Raises:
        DemoError: `output` is a directory with other things in it.
        OSError: the disk is full, no permission.
    """
    directory, stages = pathlib.Path(output), _Stages(7)
    _claim(directory)
    stages.begin('draws pictures with shapes, in COCO\'s format, and converts them to TFRecord')
    for name, images, seed in SETS:
        drawn = shapes.draw(directory / 'data' / name, images, seed)
        coco.convert(drawn.annotations, drawn.images, directory / 'data', name)
    stages.begin('measures how long a step of training takes here')
    settings = _settings(directory, minutes)
    stages.begin(f'trains {settings.solver.steps} steps, about {minutes:g} minutes')
    train(settings, directory / 'model')
    stages.begin('evaluates')
    metrics = evaluate(directory / 'model')
    print(table(metrics))
    stages.begin('exports a SavedModel')
    version = export(directory / 'model', directory / 'saved_model')
    stages.begin('predicts with it where this package cannot be imported')
    served = _predict_alone(version, _pictures(directory))
    _check_same(served, predictor.load_predictor(directory / 'model')(_pictures(directory)))
    stages.begin('draws truth beside prediction')
    _draw(directory, served)
    files.write_json(directory / 'metrics.json', {**metrics, 'steps': settings.solver.steps, 'seconds': stages.seconds})
    print(f'{directory}: metrics.json, prediction.png, saved_model/{version.name}/; mask AP50 '
          f'{metrics["segm/AP50"] or 0:.3f}, {stages.seconds:.0f} s in all')
    return metrics


class _Stages:
    """Prints what begins, and when."""

    def __init__(self, count: int) -> None:
        self._count, self._number, self._begun = count, 0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the first stage."""
        return round(time.monotonic() - self._begun, 1)

    def begin(self, what: str) -> None:
        self._number += 1
        print(f'[{self._number}/{self._count}] {self.seconds:4.0f} s: {what}', flush=True)


def _claim(directory: pathlib.Path) -> None:
    """An empty directory, marked as a demo's; removes nothing that no demo made."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / _MARK).is_file():
        raise DemoError(f'{directory}: holds other things than a demo; choose another --output')
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _MARK).touch()
    for name in _MADE:
        files.remove(directory / name)


def _settings(directory: pathlib.Path, minutes: float) -> Config:
    """The packaged config for the drawn data, with as many steps as fit."""
    settings = configuration.load(CONFIG)
    settings.data.train, settings.data.validation = (str(directory / 'data' / f'{name}.json') for name, *_ in SETS)
    first, each = _seconds_of_steps(settings)
    steps = max(LEAST_STEPS, int((60 * minutes - first) / each))
    print(f'the first step takes {first:.1f} s, each other {each:.2f} s')
    solver = settings.solver
    solver.steps, solver.warmup_steps = steps, min(solver.warmup_steps, steps // 5)
    settings.train.checkpoint_every = steps
    return settings


def _seconds_of_steps(settings: Config) -> tuple[float, float]:
    """Of the first step, which compiles, and of those after it, on a model that is then thrown away."""
    model = build_detector(settings.model)
    schedule = schedules.learning_rate(settings.solver, settings.data.batch_size)
    model.compile(build_optimizer(settings.solver, schedule, model), settings.solver.clip_norm)
    step, batches = model.make_train_function(), iter(training_dataset(str(settings.data.train), settings))
    times = [time.monotonic()]
    for _ in range(1 + TIMED_STEPS):
        step(batches)['loss'].numpy()    # waits for it
        times.append(time.monotonic())
    keras.backend.clear_session()
    return times[1] - times[0], (times[-1] - times[1]) / TIMED_STEPS


def _pictures(directory: pathlib.Path) -> list[pathlib.Path]:
    """The drawn validation pictures, in order of their ids."""
    return sorted((directory / 'data' / 'val' / 'images').iterdir())


def _predict_alone(version: pathlib.Path, paths: Sequence[pathlib.Path]) -> list[Instances]:
    """What a process that has nothing but TensorFlow and the SavedModel finds in the images, in one request."""
    with tempfile.TemporaryDirectory() as scratch:
        found = pathlib.Path(scratch) / 'found.npz'
        subprocess.run([sys.executable, '-I', alone.__file__, str(version), str(found), *map(str, paths)], check=True)
        with np.load(found) as arrays:
            columns = dict(arrays)
    return [Instances(*(columns[name][i][valid] for name in ('boxes', 'scores', 'labels', 'masks')))
            for i, valid in enumerate(columns['valid'])]


def _check_same(served: Sequence[Instances], expected: Sequence[Instances]) -> None:
    """Raises RuntimeError where the export and the model differ in a detection of some confidence."""
    pairs = [pair for a, b in zip(served, expected, strict=True) for pair in ((a, b), (b, a))]
    lost = sum(not _has(others, i, these) for these, others in pairs for i in range((these.scores >= 0.5).sum()))
    if lost:
        raise RuntimeError(f'{lost} detections of the SavedModel and the model in this process differ')
    print(f'{sum(map(len, served))} detections in {len(served)} pictures, as the model in this process finds')


def _has(others: Instances, i: int, these: Instances) -> bool:
    """Whether `others` has the i-th of `these`."""
    near = (abs(others.boxes - these.boxes[i]) < _SAME[0]).all(axis=1)
    like = (abs(others.scores - these.scores[i]) < _SAME[1]) & (others.labels == these.labels[i])
    return bool((near & like).any())


def _draw(directory: pathlib.Path, served: Sequence[Instances]) -> None:
    """prediction.png: pairs of truth and prediction, two pairs a row."""
    first = itertools.islice(zip(_truths(directory), _pictures(directory), served, strict=True), SHOWN)
    pairs = [_pair(truth, predictor.read_image(path), found) for truth, path, found in first]
    sheet = np.concatenate([np.concatenate(pairs[i:i + 2], axis=1) for i in range(0, SHOWN, 2)])
    with files.atomic_path(directory / 'prediction.png') as temporary:
        Image.fromarray(sheet).save(temporary)


def _pair(truth: Instances, image: np.ndarray, found: Instances) -> np.ndarray:
    pictures = [visualize.draw(image, truth, shapes.CLASSES, confidence=False),
                visualize.draw(image, found, shapes.CLASSES)]
    sheet = Image.fromarray(visualize.side_by_side(pictures, ('ground truth', 'prediction')))
    return np.asarray(sheet.reduce(2))    # they were enlarged for legible text


def _truths(directory: pathlib.Path) -> Iterator[Instances]:
    for truth in ground_truth(directory / 'data' / 'val.json'):
        masks = np.array([tf.io.decode_png(png).numpy()[:, :, 0] > 0 for png in truth['masks']], bool)
        yield Instances(truth['boxes'], np.ones(len(truth['labels']), np.float32), truth['labels'],
                        masks.reshape(-1, truth['height'], truth['width']))
