"""The whole workflow on generated data, in minutes on a laptop: convert, train, evaluate, export, predict.

Each stage uses the same functions as for a user's data. The output directory holds data/ (images and shards), model/ (a
model directory), saved_model/1/, metrics.json and prediction.png.
"""
from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_tools.formats import coco, shapes
from mrcnn_tf import config as configuration
from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation.coco import Metrics, table
from mrcnn_tf.evaluation.pictures import Pictures
from mrcnn_tf.evaluation.run import evaluate
from mrcnn_tf.serving import run_saved_model
from mrcnn_tf.serving.export import export
from mrcnn_tf.serving.predictor import load_predictor
from mrcnn_tf.training.trainer import train
from mrcnn_tf.weights import model_directory

CONFIG = 'shapes_r18_fpn'
SETS = (('train', 240, 1), ('val', 40, 2))    # name, images, seed
PICTURED = 6                                  # images in prediction.png
STEPS = 1000
EXPECTED = (f'After the default of {STEPS} steps, expect a mask AP50 of 0.86 to 0.9, in about five minutes on two free '
            'CPU cores.\nA slower or busy machine only takes longer. A shorter demo with a worse result: --steps 300')

_MARK = '.mrcnn_demo'
_OUTPUTS = ('data', 'model', 'saved_model', 'metrics.json', 'prediction.png')
# The largest allowed difference between model and export, of boxes (px) and scores: their graphs are optimized
# differently.
_TOLERANCE = (0.1, 1e-3)


class DemoError(ValueError):
    """The output directory cannot be used; the message is one line with the remedy."""


def run(output: str | pathlib.Path, steps: int = STEPS) -> Metrics:
    """Run all stages and print each.

    Args:
        output: the output directory; created if it does not exist. The files of an earlier demo are replaced.
        steps: of training.

    Returns:
        COCO's metrics on the validation set, as in metrics.json.

    Raises:
        DemoError: `output` contains files that no demo wrote.
        OSError: the disk is full or not writable.
    """
    directory, stages = pathlib.Path(output), _Stages(6)
    _claim(directory)
    print(EXPECTED)
    stages.begin('generate images of shapes in COCO\'s format and convert them to TFRecord')
    for name, images, seed in SETS:
        generated = shapes.draw(directory / 'data' / name, images, seed)
        coco.convert(generated.annotations, generated.images, directory / 'data', name)
    stages.begin(f'train {steps} steps')
    train(_settings(directory, steps), directory / 'model')
    stages.begin('evaluate')
    metrics = evaluate(directory / 'model')
    print(table(metrics))
    stages.begin('export a SavedModel')
    version = export(directory / 'model', directory / 'saved_model')
    stages.begin('predict with the SavedModel in a process without this package')
    served = _predict_with_saved_model(version, _pictures(directory))
    expected = load_predictor(directory / 'model')(_pictures(directory), progress=False)
    _check_same(served, [prediction.instances for prediction in expected])
    stages.begin('draw ground truth beside predictions')
    _draw(directory, served)
    files.write_json(directory / 'metrics.json', {**metrics, 'steps': steps, 'seconds': stages.seconds})
    if not any((each.scores >= .5).any() for each in served[:PICTURED]):
        print(f'nothing found: no detection on the pictured images reaches a score of 0.5; train longer than {steps} '
              'steps (--steps)')
    print(f'{directory}: metrics.json, prediction.png, saved_model/{version.name}/; mask AP50 '
          f'{metrics["segm/AP50"] or 0:.3f}, {stages.seconds:.0f} s in all')
    return metrics


class _Stages:
    """Prints the number, time and name of each stage."""

    def __init__(self, count: int) -> None:
        self._count, self._number, self._begun = count, 0, time.monotonic()

    @property
    def seconds(self) -> float:
        """The time since the first stage, s."""
        return round(time.monotonic() - self._begun, 1)

    def begin(self, what: str) -> None:
        self._number += 1
        print(f'[{self._number}/{self._count}] {self.seconds:4.0f} s: {what}', flush=True)


def _claim(directory: pathlib.Path) -> None:
    """Create the directory with a mark, or remove the outputs of an earlier demo in a marked one."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / _MARK).is_file():
        raise DemoError(f'{directory}: contains files that no demo wrote; choose another --output')
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _MARK).touch()
    for name in _OUTPUTS:
        files.remove(directory / name)


def _settings(directory: pathlib.Path, steps: int) -> Config:
    """Return the packaged config with the generated data and a number of steps."""
    settings = configuration.load(CONFIG)
    settings.data.train, settings.data.validation = (str(directory / 'data' / f'{name}.json') for name, *_ in SETS)
    solver = settings.solver
    solver.steps, solver.warmup_steps = steps, min(solver.warmup_steps, steps // 5)
    settings.train.checkpoint_every = steps
    settings.train.evaluate_every = 0    # the demo evaluates once, at the end
    return settings


def _pictures(directory: pathlib.Path) -> list[pathlib.Path]:
    """Return the validation images in the order of their ids."""
    return sorted((directory / 'data' / 'val' / 'images').iterdir())


def _predict_with_saved_model(version: pathlib.Path, paths: Sequence[pathlib.Path]) -> list[Instances]:
    """Return the predictions of a process that has only TensorFlow and the SavedModel, for one request."""
    with tempfile.TemporaryDirectory() as scratch:
        output = pathlib.Path(scratch) / 'outputs.npz'
        script = [sys.executable, '-I', run_saved_model.__file__]
        subprocess.run([*script, str(version), str(output), *map(str, paths)], check=True)
        with np.load(output) as arrays:
            columns = dict(arrays)
    return [Instances(*(columns[name][i][valid] for name in ('boxes', 'scores', 'labels', 'masks')))
            for i, valid in enumerate(columns['valid'])]


def _check_same(served: Sequence[Instances], expected: Sequence[Instances]) -> None:
    """Raise RuntimeError if the export and the model differ in a detection with a score of at least 0.5."""
    pairs = [pair for a, b in zip(served, expected, strict=True) for pair in ((a, b), (b, a))]
    missing = sum(not _has(others, i, these) for these, others in pairs for i in range((these.scores >= 0.5).sum()))
    if missing:
        raise RuntimeError(f'{missing} detections of the SavedModel and the model in this process differ')
    print(f'{sum(map(len, served))} detections in {len(served)} images, equal to those of the model in this process')


def _has(others: Instances, i: int, these: Instances) -> bool:
    """Return whether `others` has a detection equal to the i-th of `these`."""
    near = (abs(others.boxes - these.boxes[i]) < _TOLERANCE[0]).all(axis=1)
    equal = (abs(others.scores - these.scores[i]) < _TOLERANCE[1]) & (others.labels == these.labels[i])
    return bool((near & equal).any())


def _draw(directory: pathlib.Path, served: Sequence[Instances]) -> None:
    """Write prediction.png: pairs of ground truth and prediction, two pairs per row."""
    settings, categories = model_directory.read(directory / 'model')
    pictures = Pictures(str(settings.data.validation), range(PICTURED), categories, settings.model.detections.paste)
    pairs = [pictures.draw(image_id, found) for image_id, found in zip(pictures.image_ids, served, strict=False)]
    sheet = np.concatenate([np.concatenate(pairs[i:i + 2], axis=1) for i in range(0, PICTURED, 2)])
    with files.atomic_path(directory / 'prediction.png') as temporary:
        Image.fromarray(sheet).save(temporary)
