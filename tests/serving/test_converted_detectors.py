"""A real detector as a LiteRT and an ONNX file, against the same detector with TensorFlow's own kernels."""
from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.serving import litert, onnx_format
from mrcnn_tf.serving.fixed_size import FixedNetwork, fixed_network
from mrcnn_tf.weights.rules import variable_path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('shallow_resnets')]
SIZE = (64, 96)
Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """An image, what the 'op' engine detects on it, and the network to convert."""
    images: np.ndarray
    sizes: np.ndarray
    expected: Arrays
    network: FixedNetwork


def small_config() -> Config:
    config = Config()
    model = config.model
    model.num_classes, model.backbone.name, model.backbone.fpn_channels = 2, 'resnet18', 8
    model.anchors.sizes = [[8.], [16.], [32.], [64.], [128.]]
    model.roi.sampling_ratio, model.box_head.width, model.mask_head.width = 2, 8, 8
    model.mask_head.convolutions, model.rpn.pre_nms_test, model.rpn.post_nms_test = 1, 20, 20
    model.rpn.nms_iou = model.detections.nms_iou = .9    # few boxes suppress each other
    model.detections.max_detections, model.detections.score_threshold = 6, 0.
    return config


@pytest.fixture(scope='module')
def case() -> Case:
    """Random weights that find several objects, whose scores lie apart."""
    config, rng = small_config(), np.random.default_rng(10)
    detector, convertible = build_detector(config.model), build_detector(config.model, 'xla')
    for variable, copy in zip(detector.weights, convertible.weights, strict=True):
        if len(variable.shape) > 1:
            small = {'deltas', 'classes', 'masks'} & set(variable_path(variable).split('/'))    # of outputs
            scale = .1 if small else 1.
            variable.assign(rng.normal(0, scale / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
        copy.assign(variable)
    images, sizes = np.zeros([1, *SIZE, 3], np.float32), np.float32([[60, 90]])
    images[0, :60, :90] = rng.uniform(0, 255, [60, 90, 3])
    found = detector({'images': tf.constant(images), 'sizes': tf.constant(sizes)})
    return Case(images, sizes, {name: value.numpy() for name, value in found.items()},
                fixed_network(convertible, SIZE, 32))


def check(case: Case, file_format: ModuleType) -> None:
    """Convert the network, load the file and compare its detections."""
    _, run = file_format.load(file_format.convert(case.network, {}))
    found = run(case.images, case.sizes)
    assert case.expected['valid'].sum() > 3
    for name, tolerance in (('valid', 0), ('labels', 0), ('boxes', 1e-3), ('scores', 1e-5), ('masks', 1e-3)):
        np.testing.assert_allclose(found[name].astype(float), case.expected[name].astype(float), rtol=0, atol=tolerance,
                                   err_msg=name)


def test_a_litert_file_detects_what_the_detector_does(case: Case) -> None:
    check(case, litert)


def test_an_onnx_file_detects_what_the_detector_does(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('tf2onnx')
    # tf2onnx's own optimization takes two thirds of the time; `python -m benchmarks.exported_files` has it.
    monkeypatch.setattr('tf2onnx.optimizer.optimize_graph', lambda graph, *_, **__: graph)
    check(case, onnx_format)
