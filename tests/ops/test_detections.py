"""The choice of detections: cases worked by hand, and the two engines against each other."""
from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import DetectionConfig
from mrcnn_tf.ops import detections
from tests.modes import ENGINES_AND_MODES, MODES

WEIGHTS = [10., 10., 5., 5.]
GRAPHS = [('op', 'graph'), ('xla', 'graph'), ('xla', 'jit')]


def select(rois, scores, engine='op', mode='graph', deltas=None, valid=None, sizes=(100., 100.), **settings):
    """Detections of one image; a RoI's `scores` are those of its classes, the background takes the rest to 1."""
    scores = np.asarray(scores, np.float64)
    logits = np.log(np.concatenate([1 - scores.sum(-1, keepdims=True), scores], -1))
    number, classes = scores.shape
    deltas = np.zeros([number, classes, 4]) if deltas is None else np.asarray(deltas)
    valid = np.ones(number, bool) if valid is None else np.asarray(valid)
    config = DetectionConfig(**{'max_detections': 5, **settings})
    inputs = (tf.constant(np.asarray(x)[None], t) for x, t in (
        (rois, tf.float32), (valid, tf.bool), (logits, tf.float32), (deltas, tf.float32), (sizes, tf.float32)))
    found = MODES[mode](lambda *x: detections.select(detections.candidates(*x, WEIGHTS), config, engine))(*inputs)
    limit = config.max_detections
    assert [x.shape.as_list() for x in found] == [[1, limit, 4], [1, limit], [1, limit], [1, limit]]
    assert [x.dtype for x in found] == [tf.float32, tf.float32, tf.int32, tf.bool]
    kept = found.valid[0].numpy()
    assert kept.tolist() == sorted(kept, reverse=True)                     # padding at the end, all zero
    assert not np.any(found.boxes[0].numpy()[~kept]) and not np.any(found.scores[0].numpy()[~kept])
    assert not np.any(found.labels[0].numpy()[~kept])
    return [x[0].numpy()[kept].tolist() for x in found[:3]]


A, B, C = [0., 0., 10., 10.], [40., 40., 50., 60.], [70., 10., 90., 30.]


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
def test_suppression_is_within_a_class(engine, mode) -> None:
    """A near copy of A falls where it has the same class, and stays where it has the other; best first."""
    near = [0., 0., 10., 9.]
    boxes, scores, labels = select([A, near, B], [[.5, .1], [.3, .6], [.06, .01]], engine, mode)
    assert boxes == [near, A, B]
    np.testing.assert_allclose(scores, [.6, .5, .06], rtol=1e-5)
    assert labels == [2, 1, 1]


@pytest.mark.parametrize(('engine', 'mode'), GRAPHS)
def test_what_is_dropped(engine, mode) -> None:
    """Scores up to the threshold, RoIs that are padding, boxes without an area in the image."""
    rois = [A, B, C, [90., 200., 99., 300.], [5., 5., 5., 30.]]
    scores = [[.4, .55], [.5, .2], [.61, .2], [.9, .05], [.9, .05]]
    boxes, _, labels = select(rois, scores, engine, mode, valid=[True, True, False, True, True], score_threshold=.45)
    assert (boxes, labels) == ([A, B], [2, 1])
    assert select(rois, scores, engine, mode, score_threshold=.95) == [[], [], []]


@pytest.mark.parametrize(('engine', 'mode'), GRAPHS)
def test_the_best_of_all_classes_up_to_the_limit(engine, mode) -> None:
    rois, scores = [A, B, C], [[.3, .5], [.6, .2], [.1, .4]]
    boxes, found, labels = select(rois, scores, engine, mode, max_detections=4)
    assert (boxes, labels) == ([B, A, C, A], [1, 2, 2, 1])
    np.testing.assert_allclose(found, [.6, .5, .4, .3], rtol=1e-5)
    boxes, _, labels = select(rois, scores, engine, mode, max_detections=50)
    assert (boxes, labels) == ([B, A, C, A, B, C], [1, 2, 2, 1, 2, 1])     # 6 candidates fill 6 of 50 slots


def test_candidates_beyond_the_limit_of_the_xla_engine_are_the_weakest() -> None:
    boxes, _, labels = select([A, B, C], [[.3, .5], [.6, .2], [.1, .4]], 'xla', 'jit', pre_nms=3)
    assert (boxes, labels) == ([B, A, C], [1, 2, 2])


