"""ResNets: published sizes, padding and strides by hand, and what stays frozen."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.backbones.resnet import ResidualBlock, ResNet
from mrcnn_tf.layers.normalization import ConvNorm, FrozenBatchNormalization, Norm


def parts_of(backbone: ResNet) -> list[list[keras.layers.Layer]]:
    """Stem, res2, ... res5."""
    return [[backbone.stem], *backbone.stages]


# What the ImageNet classifiers are known to have, less their last layer of 1000 (c + 1) numbers.
@pytest.mark.parametrize(('name', 'published', 'channels'), [
    ('resnet18', 11_689_512, 512), ('resnet34', 21_797_672, 512), ('resnet50', 25_557_032, 2048),
    ('resnet101', 44_549_160, 2048), ('resnext101_32x8d', 88_791_336, 2048), ('resnext101_64x4d', 83_455_272, 2048)])
def test_published_sizes(name, published, channels) -> None:
    backbone = ResNet(BackboneConfig(name=name, norm='batch', frozen_stages=0))
    maps = backbone(tf.zeros([1, 32, 64, 3]))
    assert {s: m.shape.as_list() for s, m in maps.items()} == {
        s: [1, 32 // s, 64 // s, channels * s // 32] for s in (4, 8, 16, 32)}
    assert sum(np.prod(v.shape) for v in backbone.trainable_variables) == published - 1000 * (channels + 1)


def test_convolutions_pad_both_sides_alike() -> None:
    """A 3 x 3 box filter of stride 2 over six cells 1, 2, 4, ... starts outside at the left: 1 + 2, 2 + 4 + 8, ..."""
    layer = ConvNorm(Norm('frozen', 0.), 1, 3, 2)
    x = tf.reshape(2. ** tf.range(6.), [1, 1, 6, 1])
    layer(x)
    layer.conv.set_weights([np.ones([3, 3, 1, 1])])
    assert layer(x)[0, 0, :, 0].numpy().tolist() == [3, 14, 56]


def test_stem_and_pooling_pad_both_sides_alike() -> None:
    """Centre taps only: cell i of res2 is the largest of pixels 4 i - 2, 4 i and 4 i + 2, the missing one aside."""
    backbone = ResNet(BackboneConfig(name='resnet18', norm_epsilon=0.))
    x = np.zeros([1, 32, 32, 3], np.float32)
    x[0, :, :, 0] = np.random.default_rng(0).uniform(1, 9, (32, 32))
    backbone(tf.constant(x))
    kernel = np.zeros([7, 7, 3, 64])
    kernel[3, 3, 0] = 1
    backbone.stem.conv.set_weights([kernel])
    for block in backbone.stages[0]:
        block.convs[1].norm.gamma.assign(tf.zeros([64]))    # res2 becomes the identity
    sampled = np.pad(x[0, ::2, ::2, 0], 1)
    expected = np.max([sampled[i:i + 16:2, j:j + 16:2] for i in range(3) for j in range(3)], axis=0)
    np.testing.assert_allclose(backbone(tf.constant(x))[4][0, :, :, 7], expected, rtol=1e-6)


@pytest.mark.parametrize('early', [True, False])
def test_which_convolution_of_a_bottleneck_strides(early) -> None:
    """Stride in the first 1 x 1: odd pixels never count. In the 3 x 3: they do."""
    block = ResidualBlock(BackboneConfig(name='resnet50', stride_in_1x1=early), 4, 16, 2, True)
    x = np.zeros([1, 8, 8, 16], np.float32)
    x[:, 1::2, 1::2] = 1
    block(tf.constant(x))
    for conv in block.convs:
        conv.conv.kernel.assign(tf.ones(conv.conv.kernel.shape))
    out, empty = block(tf.constant(x)), block(tf.zeros([1, 8, 8, 16]))
    assert out.shape == [1, 4, 4, 16]
    assert np.array_equal(out, empty) is early
    assert [conv.conv.kernel.shape[0] for conv in block.convs] == [1, 3, 1]


@pytest.mark.parametrize(('name', 'width'), [('resnet18', 4), ('resnet50', 1)])
def test_a_block_adds_its_input_before_the_last_relu(name, width) -> None:
    """With the last normalisation's gamma at 0 a block is ReLU of its input; with beta -1, ReLU of one less."""
    block = ResidualBlock(BackboneConfig(name=name), width, 4, 1, False)
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 4, 4, 4)), tf.float32)
    block(x)
    block.convs[-1].norm.gamma.assign(tf.zeros([4]))
    np.testing.assert_array_equal(block(x), tf.nn.relu(x))
    block.convs[-1].norm.beta.assign(-tf.ones([4]))
    np.testing.assert_array_equal(block(x), tf.nn.relu(x - 1.))


