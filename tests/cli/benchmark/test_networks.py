"""Inference and training steps of the benchmarks, on a small detector."""
from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from mrcnn_tf.cli.benchmark import networks
from mrcnn_tf.config import Config
from mrcnn_tf.serving.predictor import DetectorPredictor
from tests.training.tiny import SETTINGS, tiny_config

pytestmark = pytest.mark.usefixtures('shallow_resnets')


@pytest.fixture(scope='module')
def predictor() -> DetectorPredictor:
    return networks.random_predictor('base', [*SETTINGS, 'model.detections.max_detections=7'], (64, 96))


def test_inference_on_noise_finds_as_many_objects_as_it_may(predictor: DetectorPredictor) -> None:
    work, said = networks.inference(predictor, (64, 96), 1, paste=True)
    work()
    assert said == {'height': 64, 'width': 96, 'batch': 1, 'images': 1, 'masks': 'pasted', 'detections': 7}


def test_inference_on_files(predictor: DetectorPredictor, tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / f'{name}.png' for name in 'ab']
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, [64, 96, 3], np.uint8)).save(path)
    work, said = networks.files(predictor, paths, 1, paste=False)
    work()
    assert said == {'batch': 1, 'images': 2, 'masks': 'cells', 'detections': 14}


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tmp_path_factory.mktemp('data'), 'data.batch_size=2')


def test_a_training_step_changes_the_loss(config: Config) -> None:
    work, said = networks.train(config, (64, 64), 2)
    work()
    first = said['loss']
    work()
    assert said['loss'] not in (0., first) and np.isfinite(said['loss'])
    assert {**said, 'loss': 0} == {'height': 64, 'width': 64, 'batch': 2, 'images': 2, 'objects': 2,
                                   'precision': 'float32', 'engine': 'op', 'loss': 0}
