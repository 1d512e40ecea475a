"""Top-down modulation's arithmetic by weights set by hand."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.backbones import build_backbone
from mrcnn_tf.layers.backbones.tdm import TopDownModulation
from tests.modes import MODES


def summing(strides: tuple[int, ...]) -> TopDownModulation:
    """One channel; 3x3 convolutions add up the channels of a cell, 1x1 convolutions give what they get."""
    layer = TopDownModulation(strides, 1)
    layer({stride: tf.zeros([1, 64 // stride, 64 // stride, 1]) for stride in strides})
    for conv in [*layer.top, *layer.laterals]:
        kernel = np.zeros(conv.conv.kernel.shape)
        kernel[1, 1] = 1
        conv.set_weights([kernel, np.zeros(1)])
    for conv in layer.joints:
        conv.set_weights([np.eye(2)[None, None], np.zeros(2)])
    return layer


def spread(x: np.ndarray) -> np.ndarray:
    return np.kron(x, np.ones([2, 2]))


@pytest.mark.parametrize('mode', MODES)
def test_what_comes_from_above_stands_beside_what_is_fine(mode) -> None:
    """Channels: top-down, then lateral; negative sums end at the ReLU of the module that makes them."""
    rng = np.random.default_rng(0)
    c4, c8, c16 = (rng.integers(-9, 9, (64 // s, 32 // s)).astype(np.float64) for s in (4, 8, 16))
    maps = {s: tf.constant(c[None, :, :, None], tf.float32) for s, c in ((4, c4), (8, c8), (16, c16))}
    found = MODES[mode](summing((4, 8, 16)))(maps)
    of_eight = spread(np.maximum(c16, 0)) + np.maximum(c8, 0)
    expected = np.stack([spread(of_eight), np.maximum(c4, 0)], axis=-1)
    assert expected.shape == (16, 8, 2)
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize(('name', 'stride', 'kernels'), [
    ('resnet18', 4, [(3, 3, 512, 3), (3, 3, 6, 3), (3, 3, 6, 3), (3, 3, 256, 3), (3, 3, 128, 3), (3, 3, 64, 3)]),
    ('resnet18', 8, [(3, 3, 512, 3), (3, 3, 6, 3), (3, 3, 256, 3), (3, 3, 128, 3)]),
    ('vgg16', 4, [(3, 3, 512, 3), (3, 3, 6, 3), (3, 3, 512, 3), (3, 3, 256, 3)])])
def test_backbone_of_a_config(name, stride, kernels) -> None:
    """One map of twice the channels, at the stride that it tells; all maps of the backbone from there on take part."""
    backbone = build_backbone(BackboneConfig(name=name, maps='tdm', tdm_channels=3, tdm_stride=stride))
    found, = backbone(tf.zeros([1, 32, 64, 3]))
    assert found.shape == [1, 32 // stride, 64 // stride, 6] and backbone.channels == 6
    assert backbone.strides == (stride,) and backbone.pooled == 1
    shapes = sorted(tuple(v.shape) for v in backbone.modulation.weights if len(v.shape) == 4)
    assert shapes == sorted([*kernels, *[(1, 1, 6, 6)] * (len(kernels) // 2)])
