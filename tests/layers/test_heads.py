"""The heads' layouts, by weights set by hand, and their types under mixed precision."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig, BoxHeadConfig, MaskHeadConfig
from mrcnn_tf.layers.heads import BoxHead, MaskHead, Res5Head, dropped
from mrcnn_tf.layers.normalization import Norm
from mrcnn_tf.ops import rng
from tests.modes import MODES


def test_box_head_by_hand() -> None:
    """Pooled maps are flattened by row, column, channel; the first hidden layer picks one number each of them."""
    head = BoxHead(BoxHeadConfig(width=4), num_classes=2)
    pooled = tf.reshape(tf.range(2. * 3 * 2 * 2 * 2), [2, 3, 2, 2, 2])                 # 8 numbers a RoI
    head(pooled)
    pick = np.zeros([8, 4], np.float32)
    pick[[0, 1, 2, 4], [0, 1, 2, 3]] = 1                                               # origin, channel, column, row
    head.hidden[0].set_weights([pick, np.zeros(4)])
    head.hidden[1].set_weights([np.eye(4), np.array([0, 0, 0, -1e3])])                      # the last is rectified away
    head.classes.set_weights([np.eye(4)[:, :3], np.array([.5, 0, 0])])
    head.deltas.set_weights([np.concatenate([np.eye(4), 10 * np.eye(4)], 1), np.zeros(8)])
    logits, deltas = head(pooled)
    assert logits.shape == [2, 3, 3] and deltas.shape == [2, 3, 2, 4]
    assert logits[1, 2].numpy().tolist() == [40.5, 41, 42]
    assert deltas[1, 2].numpy().tolist() == [[40, 41, 42, 0], [400, 410, 420, 0]]


def test_box_head_sizes() -> None:
    """Two hidden layers of the width given, K + 1 classes, 4 K deltas; agnostic of class 4."""
    for agnostic, regressions in ((False, 7), (True, 1)):
        head = BoxHead(BoxHeadConfig(width=16, class_agnostic=agnostic), num_classes=7)
        logits, deltas = head(tf.zeros([2, 5, 3, 3, 6]))
        assert logits.shape == [2, 5, 8] and deltas.shape == [2, 5, regressions, 4]
        assert [tuple(v.shape) for v in head.trainable_variables] == [
            (54, 16), (16,), (16, 16), (16,), (16, 8), (8,), (16, 4 * regressions), (4 * regressions,)]


def test_without_hidden_layers_the_mean_of_the_map_is_classified() -> None:
    head = BoxHead(BoxHeadConfig(fully_connected=0), num_classes=1)
    pooled = tf.constant([[[[[1.], [2.]], [[3.], [6.]]]]])
    head(pooled)
    head.classes.set_weights([np.array([[1., -2.]]), np.zeros(2)])
    assert head(pooled)[0][0, 0].numpy().tolist() == [3, -6]


def test_convolutions_come_before_the_hidden_layers() -> None:
    """Biased without normalisation, unbiased with; the hidden layer sees their width."""
    for norm, vectors in ((Norm('none'), 1), (Norm('batch'), 2)):
        head = BoxHead(BoxHeadConfig(convolutions=2, convolution_width=5, fully_connected=1, width=7), 3, norm)
        head(tf.zeros([1, 2, 3, 3, 4]))
        assert [tuple(v.shape) for v in head.trainable_variables if len(v.shape) > 1] == [
            (3, 3, 4, 5), (3, 3, 5, 5), (45, 7), (7, 4), (7, 12)]
        assert sum(tuple(v.shape) == (5,) for v in head.trainable_variables) == 2 * vectors


def test_what_is_dropped_by_hand(monkeypatch) -> None:
    """Draws below the rate; the rest is scaled by 1 / (1 - rate)."""
    monkeypatch.setattr(rng, 'uniform', lambda shape, seed: tf.reshape(tf.constant([.1, .25, .3, .9]), shape))
    found = dropped(tf.constant([[3., 3.], [3., 6.]]), .25, tf.constant([0]))
    assert found.numpy().tolist() == [[0, 4], [4, 8]]


@pytest.mark.parametrize('mode', MODES)
def test_dropout_in_training_by_the_seed(mode) -> None:
    """Behind both layers, drawn apart: a number arrives when it is kept twice, then four times as large."""
    head = BoxHead(BoxHeadConfig(width=400, dropout=.5), num_classes=400 - 1)
    pooled = tf.ones([1, 2, 1, 1, 1])
    head(pooled)
    head.hidden[0].set_weights([np.ones([1, 400]), np.zeros(400)])
    for layer in (head.hidden[1], head.classes):
        layer.set_weights([np.eye(400), np.zeros(400)])
    run = MODES[mode](lambda seed: head(pooled, training=True, seed=seed)[0])
    logits = run(tf.constant([1, 2])).numpy()
    kept = [rng.uniform((2, 400), tf.constant([1, 2, number])).numpy() >= .5 for number in (0, 1)]
    np.testing.assert_array_equal(logits[0], np.where(kept[0] & kept[1], 4., 0.))
    assert .2 < (logits > 0).mean() < .3 and (run(tf.constant([1, 3])).numpy() != logits).any()
    assert (head(pooled)[0].numpy() == 1).all()                            # none in inference


def test_res5_halves_the_map_of_each_roi() -> None:
    """And freezes with the last stage only."""
    for frozen in (4, 5):
        head = Res5Head(BackboneConfig(name='resnet18', norm='batch', maps='c4', frozen_stages=frozen))
        assert head(tf.zeros([2, 3, 14, 14, 256])).shape == [2, 3, 7, 7, 512]
        assert bool(head.trainable_variables) is (frozen == 4)


def test_mask_head_by_hand() -> None:
    """A cell becomes 2 x 2: the deconvolution's kernel stands at each cell unflipped; then ReLU, then classes."""
    head = MaskHead(MaskHeadConfig(width=1, convolutions=0), num_classes=2)
    pooled = tf.constant([[[[[1.], [2.]], [[-3.], [4.]]]]])                           # [1, 1, 2, 2, 1]
    head(pooled)
    head.upsample.set_weights([np.array([[1, 2], [3, 4]]).reshape(2, 2, 1, 1), np.zeros(1)])
    head.masks.set_weights([np.array([1, -1]).reshape(1, 1, 1, 2), np.array([0, .5])])
    out = head(pooled)
    expected = np.array([[1, 2, 2, 4], [3, 4, 6, 8], [0, 0, 4, 8], [0, 0, 12, 16]])
    assert out.shape == [1, 1, 4, 4, 2]
    assert out[0, 0, :, :, 0].numpy().tolist() == expected.tolist()
    assert out[0, 0, :, :, 1].numpy().tolist() == (.5 - expected).tolist()


