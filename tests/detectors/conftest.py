"""Fixtures of several tests in this directory."""
from __future__ import annotations

import keras
import numpy as np
import pytest

from mrcnn_tf.detectors.detector import Detector, build_detector
from tests.detectors.small import compiled_model, enliven, make_batch, small_config


@pytest.fixture(autouse=True, scope='module')
def _shallow(shallow_resnets: None) -> None:
    """All detectors here are."""


@pytest.fixture(scope='module')
def weights() -> list[np.ndarray]:
    keras.utils.set_random_seed(6)
    model = build_detector(small_config())
    enliven(model, make_batch())
    return model.get_weights()


@pytest.fixture(scope='module')
def op_model(weights) -> Detector:
    return compiled_model('op', weights)
