"""The RPN: its anchors, matches, losses and number of proposals."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors import rpn as rpn_module
from mrcnn_tf.detectors.branch import GroundTruth
from mrcnn_tf.detectors.rpn import RPN, GivenProposals, Scores, as_detections
from mrcnn_tf.layers import winograd
from mrcnn_tf.layers.precision import precision_policy
from mrcnn_tf.ops import targets
from mrcnn_tf.ops.proposals import Proposals
from tests.detectors.small import make_batch, small_config
from tests.modes import recorded

PYRAMID = (4, 8, 16, 32, 64)


def seed() -> tf.Tensor:
    return tf.constant([0, 0])


def rpn_of(config: ModelConfig, strides: tuple[int, ...] = PYRAMID, engine: str = 'op') -> RPN:
    return RPN(config, 16, strides, engine)


def maps_of(batch: dict[str, tf.Tensor], strides: tuple[int, ...] = PYRAMID) -> list[tf.Tensor]:
    """Return random feature maps."""
    count, height, width, _ = batch['images'].shape
    return [tf.random.stateless_normal([count, height // s, width // s, 16], [s, 1]) for s in strides]


@pytest.mark.parametrize(('changes', 'strides', 'expected'), [
    (dict(rpn__post_nms_test=500), PYRAMID, 5 * 40),
    (dict(rpn__post_nms_test=50, anchors__sizes=[[8.]]), (16,), 40),
    (dict(rpn__post_nms_test=24), PYRAMID, 24)], ids=['pyramid', 'one feature map', 'fewer'])
def test_the_number_of_proposals(changes, strides, expected) -> None:
    """As many as the config says, or as many as enter NMS on all feature maps where that is less."""
    rpn, batch = rpn_of(small_config(**changes), strides), make_batch()
    assert rpn.output_spec()['boxes'].shape == [expected, 4]
    assert rpn.propose(maps_of(batch, strides), batch).boxes.shape == [2, expected, 4]


def test_normalisers_of_the_proposals_boxes() -> None:
    """Faster eq. 1: over the locations, 16^2 + 8^2 + 4^2 + 2^2 + 1 cells an image, times lambda; not over 32."""
    config, batch = small_config(), make_batch()
    rpn, maps, values = rpn_of(config), maps_of(batch), []
    scores = rpn.score(maps, batch['images'])
    for changes in ({}, dict(loss_normalizer='locations', box_loss_weight=10.)):
        rpn.config = dataclasses.replace(config.rpn, **changes)
        values.append(rpn.losses(maps, scores, GroundTruth.of(batch), seed()))
    assert values[0]['loss_rpn_box_reg'] > 0
    np.testing.assert_allclose(values[1]['loss_rpn_box_reg'], values[0]['loss_rpn_box_reg'] * 10 * 32 / 341, rtol=1e-5)
    np.testing.assert_allclose(values[1]['loss_objectness'], values[0]['loss_objectness'], rtol=1e-6)


def test_anchors_between_the_thresholds() -> None:
    """The IoU with the object is 1, 0.75, 0.5 and 0.25: only an anchor below 0.3 is background."""
    anchors = tf.constant([[0., 0., 20., side] for side in (20., 15., 10., 5.)])
    rpn = rpn_of(small_config(anchors__sizes=[[20.]], anchors__ratios=[1.]), (16,))
    scores = Scores(anchors, [tf.zeros([1, 4])], [tf.zeros([1, 4, 4])])
    objects = GroundTruth(tf.constant([[[0., 0., 20., 20.]]]), tf.constant([[1]]), tf.constant([[True]]),
                          tf.constant([[False]]), tf.constant([[64., 64.]]))
    with recorded(targets, 'match') as matches:
        rpn.losses([tf.zeros([1, 1, 4, 16])], scores, objects, seed())
    assert matches[0].label.numpy().tolist() == [[1, 1, -1, 0]]


def test_anchors_that_cross_the_border(monkeypatch) -> None:
    """Faster 3.1.3: they are ignored, and an object that one of them overlaps most has the best of the others.

    Anchors of 32 px about 0, 16, 32 and 48 in images of 64 x 64 and 48 x 56 px, the object in columns 40 to 56.
    """
    labels, sample = [], targets.sample
    monkeypatch.setattr(targets, 'sample', lambda label, *rest: labels.append(label.numpy()) or sample(label, *rest))
    rpn = rpn_of(small_config(anchors__sizes=[[32.]], anchors__ratios=[1.]), (16,))
    boxes = np.zeros([2, 4, 4], np.float32)
    boxes[:, 0] = 16, 40, 48, 56
    batch = make_batch(boxes=boxes, valid=boxes.any(-1), crowd=np.zeros([2, 4], bool))
    maps = maps_of(batch, (16,))
    scores = rpn.score(maps, batch['images'])
    for rpn.config.crossing_anchors in (True, False):
        rpn.losses(maps, scores, GroundTruth.of(batch), seed())
    everywhere = [[0] * 4, [0] * 4, [0, 0, 0, 1], [0] * 4]
    assert labels[0].reshape(2, 4, 4).tolist() == [everywhere] * 2
    assert labels[1].reshape(2, 4, 4).tolist() == [
        [[-1] * 4, [-1, 0, 0, 0], [-1, 0, 0, 1], [-1, 0, 0, 0]], [[-1] * 4, [-1, 0, 0, -1], [-1, 0, 1, -1], [-1] * 4]]


@pytest.mark.parametrize(('samples', 'again'), [(37, True), (38, False)])
def test_the_head_runs_again_for_few_samples(monkeypatch, samples, again) -> None:
    """Where 9 times as many are fewer than the 341 cells; losses and gradients are those of all cells."""
    rpn, batch = rpn_of(small_config(rpn__batch_per_image=samples)), make_batch()
    maps = maps_of(batch)
    rpn.create_variables()

    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(maps)
            losses = rpn.losses(maps, rpn.score(maps, batch['images']), GroundTruth.of(batch), seed())
            total = losses['loss_objectness'] + losses['loss_rpn_box_reg']
        return [*losses.values(), *tape.gradient(total, [*maps, *rpn.trainable_variables])]

    with recorded(rpn.head, 'at') as calls:
        found = step()
    assert len(calls) == again
    monkeypatch.setattr(rpn_module, '_CELLS_AROUND', 100 if again else 1)            # the other way
    for one, other in zip(found, step(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * abs(np.asarray(other)).max())


@pytest.mark.parametrize(('samples', 'convolutions'), [(37, 5), (38, 0)])
def test_in_bfloat16_what_proposals_alone_read_is_computed_as_in_inference(monkeypatch, samples, convolutions) -> None:
    """Not where the losses read the outputs of all cells, which pass a gradient."""
    monkeypatch.setattr(winograd, 'CELLS', 1)
    monkeypatch.setattr(winograd, 'CHANNELS', 1)
    config, batch = small_config(rpn__batch_per_image=samples), make_batch()
    for precision in (winograd.RESULTS, winograd.KERNELS):
        monkeypatch.setitem(precision, tf.bfloat16, precision[tf.bfloat16]._replace(inside=0.))
    with precision_policy('mixed_bfloat16'):
        rpn = rpn_of(config)
        rpn.create_variables()
    maps = [tf.cast(each, tf.bfloat16) for each in maps_of(batch)]
    with recorded(winograd, '_convolution') as calls, winograd.winograd_convolutions('op', training=True):
        rpn.train(maps, batch, GroundTruth.of(batch), seed())
    assert len(calls) == convolutions
    with recorded(winograd, '_convolution') as calls:                                # not without its context
        rpn.train(maps, batch, GroundTruth.of(batch), seed())
    assert not calls


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_anchors_beyond_an_own_canvas_do_not_compete(engine) -> None:
    """With an RPN that scores all anchors alike, proposals depend on nothing but which anchors take part."""
    rpn = rpn_of(small_config(rpn__pre_nms_test=200, rpn__post_nms_test=100), engine=engine)
    rpn.create_variables()
    for layer in (rpn.head.objectness, rpn.head.deltas):
        layer.kernel.assign(tf.zeros_like(layer.kernel))
    sizes = tf.constant([[60., 60.]])
    small, large = ({'images': tf.zeros([1, side, side, 3]), 'sizes': sizes} for side in (64, 128))
    own = rpn.propose(maps_of(small), small)
    fixed = rpn.propose(maps_of(large), {**large, 'padded_sizes': tf.constant([[64., 64.]])})
    for name in own._fields:
        np.testing.assert_array_equal(getattr(fixed, name), getattr(own, name), err_msg=name)
    assert not np.array_equal(rpn.propose(maps_of(large), large).boxes, own.boxes)


def test_proposals_of_the_batch_have_no_losses() -> None:
    batch = {'proposals': tf.constant([[[1., 2., 3., 4.]]]), 'proposals_valid': tf.constant([[True]])}
    losses, proposals = GivenProposals().train([], batch, None, seed())
    assert losses == {} and proposals.boxes is batch['proposals'] and proposals.valid is batch['proposals_valid']


def test_proposals_as_detections() -> None:
    """A logit of log 3 is a score of 3 to 1; a slot that is not valid has zeros, whatever its logit."""
    found = as_detections(Proposals(tf.zeros([1, 2, 4]), tf.math.log([[3., 9.]]), tf.constant([[True, False]])))
    assert found['labels'].numpy().tolist() == [[1, 0]] and found['valid'].numpy().tolist() == [[True, False]]
    np.testing.assert_allclose(found['scores'], [[.75, 0]], rtol=1e-6)
