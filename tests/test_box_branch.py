"""The box branch with heads whose answers are given: what is drawn, by hand."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mrcnn_tf.box_branch import BoxBranch, RoIs, Truth
from mrcnn_tf.config import ModelConfig

SEED = tf.constant([1, 2])
Head = Callable[..., tuple[tf.Tensor, tf.Tensor]]


def truth(*boxes: list[float], labels: list[int], crowd: int = -1) -> Truth:
    """Of one image; `crowd` is the number of the object that is one."""
    crowds = tf.constant([[number == crowd for number in range(len(boxes))]])
    return Truth(tf.constant([boxes]), tf.constant([labels]), ~crowds, crowds)


def head_of(logits: Callable[[tf.Tensor], tf.Tensor], shift: float = 0.) -> Head:
    """A head of one class that sees the boxes themselves, moves them by `shift` half sides to the right, box weights of
    1, and gives the background no points."""
    def head(seen: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.stack([tf.zeros(seen.shape[:2]), logits(seen)], axis=-1)
        return scores, tf.broadcast_to([0., shift / 2, 0., 0.], [*seen.shape[:2], 1, 4])

    return head


def read(boxes: tf.Tensor, training: bool) -> tf.Tensor:
    return boxes


def config_of(**roi: object) -> ModelConfig:
    config = ModelConfig(num_classes=1)
    config.box_head.box_weights, config.box_head.class_agnostic = [1.] * 4, True
    for name, value in roi.items():
        assert hasattr(config.roi, name)
        setattr(config.roi, name, value)
    return config


def rows(rois: RoIs) -> list[tuple[list[float], int, bool]]:
    """Box, label and whether it is positive of each that counts, of one image."""
    boxes, _, labels, positive, valid = (each[0].numpy().tolist() for each in rois)
    return [row for row, counts in zip(zip(boxes, labels, positive, strict=True), valid, strict=True) if counts]


A, B = [0., 0., 10., 10.], [0., 50., 10., 60.]
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
    branch = BoxBranch(config_of(sampling='ohem', batch_per_image=4), head, 'op')
    valid = boxes[..., 0] != 20.
    found, most = branch.draw(read, boxes, valid, truth(A, B, crowd, labels=[1, 1, 1], crowd=2), SEED)
    assert most == 4 and found.boxes.shape == [1, 4, 4]
    # The centre is 2 px of 6 off, a side 6 in place of 10.
    assert math.log(1 + math.e) > 1.3 > math.log(1 + math.exp(-3)) + 1 / 3 + math.log(5 / 3) > .8
    assert rows(found) == [(FAR, 0, False), (OTHER, 0, False), (off, 1, True), (A, 1, True)]
    assert found.matched[0].numpy().tolist() == [0, 0, 1, 0]


def test_the_losses_of_the_hardest_have_a_gradient_once() -> None:
    """The look at all candidates has none: of two the one drawn counts, its softmax less its label, over one RoI."""
    points = tf.Variable([[2., 1.]])
    head = head_of(lambda seen: tf.gather(points, tf.cast(seen[..., 0] > 50, tf.int32), batch_dims=1))
    branch = BoxBranch(config_of(sampling='ohem', batch_per_image=1), head, 'op')
    known = truth([0., 0., 1., 1.], labels=[1])
    with tf.GradientTape() as tape:
        found, _ = branch.draw(read, tf.constant([[OTHER, FAR]]), tf.constant([[True, True]]), known, SEED)
        losses = branch.losses(found, found.boxes, known, SEED, True)
    assert rows(found) == [(OTHER, 0, False)]
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(losses['loss_classifier'], points)),
                               [[1 / (1 + math.exp(-2)), 0]], rtol=1e-6)