@pytest.mark.parametrize(('engine', 'mode'), GRAPHS)
def test_each_class_has_its_box(engine, mode) -> None:
    """Weights divide the deltas: 10 half sides down, 5 log 2 taller; then the box is clipped to its image."""
    deltas = np.zeros([1, 2, 4])
    deltas[0, 1] = [5., 0., 5 * math.log(2), 0.]
    boxes, _, labels = select([A], [[.3, .6]], engine, mode, deltas=deltas, sizes=(18., 7.))
    np.testing.assert_allclose(boxes, [[0, 0, 18, 7], [0, 0, 10, 7]], atol=1e-4)
    assert labels == [2, 1]


@pytest.mark.parametrize(('engine', 'mode'), GRAPHS)
def test_one_box_for_all_classes(engine, mode) -> None:
    """Class-agnostic: the same box under each label; suppression still within a class."""
    deltas = np.array([[[0., 10., 0., 0.]], [[0., 0., 0., 0.]]])
    boxes, _, labels = select([A, B], [[.3, .6], [.5, .1]], engine, mode, deltas=deltas)
    moved = [0., 10., 10., 20.]
    np.testing.assert_allclose(boxes, [moved, B, moved, B], atol=1e-5)
    assert labels == [2, 1, 1, 2]


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
def test_boxes_by_a_vote(engine, mode) -> None:
    """A's box is the mean of itself and of what overlaps it by more than 0.5, by score: 0.6, 0.2 and 0.2 of sides 10, 9
    and 8 are 9.4. The half of IoU 0.5, another class's box, one under the threshold and padding have no vote."""
    rois = [[0., 0., 10., side] for side in (10, 9, 8, 5, 10, 9.5, 9.5)]
    scores = [[.6, .1], [.2, .1], [.2, .1], [.5, .1], [.02, .9], [.04, .01], [.9, .05]]
    boxes, found, labels = select(rois, scores, engine, mode, valid=[True] * 6 + [False], box_voting_iou=.5,
                                  nms_iou=.4, score_threshold=.15)
    np.testing.assert_allclose(boxes, [[0, 0, 10, 10], [0, 0, 10, 9.4]], rtol=1e-6)
    np.testing.assert_allclose(found, [.9, .6], rtol=1e-5)
    assert labels == [2, 1]


@pytest.mark.parametrize('mode', ['graph', 'jit'])
def test_one_box_for_all_classes_by_a_vote(mode) -> None:
    """Class 1 weighs the sides 10 and 8 by 0.6 and 0.2, class 2 by 0.3 and 0.5."""
    rois, scores = [[0., 0., 10., 10.], [0., 0., 10., 8.]], [[.6, .3], [.2, .5]]
    boxes, _, labels = select(rois, scores, 'xla', mode, deltas=np.zeros([2, 1, 4]), box_voting_iou=.5)
    assert labels == [1, 2]
    np.testing.assert_allclose(boxes, [[0, 0, 10, 9.5], [0, 0, 10, 8.75]], rtol=1e-6)


def test_the_best_box_of_each_roi() -> None:
    """Of the class of highest score, the background aside; or of all classes."""
    boxes = tf.constant([[[A, B], [C, A]]])
    scores = tf.constant([[[.9, .04, .06], [.1, .6, .3]]])
    valid = tf.constant([[True, True]])
    assert detections.best_boxes(detections.Candidates(boxes, scores, valid)).numpy().tolist() == [[B, C]]
    assert detections.best_boxes(detections.Candidates(boxes[:, :, :1], scores, valid)).numpy().tolist() == [[A, C]]


@pytest.mark.parametrize('agnostic', [False, True])
def test_engines_agree(agnostic) -> None:
    """Two images of crowded random boxes, three classes: the same detections in the same order."""
    rng = np.random.default_rng(5)
    corner = rng.uniform(-10, 70, (2, 60, 2))
    rois = tf.constant(np.concatenate([corner, corner + rng.uniform(5, 50, (2, 60, 2))], -1), tf.float32)
    logits = tf.constant(rng.normal(0, 3, (2, 60, 4)), tf.float32)
    deltas = tf.constant(rng.normal(0, 1, (2, 60, 1 if agnostic else 3, 4)), tf.float32)
    valid = tf.constant(rng.uniform(size=(2, 60)) < .9)
    sizes = tf.constant([[80., 100.], [100., 60.]])
    by_op, by_xla = (MODES[mode](lambda *x, engine=engine: detections.select(
        detections.candidates(*x, WEIGHTS), DetectionConfig(max_detections=40), engine))(
            rois, valid, logits, deltas, sizes)
        for engine, mode in (('op', 'graph'), ('xla', 'jit')))
    assert by_op.valid.numpy().sum() > 40
    for a, b in zip(by_xla, by_op, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
