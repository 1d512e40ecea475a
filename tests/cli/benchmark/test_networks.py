"""Inference and training steps of the benchmarks, on a small detector."""
from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from mrcnn_tf.cli.benchmark import networks
from mrcnn_tf.config import Config
from tests.modes import recorded
from tests.training.tiny import SETTINGS, tiny_config

BOXES = ['model.kind=faster_rcnn', *(each for each in SETTINGS if not each.startswith('model.mask_head.'))]

pytestmark = pytest.mark.usefixtures('shallow_resnets')


class Fake:
    """A predictor with seven detections in every image, whose masks count how often they are read."""
    pasted = 0

    def __call__(self, images: list[np.ndarray], batch: int, progress: bool) -> list[Fake]:
        assert [each.shape for each in images] == [(64, 96, 3)] * batch and not progress
        return [self] * batch

    def stream(self, paths: list[pathlib.Path], batch: int) -> list[Fake]:
        return [self for _ in paths]

    def __len__(self) -> int:
        return 7

    @property
    def masks(self) -> None:
        Fake.pasted += 1


@pytest.mark.parametrize('paste', [True, False], ids=['pasted', 'cells'])
def test_inference_on_noise_and_on_files(paste: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, 'pasted', 0)
    work, said = networks.inference(Fake(), (64, 96), 2, paste)    # type: ignore[arg-type]
    work()
    masks = 'pasted' if paste else 'cells'
    assert said == {'height': 64, 'width': 96, 'batch': 2, 'images': 2, 'masks': masks, 'detections': 14}
    work, said = networks.files(Fake(), [pathlib.Path('a')] * 3, 1, paste)    # type: ignore[arg-type]
    work()
    assert said == {'batch': 1, 'images': 3, 'masks': masks, 'detections': 21}
    assert Fake.pasted == (5 if paste else 0)


def test_random_weights_find_as_many_objects_as_they_may() -> None:
    predictor = networks.random_predictor('base', [*BOXES, 'model.detections.max_detections=7'], (64, 96))
    found = predictor(np.zeros([64, 96, 3], np.uint8))
    assert len(found) == 7 and found.size == (64, 96)


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tmp_path_factory.mktemp('data'), 'model.kind=rpn', 'data.batch_size=2')


def test_a_training_step_changes_the_loss(config: Config) -> None:
    work, said = networks.train(config, (64, 64), 2)
    work()
    first = said['loss']
    work()
    assert said['loss'] not in (0., first) and np.isfinite(said['loss'])
    assert {**said, 'loss': 0} == {'height': 64, 'width': 64, 'batch': 2, 'images': 2, 'objects': 2,
                                   'precision': 'float32', 'engine': 'op', 'loss': 0}


@pytest.mark.parametrize('recompute', [False, True])
def test_a_training_step_follows_the_settings(config: Config, recompute: bool) -> None:
    train = dataclasses.replace(config.train, recompute=recompute, accumulation_steps=2)
    with recorded(networks, 'build_detector') as detectors:
        networks.train(dataclasses.replace(config, train=train), (64, 64), 2)
    assert (detectors[0].recompute, detectors[0].parts) == (recompute, 2)
