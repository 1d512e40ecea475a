"""Matching, sampling and mask targets: cases worked by hand (the reference's tables: tests/parity)."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.ops import targets
from tests.modes import ENGINES_AND_MODES, MODES, ours


def seed() -> tf.Tensor:
    return tf.constant([7, 0])


def match_rows(candidates, gt_boxes, positive=.7, negative=.3, low_quality=True, crowd_iof=1., usable=None, crowd=None,
               background=0.):
    """Labels and matched indices of one image, as lists."""
    gt = tf.constant([gt_boxes], tf.float32)
    flags = [tf.constant([flag if flag is not None else [default] * gt.shape[1]])
             for flag, default in ((usable, True), (crowd, False))]
    found = targets.match(tf.constant(candidates, tf.float32), gt, *flags, positive, negative, low_quality, crowd_iof,
                          background)
    assert found.label.dtype == found.matched_gt_index.dtype == tf.int32
    return found.label[0].numpy().tolist(), found.matched_gt_index[0].numpy().tolist()


BOX = [0., 0., 10., 10.]


def test_matching_by_hand() -> None:
    """IoU 1, 0.7 (equality is positive), 0.5 (between), 0.3 (equality is not negative), 0.29 and 0."""
    candidates = [BOX, [0, 0, 7, 10], [0, 0, 5, 10], [0, 0, 3, 10], [0, 0, 2.9, 10], [50, 50, 60, 60]]
    assert match_rows(candidates, [BOX]) == ([1, 1, -1, -1, 0, 0], [0] * 6)


def test_background_has_a_lower_threshold() -> None:
    """Fast 2.3: IoU 0.5 is positive, 0.4 and 0.1 (equality) negative, 0.09 and 0 ignored; without objects all are."""
    candidates = [[0, 0, 5, 10], [0, 0, 4, 10], [0, 0, 1, 10], [0, 0, .9, 10], [50, 50, 60, 60]]
    settings = dict(positive=.5, negative=.5, low_quality=False, background=.1)
    assert match_rows(candidates, [BOX], **settings) == ([1, 0, 0, -1, -1], [0] * 5)
    assert match_rows(candidates, [BOX], usable=[False], **settings) == ([-1] * 5, [0] * 5)


def test_a_poorly_covered_object_takes_its_best_candidates_all_that_tie() -> None:
    """Both halves of it are positive at IoU 0.5; an object that nothing overlaps takes none."""
    halves = [[0, 0, 5, 10], [5, 0, 10, 10], [0, 0, 4, 10], [50, 50, 60, 60]]
    gt = [BOX, [200., 200., 210., 210.]]
    assert match_rows(halves, gt) == ([1, 1, -1, 0], [0, 0, 0, 0])
    assert match_rows(halves, gt, low_quality=False) == ([-1, -1, -1, 0], [0, 0, 0, 0])


def test_a_candidate_goes_to_the_object_that_it_overlaps_most() -> None:
    """Even if it is positive only as another's best: at IoU 0.5 with the large object, 0.01 with the tiny one."""
    large, tiny = [0., 0., 10., 5.], [7., 7., 8., 8.]
    assert match_rows([BOX, large], [large, tiny]) == ([1, 1], [0, 0])
    assert match_rows([BOX, large], [tiny, large]) == ([1, 1], [1, 1])
    assert match_rows([BOX, large], [large]) == ([-1, 1], [0, 0])


def test_equal_overlaps_go_to_the_first_object() -> None:
    assert match_rows([BOX], [[0, 0, 10, 8], [0, 2, 10, 10], [0, 0, 8, 10]], positive=.5) == ([1], [0])


def test_slots_without_an_object_match_nothing() -> None:
    """Not even where a box stands in the slot; without any object all candidates are negative."""
    candidates = [BOX, [0., 0., 0., 0.]]
    assert match_rows(candidates, [BOX, [0.] * 4], usable=[False, True]) == ([0, 0], [0, 0])
    assert match_rows(candidates, [BOX, [0.] * 4], usable=[False, False]) == ([0, 0], [0, 0])


def test_candidates_in_a_crowd_are_ignored() -> None:
    """Those with more than 0.7 of their own area inside and no object of their own; small ones all the same."""
    crowd_box = [0., 0., 100., 100.]
    candidates = [[10., 10., 20., 20.], [95., 0., 105., 10.], [91., 0., 101., 10.], [0., 0., 12., 10.], [200.] * 4]
    gt, flags = [crowd_box, BOX], {'usable': [False, True], 'crowd': [True, False]}
    assert match_rows(candidates, gt, crowd_iof=.7, **flags) == ([-1, 0, -1, 1, 0], [0, 0, 0, 1, 0])
    assert match_rows(candidates, gt, crowd_iof=1., **flags) == ([0, 0, 0, 1, 0], [0, 0, 0, 1, 0])


