"""Inception-ResNet-v2's maps, and what stays frozen. Its arithmetic is compared in `tests/weights`."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.backbones import inception_resnet
from mrcnn_tf.layers.backbones.inception_resnet import InceptionResNetV2, Residual
from mrcnn_tf.layers.heads import Res5Head
from mrcnn_tf.layers.normalization import Norm

REPEATS = inception_resnet.REPEATS


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of each kind, and another at the end."""
    monkeypatch.setattr(inception_resnet, 'REPEATS', (1, 1, 2))


def numbers(layer: tf.Module) -> int:
    """Of its weights, without the scales of normalisation, which the published model has not."""
    return sum(int(np.prod(v.shape)) for v in layer.variables if 'gamma' not in v.name)


def test_published_size() -> None:
    """54,336,736 numbers without the classifier, as keras.applications counts them: the short model's, and the blocks
    that it lacks. What counts as frozen is that of the first two strides."""
    backbone = InceptionResNetV2(BackboneConfig(name='inception_resnet_v2', norm='batch', frozen_stages=2))
    maps = backbone(tf.zeros([1, 32, 64, 3]))
    assert {s: m.shape.as_list() for s, m in maps.items()} == {
        s: [1, 32 // s, 64 // s, c] for s, c in ((4, 192), (8, 320), (16, 1088), (32, 1536))}
    blocks = {layer.name: numbers(layer) for layer in sum(backbone.stages, [])}
    missing = [(count - 1) * blocks[name] for count, name in zip(
        (*REPEATS[:2], REPEATS[2] - 1), ('block35_1', 'block17_1', 'block8_1'), strict=True)]
    assert numbers(backbone) + sum(missing) == 54_336_736
    assert (backbone.strides, backbone.channels) == ((4, 8, 16, 32), 1536)
    assert [any(layer.trainable_variables for layer in part) for part in backbone.stages] == [False] * 2 + [True] * 3


def test_its_last_stage_as_a_head() -> None:
    for frozen in (4, 5):
        head = Res5Head.of(BackboneConfig(name='inception_resnet_v2', maps='c4', norm='batch', frozen_stages=frozen))
        assert head(tf.zeros([1, 2, 16, 16, 1088])).shape == [1, 2, 8, 8, 1536]
        assert bool(head.trainable_variables) is (frozen == 4)


def test_the_last_block_of_all_has_no_relu() -> None:
    """Branches that find -8, at half the scale, make -3 of 1; the other blocks end at 0."""
    for activate, expected in ((True, 0.), (False, -3.)):
        block = Residual(Norm('frozen'), inception_resnet.BLOCK8, 4, .5, activate)
        block(tf.zeros([1, 1, 1, 4]))
        block.up.set_weights([np.zeros(block.up.conv.kernel.shape), np.full(4, -8.)])
        np.testing.assert_array_equal(block(tf.ones([1, 1, 1, 4])), np.full([1, 1, 1, 4], expected))