def test_mask_head_sizes() -> None:
    for agnostic, channels in ((False, 7), (True, 1)):
        head = MaskHead(MaskHeadConfig(width=5, convolutions=3, class_agnostic=agnostic), num_classes=7)
        assert head(tf.zeros([2, 3, 14, 14, 6])).shape == [2, 3, 28, 28, channels]
        kernels = [tuple(v.shape) for v in head.trainable_variables if len(v.shape) == 4]
        assert kernels == [(3, 3, 6, 5), (3, 3, 5, 5), (3, 3, 5, 5), (2, 2, 5, 5), (1, 1, 5, channels)]


def test_rois_do_not_see_each_other() -> None:
    """Permuted RoIs give permuted results, in both heads."""
    pooled = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 3, 3, 2)), tf.float32)
    order = [2, 0, 3, 1]
    box, mask = BoxHead(BoxHeadConfig(width=8), 3), MaskHead(MaskHeadConfig(width=4, convolutions=2), 3)
    for head in (lambda x: box(x)[0], lambda x: box(x)[1], mask):
        np.testing.assert_allclose(head(tf.gather(pooled, order, axis=1)), tf.gather(head(pooled), order, axis=1),
                                   atol=1e-6)


@pytest.fixture
def bfloat16():
    keras.mixed_precision.set_global_policy('mixed_bfloat16')
    yield
    keras.mixed_precision.set_global_policy('float32')


def test_heads_give_float32_under_mixed_precision(bfloat16) -> None:
    box, mask = BoxHead(BoxHeadConfig(width=8), 3), MaskHead(MaskHeadConfig(width=4, convolutions=2), 3)
    outputs = [*box(tf.ones([1, 2, 3, 3, 2])), mask(tf.ones([1, 2, 3, 3, 2]))]
    assert [x.dtype for x in outputs] == [tf.float32] * 3
    assert all('float32' in str(v.dtype) for v in [*box.weights, *mask.weights])
    assert box.compute_dtype == mask.compute_dtype == 'bfloat16'