@pytest.mark.parametrize('stages', [0, 2, 5])
def test_frozen_stages_count_from_the_stem(stages) -> None:
    backbone = ResNet(BackboneConfig(name='resnet18', norm='batch', frozen_stages=stages))
    backbone(tf.zeros([1, 32, 32, 3]))
    for index, part in enumerate(parts_of(backbone)):
        for layer in part:
            assert bool(layer.trainable_variables) is (index >= stages), layer.name
            assert layer.weights


@pytest.mark.parametrize('norm', ['batch', 'sync'])
def test_statistics_move_where_trained_only(norm) -> None:
    """In training, the frozen stages normalise by what is stored and leave it; the others keep count."""
    backbone = ResNet(BackboneConfig(name='resnet18', norm=norm, frozen_stages=2))
    x = tf.constant(np.random.default_rng(0).normal(2, 3, (2, 32, 32, 3)), tf.float32)
    backbone(x)
    before = [v.numpy() for v in backbone.non_trainable_variables]
    inference = backbone(x, training=False)
    for v, old in zip(backbone.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(v, old)
    training = backbone(x, training=True)
    np.testing.assert_array_equal(training[4], inference[4])
    assert not np.allclose(training[8], inference[8])
    frozen = {id(v) for part in parts_of(backbone)[:2] for layer in part for v in layer.weights}
    for v, old in zip(backbone.non_trainable_variables, before, strict=True):
        assert np.array_equal(v, old) is (id(v) in frozen)


def test_norm_of_the_config_is_used_throughout() -> None:
    def norms(backbone: ResNet) -> list[keras.layers.Layer]:
        blocks = [block for stage in backbone.stages for block in stage]
        convs = [conv for block in blocks for conv in [*block.convs, *([block.shortcut] if block.shortcut else [])]]
        return [backbone.stem.norm, *(conv.norm for conv in convs)]

    found = norms(ResNet(BackboneConfig(name='resnet18', norm='sync')))
    assert len(found) == 20 and all(norm.synchronized for norm in found)
    frozen = norms(ResNet(BackboneConfig(name='resnet50')))
    assert len(frozen) == 53 and all(isinstance(norm, FrozenBatchNormalization) for norm in frozen)


def test_a_dilated_stage_keeps_the_stride() -> None:
    """The 3 x 3 taps of an impulse in res5's input lie two cells apart; the map stays at stride 16."""
    backbone = ResNet(BackboneConfig(name='resnet18', maps='c5', norm_epsilon=0.))
    maps = backbone(tf.zeros([1, 160, 160, 3]))
    assert {s: m.shape.as_list() for s, m in maps.items()} == {
        4: [1, 40, 40, 64], 8: [1, 20, 20, 128], 16: [1, 10, 10, 512]}
    conv = backbone.stages[3][0].convs[0]
    conv.conv.kernel.assign(tf.ones(conv.conv.kernel.shape))
    impulse = np.zeros([1, 10, 10, 256], np.float32)
    impulse[0, 5, 5, 0] = 1
    spread = conv(tf.constant(impulse))[0, :, :, 0].numpy()
    assert [tuple(cell) for cell in np.argwhere(spread)] == [(y, x) for y in (3, 5, 7) for x in (3, 5, 7)]


def test_c4_ends_with_res4() -> None:
    backbone = ResNet(BackboneConfig(name='resnet50', maps='c4'))
    assert [m.shape[-1] for m in backbone(tf.zeros([1, 32, 32, 3])).values()] == [256, 512, 1024]
    assert backbone.channels == 1024


@pytest.mark.parametrize('jit', [False, True])
def test_grouped_convolution_by_hand(jit) -> None:
    """Two groups: each half of the channels is summed for itself, times 1 for the first and 10 for the second."""
    layer = ConvNorm(Norm('none'), 2, 1, groups=2, activate=False)
    x = tf.reshape(tf.range(8.), [1, 1, 2, 4])
    layer(x)
    layer.conv.set_weights([np.array([[[[1., 10.], [1., 10.]]]]), np.zeros(2)])
    found = tf.function(lambda v: layer(v), jit_compile=jit)(x)
    assert found[0, 0].numpy().tolist() == [[1, 50], [9, 130]]
