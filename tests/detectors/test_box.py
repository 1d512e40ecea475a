"""The box branch with heads whose answers are given: what is drawn and handed on, by hand."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.box import BoxBranch, _scale_gradient
from mrcnn_tf.detectors.branch import GroundTruth, RoIs
from tests.modes import MODES, with_gradient

Head = Callable[..., tuple[tf.Tensor, tf.Tensor]]


def seed() -> tf.Tensor:
    return tf.constant([1, 2])


def truth(*boxes: list[float], labels: list[int], crowd: int = -1) -> GroundTruth:
    """Of one image; `crowd` is the number of the object that is one."""
    crowds = tf.constant([[number == crowd for number in range(len(boxes))]])
    return GroundTruth(tf.constant([boxes]), tf.constant([labels]), ~crowds, crowds, tf.constant([[100., 100.]]))


def head_of(logits: Callable[[tf.Tensor], tf.Tensor], dx: float | tf.Variable = 0.) -> Head:
    """A head of one class that sees the boxes themselves, gives each the delta (0, dx, 0, 0), and the background a
    logit of 0."""
    def head(seen: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.stack([tf.zeros(seen.shape[:2]), logits(seen)], axis=-1)
        return scores, tf.broadcast_to(tf.stack([0., dx, 0., 0.]), [*seen.shape[:2], 1, 4])

    return head


class Boxes:
    """Stands for the pooled features: the heads see the boxes themselves."""

    def __init__(self) -> None:
        self.seen: list[list[list[float]]] = []

    def pool(self, features: None, boxes: tf.Tensor, training: bool = False) -> tf.Tensor:
        if tf.executing_eagerly():
            self.seen.append(boxes[0].numpy().tolist())
        return boxes


def branch_of(config: ModelConfig, *heads: Head) -> BoxBranch:
    return BoxBranch(config, Boxes(), heads, 'op')


def config_of(**roi: object) -> ModelConfig:
    config = ModelConfig(num_classes=1)
    config.box_head.box_weights, config.box_head.class_agnostic = [1.] * 4, True
    for name, value in roi.items():
        assert hasattr(config.roi, name)
        setattr(config.roi, name, value)
    return config


def rows(rois: RoIs) -> list[tuple[list[float], int, bool]]:
    """Box, label and whether it is positive of each that counts, of one image."""
    boxes, _, labels, positive, valid = (each[0].numpy().tolist() for each in rois[:5])
    return [row for row, counts in zip(zip(boxes, labels, positive, strict=True), valid, strict=True) if counts]


A, B = [0., 0., 10., 10.], [0., 50., 10., 60.]
LOW = [0., 0., 10., 4.]                                                  # IoU 0.4 with A
FAR, NEAR_FAR, OTHER = [70., 70., 80., 80.], [70., 70., 80., 79.], [30., 30., 40., 40.]


def test_the_hardest_are_drawn() -> None:
    """Of 7 candidates and 4 slots. Background's loss is log(1 + e^x): hard at x = 5 in FAR, of which the copy falls
    (IoU 0.9), less at 1 in OTHER. An object scored 3 costs log(1 + e^-3), and more where its box is off. A RoI in a
    crowd and padding, both scored worst, are no candidates."""
    crowd, padding = [90., 90., 99., 99.], [20., 20., 25., 25.]
    off = [0., 50., 10., 56.]                                              # IoU 0.6 with B
    points = {tuple(A): 3., tuple(off): 3., tuple(FAR): 5., tuple(NEAR_FAR): 4.9, tuple(OTHER): 1., tuple(crowd): 9.,
              tuple(padding): 9.}
    boxes = tf.constant([list(points)])
    head = head_of(lambda seen: tf.constant([[points[tuple(box)] for box in seen[0].numpy().tolist()]]))
    branch = branch_of(config_of(sampling='ohem', batch_per_image=4), head)
    valid = boxes[..., 0] != 20.
    found, positives = branch.sample(None, boxes, valid, truth(A, B, crowd, labels=[1, 1, 1], crowd=2), seed())
    assert positives == 4 and found.boxes.shape == [1, 4, 4]
    # The centre is 2 px of 6 off, a side 6 in place of 10.
    assert math.log(1 + math.e) > 1.3 > math.log(1 + math.exp(-3)) + 1 / 3 + math.log(5 / 3) > .8
    assert rows(found) == [(FAR, 0, False), (OTHER, 0, False), (off, 1, True), (A, 1, True)]
    assert found.matched[0].numpy().tolist() == [0, 0, 1, 0]


def test_the_losses_of_the_hardest_have_a_gradient_once() -> None:
    """The look at all candidates has none: of two the one drawn counts, its softmax less its label, over one RoI."""
    points = tf.Variable([[2., 1.]])
    head = head_of(lambda seen: tf.gather(points, tf.cast(seen[..., 0] > 50, tf.int32), batch_dims=1))
    branch = branch_of(config_of(sampling='ohem', batch_per_image=1), head)
    known = truth([0., 0., 1., 1.], labels=[1])
    with tf.GradientTape() as tape:
        found, _ = branch.sample(None, tf.constant([[OTHER, FAR]]), tf.constant([[True, True]]), known, seed())
        losses = branch.losses(None, found, known, seed())
    assert rows(found) == [(OTHER, 0, False)]
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(losses['loss_classifier'], points)),
                               [[1 / (1 + math.exp(-2)), 0]], rtol=1e-6)


def cascade(first: Head, second: Head) -> BoxBranch:
    """The second at IoU 0.6, its deltas weighted by 2."""
    config = config_of()
    config.cascade.positive_iou, config.cascade.box_weights = [.6], [[2.] * 4]
    return branch_of(config, first, second)


def test_a_cascade_hands_boxes_on() -> None:
    """A side is 10: 0.1 of it moves by 1 px, then 0.4 weighted by 2 by 2 px. Probabilities 1/2 and 3/4 have the mean
    5/8. In the image both times: of a box that leaves it the second stage sees what is left."""
    branch = cascade(head_of(lambda seen: tf.zeros(seen.shape[:2]), .1),
                     head_of(lambda seen: tf.fill(seen.shape[:2], math.log(3.)), .4))
    found = branch.candidates(None, tf.constant([[A, [0., 90., 10., 100.]]]), tf.constant([[True, False]]),
                              tf.constant([[100., 100.]]))
    assert branch.roi_features.seen == [[A, [0., 90., 10., 100.]], [[0., 1., 10., 11.], [0., 91., 10., 100.]]]
    np.testing.assert_allclose(found.boxes, [[[[0., 3., 10., 13.]], [[0., 92.8, 10., 100.]]]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [[[.375, .625]] * 2], rtol=1e-6)
    assert found.valid.numpy().tolist() == [[True, False]]


def test_boxes_are_read_again() -> None:
    """Twice beside the first time: each round moves by 1 px more, each scored by what it reads."""
    config = config_of()
    config.detections.refinements = 2
    branch = branch_of(config, head_of(lambda seen: seen[..., 1], .1))
    found = branch.candidates(None, tf.constant([[A, A]]), tf.constant([[True, False]]), tf.constant([[100., 100.]]))
    np.testing.assert_allclose(found.boxes[0, :, 0, 1], [1, 1, 2, 2, 3, 3], rtol=1e-6)
    np.testing.assert_allclose(found.scores[0, ::2, 1], [1 / (1 + math.exp(-x)) for x in (0, 1, 2)], rtol=1e-6)
    assert found.valid.numpy().tolist() == [[True, False] * 3]


def test_each_stage_is_trained_on_the_boxes_of_the_one_before() -> None:
    """A RoI 3 px off, IoU 7/13, is positive at 0.5. Moved by 1 of the 3 px it has 8/12 and is positive at 0.6: the goal
    left is 0.2 of a side, weighted by 2. Not moved it is background. What counts no more is not handed on."""
    off = [0., 3., 10., 13.]
    rois = RoIs(tf.constant([[off, [0.] * 4]]), tf.zeros([1, 2], tf.int32), tf.constant([[1, 0]]),
                tf.constant([[True, False]]), tf.constant([[True, False]]), pooled=tf.constant([[off, [0.] * 4]]))
    known = truth(A, labels=[1])
    dx = tf.Variable(-.1)
    zero = head_of(lambda seen: tf.zeros(seen.shape[:2]))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(rois.pooled)
        first = head_of(lambda seen: seen[..., 1] - 3., dx)
        losses = cascade(first, zero).losses(None, rois, known, seed())
    expected = {'loss_classifier_stage1': math.log(2), 'loss_box_reg_stage1': .2,
                'loss_classifier_stage2': math.log(2), 'loss_box_reg_stage2': .4}
    assert [name for name in losses if name.startswith('loss_')] == list(expected)
    np.testing.assert_allclose([losses[name] for name in expected], list(expected.values()), rtol=1e-5)
    # Half of it arrives in what is read, all of it in the head, and nothing from the stage behind.
    np.testing.assert_allclose(tape.gradient(losses['loss_classifier_stage1'], rois.pooled)[0, 0, 1], -.5 / 2)
    np.testing.assert_allclose(tape.gradient(losses['loss_box_reg_stage1'], dx), 1.)
    assert tape.gradient(losses['loss_box_reg_stage2'], dx) is None
    still = cascade(zero, zero).losses(None, rois, known, seed())
    assert float(still['loss_box_reg_stage2']) == 0


@pytest.mark.parametrize('mode', MODES)
def test_the_gradient_is_scaled(mode) -> None:
    x = tf.constant([3., -1.])
    value, gradient = MODES[mode](lambda x: with_gradient(lambda x: _scale_gradient(x, .25), x, cotangent=[4., 8.]))(x)
    assert value.numpy().tolist() == [3, -1] and gradient.numpy().tolist() == [1, 2]


@pytest.mark.parametrize(('negative', 'expected'), [(None, [(A, 1, True), (LOW, 0, False)]), (.25, [(A, 1, True)])],
                         ids=['by default', '0.25'])
def test_rois_between_the_thresholds(negative: float | None, expected: list[tuple[list[float], int, bool]]) -> None:
    """A RoI with IoU 0.4 is background, unless it is ignored because negatives have a lower threshold of their own."""
    branch = branch_of(config_of(negative_iou=negative, batch_per_image=4), head_of(lambda seen: seen[..., 0]))
    found, _ = branch.sample(None, tf.constant([[A, LOW]]), tf.constant([[True, True]]), truth(A, labels=[1]), seed())
    assert rows(found) == expected
