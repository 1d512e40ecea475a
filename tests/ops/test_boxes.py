"""Areas, overlaps, encoding and NMS: cases worked by hand, each engine in each mode (tables: tests/parity)."""
from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.ops import boxes
from tests.modes import ENGINES_AND_MODES, MODES

UNIT, TENS = (1., 1., 1., 1.), (10., 10., 5., 5.)


def tensor(rows: list) -> tf.Tensor:
    return tf.constant(rows, tf.float32)


def test_area() -> None:
    areas = boxes.area(tensor([[1, 2, 4, 7], [3, 3, 3, 9], [5, 0, 1, 2], [5, 5, 1, 1]]))
    assert areas.numpy().tolist() == [15, 0, 0, 0]


def test_overlaps_by_hand() -> None:
    """A 4 x 6 box and a 2 x 6 one share 2 x 3; an empty box shares nothing, and is nothing itself."""
    a, b = tensor([[0, 0, 4, 6], [1, 1, 1, 1]]), tensor([[2, 3, 4, 9], [0, 0, 0, 5], [1, 1, 1, 1]])
    np.testing.assert_array_equal(boxes.intersection(a, b), [[6, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(boxes.iou(a, b), [[6 / 30, 0, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(boxes.iof(a, b), [[6 / 24, 0, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(boxes.iof(b, a), [[6 / 12, 0], [0, 0], [0, 0]], rtol=1e-6)


def test_overlaps_of_a_batch_with_boxes_common_to_it() -> None:
    a, b = tensor([[[0, 0, 2, 2]], [[0, 0, 4, 4]]]), tensor([[0, 0, 2, 4], [0, 0, 4, 4]])
    np.testing.assert_allclose(boxes.iou(a, b), [[[1 / 2, 1 / 4]], [[1 / 2, 1]]], rtol=1e-6)


def test_clip_to_each_image_of_a_batch() -> None:
    clipped = boxes.clip(tf.tile(tensor([[[-5, -1, 50, 60]]]), [2, 1, 1]), tensor([[30, 40], [70, 20]]))
    np.testing.assert_array_equal(clipped, [[[0, 0, 30, 40]], [[0, 0, 50, 20]]])


def test_inside_each_image_of_a_batch() -> None:
    """An edge on the border is inside; the second box is of the wider image alone, the others of none."""
    rows = tensor([[0, 0, 30, 40], [5, 5, 20, 50], [-1, 0, 9, 9], [0, 0, 31, 9]])
    expected = [[True, False, False, False], [True, True, False, False]]
    for given in (rows, tf.stack([rows, rows])):
        assert boxes.inside(given, tensor([[30, 40], [30, 50]])).numpy().tolist() == expected


def test_coding_by_hand() -> None:
    """From 4 x 8 about (2, 4) to 8 x 4 about (4, 8): shifts of half a side, sides doubled and halved."""
    box, reference = tensor([[0, 0, 4, 8]]), tensor([[0, 6, 8, 10]])
    expected = [[.5, .5, math.log(2), -math.log(2)]]
    np.testing.assert_allclose(boxes.encode(box, reference), expected, atol=1e-6)
    np.testing.assert_allclose(boxes.encode(box, reference, TENS), np.array(expected) * TENS, atol=1e-6)
    np.testing.assert_allclose(boxes.decode(tensor(expected), box), reference, atol=1e-5)


def test_decoding_undoes_encoding() -> None:
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(-50, 50, (2, 100, 2)), rng.uniform(5, 90, (2, 100, 2))
    a, b = np.concatenate([corners, corners + sides], -1).astype(np.float32)
    np.testing.assert_allclose(boxes.decode(boxes.encode(a, b, TENS), a, TENS), b, atol=1e-3)


def test_sides_grow_at_most_62_5_fold() -> None:
    decoded = boxes.decode(tensor([[0, 0, 100, 4.2]]), tensor([[92, 92, 108, 108]]))
    np.testing.assert_allclose(decoded, [[-400, -400, 600, 600]], rtol=1e-5)


def test_encoding_of_empty_boxes_is_finite() -> None:
    empty, full = tensor([[3, 3, 3, 3]]), tensor([[0, 0, 8, 8]])
    for a, b in ((empty, full), (full, empty), (empty, empty)):
        assert np.isfinite(boxes.encode(a, b)).all()


def run_nms(engine: str, mode: str, box_rows: np.ndarray, scores: np.ndarray, threshold: float, limit: int,
            groups: np.ndarray | None = None) -> list[list[int]]:
    """Kept indices of each set."""
    more = () if groups is None else (tf.constant(groups, tf.int32),)
    index, valid = MODES[mode](lambda b, s, *g: boxes.nms(b, s, threshold, limit, engine, *g))(
        tensor(box_rows), tensor(scores), *more)
    assert index.dtype == tf.int32 and valid.dtype == tf.bool
    assert index.shape == valid.shape == (len(box_rows), min(limit, np.shape(box_rows)[1]))
    for row in valid.numpy():                                              # the kept ones lie in front
        assert row.tolist() == sorted(row, reverse=True)
    return [i[v].tolist() for i, v in zip(index.numpy(), valid.numpy(), strict=True)]


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
def test_a_chain_of_suppressions_frees_every_second_box(engine, mode) -> None:
    """Each box of ten overlaps the next by 2/3, the one after by 3/7: a dropped box drops no other. Scores fall by
    index in the first set and rise in the second; the third has its last three boxes as padding."""
    chain = [[0., 2. * i, 4., 2. * i + 10.] for i in range(10)]
    falling = np.arange(10.)[::-1]
    padded = np.where(np.arange(10) < 7, falling, boxes.LOWEST)
    kept = run_nms(engine, mode, np.array([chain] * 3), np.stack([falling, falling[::-1], padded]), .5, 10)
    assert kept == [[0, 2, 4, 6, 8], [9, 7, 5, 3, 1], [0, 2, 4, 6]]


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
def test_nms_keeps_the_best_up_to_the_limit_and_the_first_of_equal_scores(engine, mode) -> None:
    apart = np.array([[[0., 9. * i, 5., 9. * i + 5.] for i in range(6)]])
    assert run_nms(engine, mode, apart, np.array([[1., 3., 1., 3., 2., 1.]]), .5, 4) == [[1, 3, 4, 0]]
    assert run_nms(engine, mode, apart, np.array([[1., 3., 1., 3., 2., 1.]]), .5, 99) == [[1, 3, 4, 0, 2, 5]]
    same = np.zeros([1, 6, 4]) + [0, 0, 5, 5]
    assert run_nms(engine, mode, same, np.ones([1, 6]), .5, 4) == [[0]]


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
def test_nms_of_nothing_but_padding_and_of_empty_boxes(engine, mode) -> None:
    """Padding is never kept; an empty box overlaps nothing, not even its equal."""
    box_rows = np.array([[[0., 0., 5., 5.]] * 3, [[2., 2., 2., 2.]] * 3])
    scores = np.array([[boxes.LOWEST] * 3, [-4., -2., -3.]])
    assert run_nms(engine, mode, box_rows, scores, .5, 3) == [[], [1, 2, 0]]


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_nms_of_a_single_set(engine) -> None:
    """[N, 4] gives [K]; groups do not suppress each other."""
    rows, scores = tensor([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]), tensor([.8, .9, .7])
    index, valid = boxes.nms(rows, scores, .5, 3, engine)
    assert index[valid].numpy().tolist() == [1, 2] and valid.numpy().tolist() == [True, True, False]
    index, valid = boxes.nms(rows, scores, .5, 3, engine, tf.constant([0, 1, 0]))
    assert index[valid].numpy().tolist() == [1, 0, 2]


def test_nms_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="^nms: engine is 'gpu'; expected one of 'op', 'xla'$"):
        boxes.nms(tf.zeros([1, 2, 4]), tf.zeros([1, 2]), .5, 2, 'gpu')
    with pytest.raises(ValueError, match=r'^nms: boxes has the shape \(4,\); expected \[M, N, 4\] or \[N, 4\] with'):
        boxes.nms(tf.zeros([4]), tf.zeros([1]), .5, 2)


def greedy(box_rows: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """The definition, one box after another."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind='stable'):
        low = np.maximum(box_rows[i, :2], box_rows[kept, :2])
        common = np.prod(np.maximum(np.minimum(box_rows[i, 2:], box_rows[kept, 2:]) - low, 0), axis=-1)
        sides = box_rows[:, 2:] - box_rows[:, :2]
        union = np.prod(sides[i]) + np.prod(sides[kept], axis=-1) - common
        if (common <= threshold * union).all():
            kept.append(int(i))
    return kept


@pytest.mark.parametrize(('engine', 'mode'), [('op', 'graph'), ('xla', 'jit')])
def test_nms_of_crowded_random_boxes(engine, mode, monkeypatch) -> None:
    """Boxes on whole pixels, scores in tenths: many ties, long chains. Engine 'xla' decides in tiles of 32."""
    monkeypatch.setattr(boxes, 'TILE', 32)
    rng = np.random.default_rng(3)
    corner = rng.integers(0, 12, (6, 80, 2))
    box_rows = np.concatenate([corner, corner + rng.integers(3, 9, (6, 80, 2))], -1).astype(np.float64)
    scores = rng.integers(0, 10, (6, 80)) / 10
    expected = [greedy(b, s, .45) for b, s in zip(box_rows, scores, strict=True)]
    assert run_nms(engine, mode, box_rows, scores, .45, 80) == expected
    assert run_nms(engine, mode, box_rows, scores, .45, 8) == [kept[:8] for kept in expected]
