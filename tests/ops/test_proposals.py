"""Region proposals: cases worked by hand (those of the reference implementations: tests/parity)."""
from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import RPNConfig
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import proposals
from tests.modes import ENGINES_AND_MODES, MODES, ours


def propose(levels, engine='xla', mode='graph', sizes=(100, 100), training=False, **settings) -> proposals.Proposals:
    """Proposals of one image from (logit, box) pairs, by level; the boxes are the anchors, deltas are zero."""
    config = RPNConfig(**{'pre_nms_test': 10, 'post_nms_test': 6, 'pre_nms_train': 3, 'post_nms_train': 2, **settings})
    logits = [tf.constant([[score for score, _ in level]], tf.float32) for level in levels]
    anchors = tf.constant([box for level in levels for _, box in level], tf.float32)
    deltas = [tf.zeros([*x.shape, 4]) for x in logits]
    return MODES[mode](lambda x, d, a, s: proposals.propose(x, d, a, s, config, training, engine))(
        logits, deltas, anchors, tf.constant([sizes], tf.float32))


def apart(number: int, column: int = 0) -> list[list[float]]:
    """Boxes of 5 x 5 px that do not touch."""
    return [[8. * i, 8. * column, 8. * i + 5, 8. * column + 5] for i in range(number)]


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
def test_proposals_by_hand(engine, mode) -> None:
    """NMS runs within a level, not across levels; both levels are sorted together; zeros fill the rest."""
    a, b, c = apart(3)
    near_a, near_c = [0., 0., 5., 5.5], [16., .5, 21., 5.]
    fine = [(1., a), (3., near_a), (-2., b)]
    coarse = [(2., a), (4., c), (3.5, near_c)]
    found = propose([fine, coarse], engine, mode)
    assert found.valid.numpy().tolist() == [[True] * 4 + [False] * 2]
    assert found.boxes.numpy().tolist() == [[c, near_a, a, b, [0.] * 4, [0.] * 4]]
    assert found.logits[0].numpy().tolist() == [4, 3, 2, -2] + [np.float32(box_ops.LOWEST)] * 2
    assert found.boxes.dtype == found.logits.dtype == tf.float32 and found.valid.dtype == tf.bool


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_the_limit_before_nms_is_per_level(engine) -> None:
    """The best two of each level enter NMS; a box that NMS drops is not replaced by the third."""
    twins = [[0., 0., 5., 5.]] * 2
    fine = [(9., twins[0]), (8., twins[1]), (7., apart(2)[1])]
    coarse = [(float(i), box) for i, box in enumerate(apart(5, column=3))]
    found = propose([fine, coarse], engine, pre_nms_test=2)
    assert found.logits[0].numpy()[found.valid[0]].tolist() == [9, 4, 3]


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_the_limit_after_nms_is_per_image(engine) -> None:
    levels = [[(float(i), box) for i, box in enumerate(apart(5))], [(i + .5, box) for i, box in enumerate(apart(5, 2))]]
    assert propose(levels, engine, post_nms_test=4).logits.numpy().tolist() == [[4.5, 4, 3.5, 3]]
    assert propose(levels, engine, training=True).logits.numpy().tolist() == [[4.5, 4]]
    assert propose(levels, engine, training=True, pre_nms_train=1, post_nms_train=3).valid.numpy().tolist() == [
        [True, True]]                                                     # one slot per level


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_boxes_are_clipped_to_the_image_before_nms(engine) -> None:
    """Two boxes of IoU 5/25 become equal within the image of 100 x 50; one outside is gone."""
    level = [(2., [0., 40., 100., 55.]), (1., [0., 40., 100., 105.]), (5., [10., 60., 20., 70.])]
    found = propose([level], engine, sizes=(100, 50))
    assert found.boxes[0].numpy().tolist() == [[0, 40, 100, 50], *[[0.] * 4] * 5]
    assert found.valid[0].numpy().tolist() == [True] + [False] * 5


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_boxes_without_an_area_are_dropped(ops_kit, engine) -> None:
    """The reference's table of what remains of boxes clipped to 100 x 120 px, sides of a thousandth at least."""
    level = [(-float(i), box) for i, box in enumerate(ours(ops_kit['clip_boxes']))]
    found = propose([level], engine, sizes=(100, 120), pre_nms_test=16, post_nms_test=16, nms_iou=1.)
    kept = ops_kit['clipped_kept']
    assert (-found.logits[0].numpy()[found.valid[0]]).tolist() == kept.tolist()
    np.testing.assert_allclose(found.boxes[0].numpy()[found.valid[0]], ours(ops_kit['clipped_boxes'])[kept], atol=1e-4)


@pytest.mark.parametrize(('engine', 'mode'), [('op', 'graph'), ('xla', 'graph'), ('xla', 'jit')])
def test_an_image_without_any_usable_box(engine, mode) -> None:
    found = propose([[(1., [-9., -9., -1., -1.])] * 3, [(2., [200., 0., 210., 5.])]], engine, mode)
    assert not np.any(found.valid) and not np.any(found.boxes)


def test_deltas_move_the_anchors() -> None:
    """From 8 x 8 about (14, 14), half a side down and twice as wide: 8 x 16 about (18, 14)."""
    found = proposals.propose([tf.constant([[0.]])], [tf.constant([[[.5, 0., 0., math.log(2)]]])],
                        tf.constant([[10., 10., 18., 18.]]), tf.constant([[90., 90.]]), RPNConfig(), False, 'op')
    np.testing.assert_allclose(found.boxes[0, 0], [14, 6, 22, 22], atol=1e-5)


def test_no_gradient_flows_through_the_proposals() -> None:
    logits, deltas = tf.constant([[1., 2.]]), tf.zeros([1, 2, 4])
    with tf.GradientTape() as tape:
        tape.watch([logits, deltas])
        found = proposals.propose([logits], [deltas], tf.constant(apart(2)), tf.constant([[90., 90.]]), RPNConfig(),
                                  True, 'xla')
        total = tf.reduce_sum(found.boxes) + tf.reduce_sum(found.logits)
    assert tape.gradient(total, [logits, deltas]) == [None, None]