def test_each_image_has_its_own_candidates_or_all_the_same() -> None:
    gt = tf.constant([[BOX], [[20., 20., 30., 30.]]])
    flags = tf.ones([2, 1], tf.bool), tf.zeros([2, 1], tf.bool)
    common = tf.constant([BOX, [20., 20., 30., 30.]])
    assert targets.match(common, gt, *flags, .7, .3, True, .7).label.numpy().tolist() == [[1, 0], [0, 1]]
    own = tf.stack([common, common[::-1]])
    assert targets.match(own, gt, *flags, .7, .3, True, .7).label.numpy().tolist() == [[1, 0], [1, 0]]


def match_by_definition(candidates, gt_boxes, usable, crowd):
    """Labels and matched indices of one image by the docstring, all pairs at once, in numpy."""
    low = np.maximum(gt_boxes[:, None, :2], candidates[None, :, :2])
    sides = np.maximum(np.minimum(gt_boxes[:, None, 2:], candidates[None, :, 2:]) - low, 0)
    common = sides[..., 0] * sides[..., 1]                                                    # [G, N]
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (gt_boxes, candidates)]
    overlap = np.where(usable[:, None], common / (areas[0][:, None] + areas[1] - common), np.float32(-1))
    best, highest = overlap.max(0), overlap.max(1, keepdims=True)
    label = np.select([(best >= .7) | ((overlap == highest) & (highest > 0)).any(0), best < .3], [1, 0], -1)
    label[(label == 0) & (np.where(crowd[:, None], common / areas[1], 0).max(0) > .7)] = -1
    return label, np.where(label == 1, overlap.argmax(0), 0)


