"""Model directories: their config, categories and weights."""
from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mrcnn_tf.config import Config, SolverConfig
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.weights.checkpoint_files import CheckpointError
from mrcnn_tf.weights.model_directory import create, read, restore_model, save_imported
from tests.training.tiny import tiny_config

CATEGORIES = [Category(1, 7, 'cell'), Category(2, 9, 'nucleus')]


def test_config_and_categories_are_read_back(tmp_path: pathlib.Path) -> None:
    config = Config(solver=SolverConfig(steps=50))
    create(tmp_path / 'run', config, CATEGORIES)
    assert read(tmp_path / 'run') == (config, CATEGORIES)


def test_a_directory_without_a_config_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match='has no config.yaml; give a model directory'):
        read(tmp_path)


def test_a_model_is_restored_from_the_newest_complete_checkpoint(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(tmp_path)
    model = build_detector(config.model)
    save_imported(tmp_path / 'run', model, config, CATEGORIES)
    (tmp_path / 'run' / 'checkpoints' / 'step-7.data-00000-of-00001').touch()
    for a, b in zip(model.get_weights(), restore_model(tmp_path / 'run')[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert 'step-7 is damaged (step-7.index is missing); falling back to step-0' in caplog.text
