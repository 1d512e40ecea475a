"""The five losses: cases worked by hand, and batches with nothing in them (the reference's tables: tests/parity)."""
from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.ops import losses
from tests.modes import MODES, gradients_of

TV_BETA = 1 / 9


def test_smooth_l1_by_hand() -> None:
    """Beta 1: half the square below 1, less half a pixel above. Beta 0 is the absolute value."""
    x = tf.constant([-3., -.5, 0., .5, 1., 3.])
    assert losses.smooth_l1(x, 1.).numpy().tolist() == [2.5, .125, 0, .125, .5, 2.5]
    assert losses.smooth_l1(x, 0.).numpy().tolist() == [3, .5, 0, .5, 1, 3]


@pytest.mark.parametrize('beta', [0., TV_BETA, 1.])
def test_smooth_l1_has_no_gradient_at_its_goal(beta) -> None:
    x = tf.constant([0., 2., -2.])
    (_,), (gradient,) = gradients_of(lambda x: (tf.reduce_sum(losses.smooth_l1(x, beta)),), x)
    assert gradient.numpy().tolist() == [0, 1, -1]


def test_objectness_by_hand() -> None:
    """Logit 0 costs log 2 either way, log 3 log(4/3) where positive, what is not sampled nothing; over the count."""
    logits = tf.constant([[0., math.log(3.), 9.], [0., 5., -9.]])
    positive = tf.constant([[False, True, False], [True, True, True]])
    sampled = tf.constant([[True, True, False], [True, False, False]])
    loss = losses.objectness_loss(logits, positive, sampled, tf.constant(8.))
    np.testing.assert_allclose(loss, (2 * math.log(2) + math.log(4 / 3)) / 8, rtol=1e-6)


def test_box_loss_by_hand() -> None:
    """Only the positive count, each by the sum of its four differences: (1 + 2 + 0 + 3 + 4 * 0.5) / 4."""
    deltas = tf.constant([[[1., -2., 0., 3.], [9., 9., 9., 9.]], [[0., 0., 0., 0.], [.5, 1.5, .5, 1.5]]])
    goals = tf.constant([[[0.] * 4, [0.] * 4], [[5.] * 4, [1.] * 4]])
    positive = tf.constant([[True, False], [False, True]])
    assert float(losses.box_loss(deltas, goals, positive, 0., tf.constant(4.))) == 2.


def test_classification_by_hand() -> None:
    """The mean over samples of -log of the true class's share: 1/2 and 1/4."""
    logits = tf.math.log([[[2., 1., 1.], [1., 1., 2.], [1., 7., 2.]]])
    labels, sampled = tf.constant([[0, 1, 2]]), tf.constant([[True, True, False]])
    np.testing.assert_allclose(losses.classification_loss(logits, labels, sampled),
                               (math.log(2) + math.log(4)) / 2, rtol=1e-6)


def test_the_loss_of_each_roi_by_hand() -> None:
    """-log of the true class's share, and for an object half the square of 0.5 and 1.5 of 2; background has no box."""
    logits = tf.math.log([[[2., 1., 1.], [1., 1., 2.]]])
    found = losses.roi_losses(logits, tf.constant([[0, 1]]), tf.fill([1, 2, 4], 9.),
                              tf.constant([[[0.] * 4, [9., 9., 8.5, 11.]]]), 1.)
    np.testing.assert_allclose(found, [[math.log(2), math.log(4) + .125 + 1.5]], rtol=1e-6)


def test_mask_loss_by_hand() -> None:
    """The mean over the cells of the positive: one mask at even odds, one at 3 to 1 and right in half its cells."""
    goals = tf.reshape(tf.constant([1., 0., 1., 0.] * 3), [1, 3, 2, 2])
    logits = tf.stack([tf.zeros([2, 2]), tf.fill([2, 2], math.log(3.)), tf.fill([2, 2], 99.)])[None]
    loss = losses.mask_loss(logits, goals, tf.constant([[True, True, False]]))
    np.testing.assert_allclose(loss, (math.log(2) + (math.log(4 / 3) + math.log(4)) / 2) / 2, rtol=1e-6)


@pytest.mark.parametrize('mode', MODES)
def test_a_batch_without_anything_costs_nothing(mode) -> None:
    """No sample, no positive, count 0: zeros with zero gradients, although the numbers behind the mask are wild."""
    wild = tf.constant(np.random.default_rng(0).normal(0, 50, (2, 3, 4)), tf.float32)
    none, zero = tf.zeros([2, 3], tf.bool), tf.constant(0.)

    def run(x):
        return gradients_of(lambda x: (
            losses.objectness_loss(x[..., 0], none, none, zero), losses.box_loss(x, -x, none, 0., zero),
            losses.classification_loss(x, tf.zeros([2, 3], tf.int32), none),
            losses.mask_loss(x[..., None], tf.zeros([2, 3, 4, 1]), none)), x)

    parts, (gradient,) = MODES[mode](run)(wild)
    assert [float(p) for p in parts] == [0.] * 4
    np.testing.assert_array_equal(gradient, tf.zeros_like(wild))


def test_the_entry_of_a_class() -> None:
    """Classes count from 1; background takes the first entry; what holds one entry for all gives that."""
    values = tf.reshape(tf.range(24.), [1, 2, 3, 4])
    assert losses.of_class(values, tf.constant([[3, 1]]), 2).numpy().tolist() == [[[8, 9, 10, 11], [12, 13, 14, 15]]]
    assert losses.of_class(values, tf.constant([[0, 2]]), 2).numpy().tolist() == [[[0, 1, 2, 3], [16, 17, 18, 19]]]
    assert losses.of_class(values, tf.constant([[2, 4]]), 3).numpy().tolist() == [[[1, 5, 9], [15, 19, 23]]]
    agnostic = losses.of_class(values[:, :, :1], tf.constant([[3, 0]]), 2)
    assert agnostic.numpy().tolist() == [[[0, 1, 2, 3], [12, 13, 14, 15]]]


def test_multinomial_mask_loss_by_hand() -> None:
    """Classes compete: shares 1/2 background, 1/4 each class. A cell inside costs log 4, outside log 2, half of it the
    mean of both; the second mask is not positive."""
    logits = tf.math.log(tf.constant([2., 1., 1.])) * tf.ones([1, 2, 2, 2, 3])
    targets = tf.constant([[[[1., 0.], [.5, 0.]], [[1., 1.], [1., 1.]]]])
    loss = losses.multinomial_mask_loss(logits, tf.constant([[2, 1]]), targets, tf.constant([[True, False]]))
    log2, log4 = math.log(2), math.log(4)
    np.testing.assert_allclose(loss, (log4 + log2 + (log4 + log2) / 2 + log2) / 4, rtol=1e-6)