@pytest.mark.parametrize('run', [targets.match, targets.match.python_function], ids=['compiled', 'kernels'])
def test_matching_many_by_the_definition(run) -> None:
    """Boxes on a grid, whose overlaps are exact up to the division, so that many tie; slots without an object lie
    between others and at the end."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 30, (3, 800, 2)) * 4
    boxes = np.concatenate([corner, corner + rng.integers(1, 9, (3, 800, 2)) * 4], -1).astype(np.float32)
    candidates, gt_boxes = boxes[0], boxes[1:, :40]
    kinds = rng.choice(['none', 'object', 'crowd'], (2, 40), p=[.2, .7, .1])
    kinds[:, 30:] = 'none'
    usable, crowd = kinds == 'object', kinds == 'crowd'
    found = run(*map(tf.constant, (candidates, gt_boxes, usable, crowd)), .7, .3, True, .7)
    for image in range(2):
        label, matched = match_by_definition(candidates, gt_boxes[image], usable[image], crowd[image])
        assert min(np.bincount(label + 1)) >= 20
        np.testing.assert_array_equal(found.label[image], label)
        np.testing.assert_array_equal(found.matched_gt_index[image], matched)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('positives', 'negatives', 'drawn_positive', 'drawn_negative'), [
    (100, 100, 4, 12), (3, 100, 3, 13), (100, 5, 4, 5), (0, 100, 0, 16), (100, 0, 4, 0), (0, 0, 0, 0), (2, 3, 2, 3)])
def test_how_many_are_drawn(mode, positives, negatives, drawn_positive, drawn_negative) -> None:
    """16 slots, a quarter of them positive at most; negatives fill the rest; positives first, then negatives."""
    labels = np.full([2, 250], -1)
    labels[0, 10:10 + positives], labels[0, 120:120 + negatives] = 1, 0
    samples, most = MODES[mode](lambda x: targets.sample(x, 16, .25, seed()))(tf.constant(labels, tf.int32))
    assert int(most) == 4 and samples.index.shape == samples.positive.shape == samples.valid.shape == [2, 16]
    drawn = drawn_positive + drawn_negative
    assert samples.positive[0].numpy().tolist() == [s < drawn_positive for s in range(16)]
    assert samples.valid[0].numpy().tolist() == [s < drawn for s in range(16)]
    index = samples.index[0].numpy()
    assert (labels[0, index[:drawn_positive]] == 1).all() and (labels[0, index[drawn_positive:drawn]] == 0).all()
    assert len(set(index[:drawn])) == drawn                                # without repetition
    assert not index[drawn:].any()
    assert not samples.valid[1].numpy().any() and not samples.index[1].numpy().any()


def test_fewer_candidates_than_slots() -> None:
    """The shapes shrink to what there is, the share of positives stays that of the limit."""
    samples, most = targets.sample(tf.constant([[1, 0, 1, 1, -1, 0]]), 8, .25, seed())
    assert most == 2 and samples.index.shape == [1, 6]
    assert samples.positive.numpy().sum() == 2 and samples.valid.numpy().sum() == 4
    samples, most = targets.sample(tf.constant([[1, 1, 1]]), 512, 1., seed())
    assert most == 3 and sorted(samples.index[0].numpy().tolist()) == [0, 1, 2]


def test_draws_depend_on_the_seed_and_on_the_image_only() -> None:
    labels = tf.constant([[1] * 40 + [0] * 200] * 2)
    first = targets.sample(labels, 32, .5, tf.constant([1, 4]))[0].index.numpy()
    np.testing.assert_array_equal(first, targets.sample(labels, 32, .5, tf.constant([1, 4]))[0].index)
    for seed in ([2, 4], [1, 5], [1, 6]):
        assert (np.sort(first) != np.sort(targets.sample(labels, 32, .5, tf.constant(seed))[0].index)).any()
    assert (np.sort(first[0]) != np.sort(first[1])).any()


def test_a_seed_draws_the_same_in_every_mode() -> None:
    """Also where it is a constant, which TensorFlow computes ahead."""
    labels = tf.constant(np.random.default_rng(0).integers(-1, 2, (2, 300)), tf.int32)
    expected = targets.sample(labels, 64, .5, seed())[0].index
    for mode in MODES:
        np.testing.assert_array_equal(MODES[mode](lambda x, s: targets.sample(x, 64, .5, s)[0].index)(labels, seed()),
                                      expected)
        np.testing.assert_array_equal(MODES[mode](lambda x: targets.sample(x, 64, .5, seed())[0].index)(labels),
                                      expected)


def test_draws_are_even() -> None:
    """Of 20 positives and 20 negatives half are drawn: over 200 seeds each about 100 times (sigma 7)."""
    counts = np.zeros(40)
    draw = tf.function(lambda seed: targets.sample(tf.constant([[1, 0] * 20]), 20, .5, seed)[0].index)
    for seed in range(200):
        counts[draw(tf.constant([seed, 0]))[0].numpy()] += 1
    assert counts.sum() == 4000 and np.abs(counts - 100).max() < 35


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
def test_the_hardest_of_those_that_overlap(engine, mode) -> None:
    """By loss: B, then a positive of 3; its copy (IoU 0.9) of 2.9 falls, its half (0.5) of 2 does not; what is ignored
    is not taken, however hard. In the second image what is not a number comes first, and a slot stays empty."""
    half, copy, b, c = [0., 0., 5., 10.], [0., 0., 9., 10.], [20., 0., 30., 10.], [40., 0., 50., 10.]
    boxes = tf.constant([[BOX, copy, half, b, c]] * 2)
    losses = tf.constant([[3., 2.9, 2., 4., 99.], [1., 2., 3., np.nan, 5.]])
    label = tf.constant([[1, 1, 1, 0, -1], [-1, -1, 0, 0, -1]])
    found = MODES[mode](lambda *x: targets.hardest(*x, 3, .7, engine))(label, boxes, losses)
    assert found.index.numpy().tolist() == [[3, 0, 2], [3, 2, 0]]
    assert found.positive.numpy().tolist() == [[False, True, True], [False] * 3]
    assert found.valid.numpy().tolist() == [[True] * 3, [True, True, False]]


def test_what_is_gathered_for_each_sample() -> None:
    values = tf.constant([[10, 20, 30], [40, 50, 60]])
    assert targets.gather_matched(values, tf.constant([[2, 0], [1, 1]])).numpy().tolist() == [[30, 10], [50, 50]]


def test_binary_mask_targets_are_cut_at_a_half(ops_kit) -> None:
    masks = ops_kit['target_masks'][ops_kit['target_matched']] * 255
    extent = tf.tile(tf.constant([[0., 0., *masks.shape[1:]]]), [len(masks), 1])
    found = targets.mask_targets(ours(ops_kit['target_boxes']), tf.constant(masks), extent, 28, False, True)
    clear = np.abs(ops_kit['target_out'] - .5) > 1e-4
    np.testing.assert_array_equal(found.numpy()[clear], ops_kit['target_out'][clear] > .5)
    even = targets.mask_targets(tf.constant([[0., 0., 1., 1.]]), tf.constant([[[.5]]]), tf.constant([[0., 0., 1., 1.]]),
                                1, True, True)
    assert even.numpy().tolist() == [[[1]]]


def test_a_mask_stored_over_its_box_by_hand() -> None:
    """An object of 8 x 8 px at (10, 20), its left half full, in 4 x 4 cells. A RoI of the box reads those cells; a RoI
    of twice the size about it reads them in the middle and nothing around; one that misses it reads nothing."""
    mask = tf.constant([[[255, 255, 0, 0]] * 4] * 3, tf.uint8)
    extent = tf.constant([[10., 20., 18., 28.]] * 3)
    rois = tf.constant([[10., 20., 18., 28.], [6., 16., 22., 32.], [40., 50., 60., 60.]])
    found = targets.mask_targets(rois, mask, extent, 4, True, True).numpy()
    assert found[0].tolist() == [[1, 1, 0, 0]] * 4
    assert found[1].tolist() == [[0] * 4, [0, 1, 0, 0], [0, 1, 0, 0], [0] * 4]
    assert not found[2].any()


def test_a_box_crop_gives_what_the_whole_image_gives() -> None:
    """A mask on whole pixels, cut to its box, loses nothing: RoIs inside get the same targets."""
    rng = np.random.default_rng(0)
    whole = np.zeros([1, 40, 50], np.float32)
    whole[0, 8:24, 12:36] = rng.integers(0, 2, (16, 24))
    roi = tf.constant([[9.3, 13.1, 22.2, 33.7]])
    from_whole, from_crop = (
        targets.mask_targets(roi, tf.constant(masks), tf.constant([extent]), 14, True, False)
        for masks, extent in ((whole, [0., 0., 40., 50.]), (whole[:, 8:24, 12:36], [8., 12., 24., 36.])))
    np.testing.assert_allclose(from_crop, from_whole, atol=1e-4)
    assert .2 < from_whole.numpy().mean() < .8


@pytest.mark.parametrize(('aligned', 'expected'), [(False, .45), (True, .36)])
def test_a_roi_of_less_than_a_pixel_by_hand(aligned, expected) -> None:
    """0.2 px at 4 on a ramp that is i / 10 at the centre of pixel i, i + 0.5. Aligned, its middle is at 4.1. Unaligned,
    it counts as a whole pixel and pixels lie at i: its middle is at 4.5."""
    ramp = tf.tile(tf.range(10.)[None, :, None] / 10., [1, 1, 10])
    found = targets.mask_targets(tf.constant([[4., 4., 4.2, 4.2]]), ramp, tf.constant([[0., 0., 10., 10.]]), 1, aligned,
                                 False)
    np.testing.assert_allclose(found, [[[expected]]], rtol=1e-5)


@pytest.mark.parametrize('aligned', [False, True])
def test_mask_targets_of_empty_boxes_are_finite(aligned) -> None:
    """The padding of RoIs, and objects without area."""
    empty = tf.constant([[0., 0., 0., 0.], [5., 5., 5., 9.]])
    for rois, extent in ((empty, empty), (empty, empty + [0., 0., 8., 8.]), (empty + [0., 0., 8., 8.], empty)):
        found = targets.mask_targets(rois, tf.fill([2, 6, 6], tf.constant(255, tf.uint8)), extent, 4, aligned, False)
        assert np.isfinite(found).all() and found.numpy().min() >= 0 and found.numpy().max() <= 1 + 1e-6


def test_half_of_a_cell_counts_as_set() -> None:
    """Each cell has 3 x 6 samples, 3 columns of which are in the mask, wherever its rows lie: exactly a half."""
    mask = np.zeros([1, 12, 12], np.uint8)
    mask[:, :, 3:9] = 255
    y = np.linspace(1, 4, 50, dtype=np.float32)
    rois = np.stack([y, 0 * y, y + 6, 0 * y + 12], axis=1)                                     # 2 x 2 cells of 3 x 6 px
    extent = np.tile(np.float32([[0, 0, 12, 12]]), [50, 1])
    found = targets.mask_targets(tf.constant(rois), tf.constant(mask.repeat(50, 0)), tf.constant(extent), 2, True, True)
    np.testing.assert_array_equal(found, 1.)
