"""The proposal layer: cases worked by hand. The numbers behind it are tested in tests/ops/test_proposals.py."""
from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.layers.proposals import ProposalLayer


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_proposals_by_hand(engine) -> None:
    """Two levels, of three anchors and one. The first two overlap by 72 / 81; the third is moved half a side down and
    clipped to the image of 40 x 40 px; the fourth has a side below 2 px."""
    logits = [tf.constant([[0., 1., -1.]]), tf.constant([[9.]])]
    deltas = [tf.constant([[[0.] * 4, [0.] * 4, [.5, 0., 0., 0.]]]), tf.zeros([1, 1, 4])]
    anchors = tf.constant([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 40., 30.], [0., 0., 1., 30.]])
    layer = ProposalLayer(post_nms=3, min_side=2., engine=engine)
    boxes, scores, valid = layer(logits, deltas, anchors, tf.constant([[40., 40.]]))
    assert boxes.numpy().tolist() == [[[0, 0, 9, 8], [30, 20, 40, 30], [0] * 4]]
    np.testing.assert_allclose(scores, [[1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0]], rtol=1e-6)
    assert valid.numpy().tolist() == [[True, True, False]]


def test_the_limits_before_and_after_nms() -> None:
    """Ten boxes side by side: the best four of a level enter NMS, the best three of the image are kept."""
    anchors = tf.constant([[0., 9. * i, 5., 9. * i + 5.] for i in range(20)])
    layer = ProposalLayer(pre_nms=4, post_nms=3)
    boxes, _, valid = layer([tf.constant([[float(i) for i in range(10)]])] * 2, [tf.zeros([1, 10, 4])] * 2, anchors,
                            tf.constant([[200., 200.]]))
    assert sorted(boxes[0, :, 1].numpy().tolist())[-1] == 9 * 19 and valid.numpy().tolist() == [[True] * 3]
    _, _, valid = layer(tf.zeros([1, 2]), tf.zeros([1, 2, 4]), anchors[:2], tf.constant([[200., 200.]]))
    assert valid.numpy().tolist() == [[True, True, False]]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'pre_nms': 0}, '^ProposalLayer: pre_nms is 0; expected a whole number of at least 1$'),
    ({'post_nms': 1.5}, '^ProposalLayer: post_nms is 1.5; expected a whole number of at least 1$'),
    ({'nms_iou': 70}, '^ProposalLayer: nms_iou is 70; expected a number from 0 to 1$'),
    ({'engine': 'gpu'}, "^ProposalLayer: engine is 'gpu'; expected one of 'op', 'xla'$")],
    ids=['pre_nms', 'post_nms', 'nms_iou', 'engine'])
def test_wrong_arguments_are_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        ProposalLayer(**arguments)
