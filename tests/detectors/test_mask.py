"""The mask branch: its loss, predictions and merged views by hand."""
from __future__ import annotations

import functools
import math
import types

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.branch import RoIs
from mrcnn_tf.detectors.detector import build_mask_branch
from mrcnn_tf.detectors.mask import MaskBranch
from mrcnn_tf.layers.normalization import Norm
from tests.detectors.small import small_config
from tests.modes import ENGINES_AND_MODES, MODES

STRIDES = (4, 8, 16, 32)
FEATURES = [np.zeros([1, 64 // stride, 64 // stride, 16], np.float32) for stride in STRIDES]
BOXES = np.array([[[4, 4, 28, 36], [8, 20, 60, 60]]], np.float32)


@functools.cache
def branch_of_even_masks(engine: str, classifier: str) -> MaskBranch:
    """All cells of its masks are equal: odds of 3 to 1, or odds of 3 for each of 3 classes to 1 for the background."""
    branch = build_mask_branch(small_config(mask_head__classifier=classifier),
                               types.SimpleNamespace(strides=STRIDES, pooled=4), None, engine)
    branch.head(tf.zeros([1, 1, 4, 4, 16]))                             # creates its weights
    layer = branch.head.masks
    layer.kernel.assign(tf.zeros_like(layer.kernel))
    layer.bias.assign(math.log(3) * tf.ones(layer.bias.shape) if classifier == 'sigmoid' else
                      tf.math.log([1., 3., 3., 3.]))
    return branch


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
@pytest.mark.parametrize(('classifier', 'inside', 'outside'), [
    ('sigmoid', math.log(4 / 3), math.log(4)), ('softmax', math.log(10 / 3), math.log(10))], ids=('sigmoid', 'softmax'))
def test_the_mask_loss_by_hand(engine, mode, classifier, inside, outside) -> None:
    """Two RoIs, each the box of its object; one mask is full and one is empty. The mean is over those that have one."""
    branch = branch_of_even_masks(engine, classifier)
    masks = tf.concat([tf.fill([1, 1, 14, 14], 255), tf.zeros([1, 1, 14, 14], tf.int32)], axis=1)
    positive = tf.constant([[True, True]])
    rois = RoIs(tf.constant(BOXES), tf.constant([[0, 1]]), tf.constant([[2, 3]]), positive, positive)

    def run(has_mask: tf.Tensor) -> tf.Tensor:
        batch = {'boxes': BOXES, 'valid': positive, 'masks': tf.cast(masks, tf.uint8), 'has_mask': has_mask}
        return branch.losses(FEATURES, rois, batch, tf.constant([0, 0]))['loss_mask']

    function = MODES[mode](run)
    found = [float(function(tf.constant([has]))) for has in ([True, True], [True, False], [False, True], [False] * 2)]
    np.testing.assert_allclose(found, [(inside + outside) / 2, inside, outside, 0], rtol=1e-5)


@pytest.mark.parametrize(('classifier', 'probability'), [('sigmoid', 3 / 4), ('softmax', 3 / 10)])
def test_the_predicted_masks_by_hand(classifier: str, probability: float) -> None:
    """A detection that is not valid has a mask of zeros."""
    branch = branch_of_even_masks('op', classifier)
    detections = {'boxes': BOXES, 'labels': tf.constant([[2, 0]]), 'valid': tf.constant([[True, False]])}
    masks = branch.predict(FEATURES, detections)['masks']
    assert masks.shape[2:] == branch.output_spec()['masks'].shape == [8, 8]
    np.testing.assert_allclose(masks[0, 0], np.full([8, 8], probability), rtol=1e-6)
    assert not masks[0, 1].numpy().any()


@pytest.mark.parametrize(('valid', 'engine', 'expected'), [
    ([0, 0], 'op', 16), ([3, 16], 'op', 16), ([17, 2], 'op', 32), ([40, 0], 'op', 40), ([3, 0], 'xla', 40)])
def test_masks_are_predicted_for_the_valid_detections(
        monkeypatch: pytest.MonkeyPatch, valid: list[int], engine: str, expected: int) -> None:
    """By the image that has most, and in numbers that are multiples of 16, up to all slots."""
    branch = branch_of_even_masks(engine, 'sigmoid')
    counts: list[int] = []

    def pool(features: list[tf.Tensor], boxes: tf.Tensor) -> tf.Tensor:
        counts.append(boxes.shape[1])
        return tf.zeros([*boxes.shape[:2], 4, 4, 16])

    monkeypatch.setattr(branch.roi_features, 'pool', pool)
    flags = tf.sequence_mask(valid, 40)
    masks = branch.predict([], {'boxes': tf.zeros([2, 40, 4]), 'labels': tf.ones([2, 40], tf.int32), 'valid': flags})
    assert counts == [expected]
    wanted = np.where(flags[..., None, None], .75, np.zeros([2, 40, 8, 8]))
    np.testing.assert_allclose(masks['masks'], wanted, rtol=1e-6)


@pytest.mark.parametrize(('positive', 'engine', 'expected'), [
    ([], 'op', 16), ([0, 2], 'op', 16), ([0, 16], 'op', 32), ([39], 'op', 40), ([0], 'xla', 40)])
def test_masks_are_trained_for_the_positive_rois(
        monkeypatch: pytest.MonkeyPatch, positive: list[int], engine: str, expected: int) -> None:
    """Up to the last positive one: hard example mining does not put them first. Odds of 3 to 1 for empty masks."""
    branch = branch_of_even_masks(engine, 'sigmoid')
    counts: list[int] = []

    def pool(features: list[tf.Tensor], boxes: tf.Tensor, training: bool) -> tf.Tensor:
        counts.append(boxes.shape[1])
        return tf.zeros([*boxes.shape[:2], 4, 4, 16])

    monkeypatch.setattr(branch.roi_features, 'pool', pool)
    flags = tf.constant([[slot in positive for slot in range(40)]])
    every = tf.ones([1, 40], tf.int32)
    rois = RoIs(tf.tile(BOXES[:, :1], [1, 40, 1]), 0 * every, every, flags, tf.ones_like(flags))
    batch = {'boxes': BOXES, 'valid': tf.constant([[True, False]]), 'masks': tf.zeros([1, 2, 14, 14], tf.uint8)}
    losses = branch.losses([], rois, batch, tf.constant([0, 0]))
    assert counts == [expected]
    assert losses['normalizer_mask'] == len(positive)
    np.testing.assert_allclose(losses['loss_mask'], math.log(4) if positive else 0, rtol=1e-5)


def test_gradients_of_the_loss_are_dense() -> None:
    """An optimizer that squares a sparse gradient would square each of the RoIs' parts alone."""
    branch, flags = branch_of_even_masks('op', 'sigmoid'), tf.constant([[True, True]])
    rois = RoIs(tf.constant(BOXES), tf.constant([[0, 1]]), tf.constant([[2, 2]]), flags, flags)
    batch = {'boxes': BOXES, 'valid': flags, 'masks': tf.zeros([1, 2, 14, 14], tf.uint8)}
    with tf.GradientTape() as tape:
        loss = branch.losses(FEATURES, rois, batch, tf.constant([0, 0]))['loss_mask']
    gradients = tape.gradient(loss, branch.head.trainable_variables)
    assert all(isinstance(each, tf.Tensor) for each in gradients)
    np.testing.assert_allclose(gradients[-1], [0, .75, 0], rtol=1e-5)      # of the biases: the mean probability


@pytest.mark.parametrize('norm', ['batch', 'sync'])
def test_batch_statistics_are_those_of_all_rois(monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    """Else they would depend on the engine."""
    branch, counts = branch_of_even_masks('op', 'sigmoid'), []

    def pool(features: list[tf.Tensor], boxes: tf.Tensor, training: bool) -> tf.Tensor:
        counts.append(boxes.shape[1])
        return tf.zeros([*boxes.shape[:2], 4, 4, 16])

    monkeypatch.setattr(branch.roi_features, 'pool', pool)
    monkeypatch.setattr(branch.head, 'norm', Norm(norm))
    flags, every = tf.fill([1, 40], False), tf.ones([1, 40], tf.int32)
    batch = {'boxes': BOXES, 'valid': tf.constant([[True, False]]), 'masks': tf.zeros([1, 2, 14, 14], tf.uint8)}
    branch.losses([], RoIs(tf.tile(BOXES[:, :1], [1, 40, 1]), 0 * every, every, flags, flags), batch,
                  tf.constant([0, 0]))
    assert counts == [40]


def test_masks_are_turned_back_and_averaged_as_probabilities() -> None:
    upright, turned = tf.constant([[[[.2, .4], [.6, .8]]]]), tf.constant([[[[.8, .2], [1., 0.]]]])
    branch = MaskBranch(ModelConfig(), None, None, 'op')
    merged = branch.merge([{'masks': upright}, {'masks': turned}], [False, True])
    np.testing.assert_allclose(merged['masks'], [[[[.2, .6], [.3, .9]]]], rtol=1e-6)
