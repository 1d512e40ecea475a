"""The pyramid's arithmetic by weights set by hand."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.backbones import build_backbone
from mrcnn_tf.layers.backbones.fpn import FeaturePyramid, add_upsampled
from tests.modes import MODES


def identity_pyramid() -> FeaturePyramid:
    """One channel; every convolution gives what it gets."""
    pyramid = FeaturePyramid(1)
    pyramid({s: tf.zeros([1, 64 // s, 64 // s, 1]) for s in (4, 8, 16, 32)})
    center = np.zeros([3, 3, 1, 1])
    center[1, 1] = 1
    for conv in pyramid.laterals:
        conv.set_weights([np.ones([1, 1, 1, 1]), np.zeros(1)])
    for conv in pyramid.outputs:
        conv.set_weights([center, np.zeros(1)])
    return pyramid


def spread(x: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(x, np.ones([factor, factor]))


@pytest.mark.parametrize('mode', MODES)
def test_every_level_adds_the_coarser_ones_spread_over_its_cells(mode) -> None:
    """Nearest neighbour, not bilinear; P6 is every second row and column of P5, not a maximum."""
    rng = np.random.default_rng(0)
    c2, c3, c4, c5 = (rng.integers(-9, 9, (96 // s, 160 // s)).astype(np.float64) for s in (4, 8, 16, 32))
    maps = {s: tf.constant(c[None, :, :, None], tf.float32) for s, c in ((32, c5), (4, c2), (16, c4), (8, c3))}
    found = MODES[mode](identity_pyramid())(maps)
    p4 = c4 + spread(c5, 2)
    p3 = c3 + spread(p4, 2)
    expected = [c2 + spread(p3, 2), p3, p4, c5, c5[::2, ::2]]
    assert [p.shape for p in expected] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    for ours, by_hand in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours[0, :, :, 0], by_hand)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('mode', MODES)
def test_gradients_of_added_maps(mode, dtype) -> None:
    """That of a coarse cell is the sum over the four cells that it was added to; whole numbers are exact."""
    upstream = np.random.default_rng(0).integers(-9, 9, (2, 4, 6, 3))

    def gradients() -> tuple:
        fine, coarse = tf.zeros([2, 4, 6, 3], dtype), tf.zeros([2, 2, 3, 3], dtype)
        with tf.GradientTape() as tape:
            tape.watch((fine, coarse))
            added = add_upsampled(fine, coarse)
        return tape.gradient(added, (fine, coarse), tf.cast(upstream, dtype))

    of_fine, of_coarse = MODES[mode](gradients)()
    assert of_coarse.dtype == dtype
    np.testing.assert_array_equal(tf.cast(of_fine, tf.float32), upstream)
    np.testing.assert_array_equal(tf.cast(of_coarse, tf.float32), upstream.reshape(2, 2, 2, 3, 2, 3).sum((2, 4)))


def test_the_smallest_float16_is_not_lost() -> None:
    fine, coarse = tf.zeros([1, 2, 2, 1], tf.float16), tf.zeros([1, 1, 1, 1], tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(coarse)
        added = add_upsampled(fine, coarse)
    upstream = tf.reshape(tf.constant([2. ** -24, 0., 0., 0.], tf.float16), [1, 2, 2, 1])
    assert float(tape.gradient(added, coarse, upstream)[0, 0, 0, 0]) == 2. ** -24


def test_outputs_are_not_added_up_twice() -> None:
    """The sums run over laterals, before the 3 x 3 convolutions: doubling P5's output leaves P4 as it is."""
    pyramid = identity_pyramid()
    pyramid.outputs[3].conv.kernel.assign(2 * pyramid.outputs[3].conv.kernel)
    maps = {s: tf.ones([1, 64 // s, 64 // s, 1]) for s in (4, 8, 16, 32)}
    assert [float(p[0, 0, 0, 0]) for p in pyramid(maps)] == [4, 3, 2, 2, 2]


def test_backbone_of_a_config() -> None:
    """P2..P6 of the channels asked for, at the strides that it tells; biases and no normalisation in the pyramid."""
    backbone = build_backbone(BackboneConfig(name='resnet18', fpn_channels=6))
    found = backbone(tf.zeros([2, 64, 96, 3]))
    assert [p.shape.as_list() for p in found] == [[2, -(-64 // s), -(-96 // s), 6] for s in backbone.strides]
    shapes = sorted(tuple(v.shape) for v in backbone.pyramid.weights)
    assert shapes == sorted([(6,)] * 8 + [(3, 3, 6, 6)] * 4 + [(1, 1, c, 6) for c in (64, 128, 256, 512)])
