"""A detector with folded normalization, with its weights as variables and as constants, against the detector itself."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.layers import winograd
from mrcnn_tf.serving.network import WEIGHTS, network
from tests.modes import recorded


@pytest.fixture(scope='module')
def detector() -> Detector:
    config = Config().model
    config.kind, config.backbone.name, config.backbone.fpn_channels = 'rpn', 'resnet18', 8
    config.rpn.pre_nms_test = config.rpn.post_nms_test = 20
    made, rng = build_detector(config), np.random.default_rng(0)
    for variable in made.variables:
        if len(variable.shape) == 1:    # of the normalization, and biases
            variable.assign(rng.uniform(.5, 1.5, variable.shape))
    return made


@pytest.mark.parametrize('weights', WEIGHTS)
def test_the_answers_are_those_of_the_detector(detector: Detector, weights: str) -> None:
    image = np.random.default_rng(1).uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    sizes = np.float32([[60, 90]])
    made = network(detector, 'pixel_center', weights)
    found, expected = made.call(tf.constant(image), tf.constant(sizes)), detector({'images': image, 'sizes': sizes})
    assert expected['valid'].numpy().any() and list(found) == list(expected)
    for name, value in expected.items():
        # Folding rounds the weights in other places, and a box scales its rounding by its anchor of up to 512 pixels.
        limit = 1e-5 * (512 if name == 'boxes' else 1)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=limit, err_msg=name)
    read = [variable.name for variable in made.variables]
    assert not read if weights == 'constants' else read and not [name for name in read if 'moving' in name]


def test_its_convolutions_are_tensorflows(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may have a GPU, whose library knows better than this machine's CPU."""
    for name in ('CELLS', 'CHANNELS'):
        monkeypatch.setattr(winograd, name, 1)
    with recorded(winograd, 'convolution') as calls:
        network(detector, 'pixel_center')
    assert not calls
