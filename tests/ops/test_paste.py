"""Pasting: windows worked by hand, the bilinear rule written naively, memory on large images."""
from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_tf.ops import paste

HALF = np.array([[[1, 0], [1, 0]]], np.float32)    # the left column of 2 x 2 cells
FULL = np.ones((1, 2, 2), np.float32)


def probabilities(masks, boxes, height, width, dialect):
    """The pasted probabilities of every mask, [n, height, width]."""
    images = np.zeros((len(masks), height, width), np.float32)
    for image, mask, window in zip(images, masks, paste.windows(masks, boxes, height, width, dialect), strict=True):
        top, left, rows, columns = window
        image[top:top + len(rows), left:left + len(columns)] = rows @ mask @ columns.T
    return images


def test_pixel_centres_by_hand():
    # cells are 2 px wide with centres at 1 and 3; pixel centres 0.5, 1.5, 2.5, 3.5 lie 1/4 cell beside them
    out = probabilities(HALF, np.array([[0., 0, 4, 4]]), 4, 4, 'pixel_center')[0]
    np.testing.assert_allclose(out, np.outer([.75, 1, 1, .75], [.75, .75, .25, 0]), atol=1e-7)


def test_pixel_centres_fade_half_a_cell_beyond_the_box():
    out = probabilities(FULL, np.array([[0., 2, 8, 6]]), 8, 8, 'pixel_center')[0]
    np.testing.assert_allclose(out[3], [0, .25, .75, 1, 1, .75, .25, 0], atol=1e-7)


def test_detectron_by_hand():
    # grown by 4/2 about its centre 4: 2..6, 5 px with the one added; pixel i is at (i + .5) 4/5 - 1.5 among the cells
    out = probabilities(FULL, np.array([[3., 3, 5, 5]]), 9, 9, 'detectron')[0]
    np.testing.assert_allclose(out, np.outer([0, 0, 0, .7, 1, .7, 0, 0, 0], [0, 0, 0, .7, 1, .7, 0, 0, 0]), atol=1e-6)


def test_detectron_cuts_corners_towards_zero():
    # -2.5..3.5 becomes -2..3, 6 px; pixel 0 is the third: 2.5 * 4/6 - 1.5 = 1/6, of two cells (1, 0) that is 5/6
    out = probabilities(HALF, np.array([[-1., -1, 2, 2]]), 4, 4, 'detectron')[0]
    np.testing.assert_allclose(out[1], [5 / 6, 1 / 6, 0, 0], atol=1e-6)


@pytest.mark.parametrize('box', [[-3.3, 2.2, 9.1, 7.9], [4, 4, 5, 5], [2.7, 1.1, 3.2, 11.9], [0, 0, 12, 14]])
def test_pixel_centres_equal_the_naive_rule(box):
    mask = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    expected, (y1, x1, y2, x2) = np.zeros((12, 14)), box
    for y in range(12):
        for x in range(14):
            v, u = (y + .5 - y1) / (y2 - y1) * 5 - .5, (x + .5 - x1) / (x2 - x1) * 5 - .5
            for j in range(int(np.floor(v)), int(np.floor(v)) + 2):
                for i in range(int(np.floor(u)), int(np.floor(u)) + 2):
                    if 0 <= j < 5 and 0 <= i < 5:
                        expected[y, x] += (1 - abs(v - j)) * (1 - abs(u - i)) * mask[j, i]
    out = probabilities(mask[None], np.array([box]), 12, 14, 'pixel_center')[0]
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize('dialect', ['pixel_center', 'detectron'])
@pytest.mark.parametrize('box', [[20, 20, 30, 30], [-30, 2, -20, 6], [2, 50, 6, 60], [-1e7, -1e7, -9e6, -9e6]])
def test_a_box_outside_pastes_nothing(dialect, box):
    (mask,) = paste.paste(FULL, np.array([box], np.float32), 10, 12, dialect)
    assert mask.shape == (10, 12) and mask.dtype == np.uint8 and not mask.any()


@pytest.mark.parametrize('box', [[3, 3, 3, 8], [3, 3, 8, 3], [3, 3, 3, 3], [5, 5, 4, 4]])
def test_a_box_without_area_is_empty(box):
    (mask,) = paste.paste(FULL, np.array([box], np.float32), 10, 12, 'pixel_center')
    assert not mask.any()


def test_threshold_is_inclusive():
    # three cells of 1 px: pixel centres fall on cells, so the probabilities are those of the mask
    masks = np.array([[[.5, .49, .51]] * 3], np.float32)
    (mask,) = paste.paste(masks, np.array([[0., 0, 3, 3]]), 3, 3, 'pixel_center')
    assert mask[1].tolist() == [1, 0, 1]
    (mask,) = paste.paste(masks, np.array([[0., 0, 3, 3]]), 3, 3, 'pixel_center', threshold=.505)
    assert mask[1].tolist() == [0, 0, 1]


def test_no_masks():
    assert list(paste.paste(np.zeros((0, 28, 28)), np.zeros((0, 4)), 5, 5, 'detectron')) == []
    assert paste.to_rle(np.zeros((0, 28, 28)), np.zeros((0, 4)), 5, 5, 'pixel_center') == []
    assert paste.paste_all(np.zeros((0, 28, 28)), np.zeros((0, 4)), 5, 5, 'pixel_center').shape == (0, 5, 5)


def test_rle_by_hand():
    # 2 x 3 image, down the columns 0 1 | 1 1 | 0 0: runs of 1, 3, 2 pixels, each small number n written as chr(48 + n)
    rle = paste.encode(np.array([[0, 1, 0], [1, 1, 0]]))
    assert rle == {'size': [2, 3], 'counts': '132'} and json.loads(json.dumps(rle)) == rle


def test_rle_holds_the_pasted_mask():
    masks = np.random.default_rng(1).random((3, 28, 28)).astype(np.float32)
    boxes = np.array([[1.5, 2.5, 30, 40], [-5, -5, 20, 20], [30, 30, 60, 70]], np.float32)
    codes = paste.to_rle(masks, boxes, 40, 50, 'pixel_center')
    for code, mask in zip(codes, paste.paste(masks, boxes, 40, 50, 'pixel_center'), strict=True):
        assert mask.any() and (coco_mask.decode(code) == mask).all()


@pytest.mark.parametrize('dialect', ['pixel_center', 'detectron'])
def test_windows_give_the_whole_mask(dialect):
    """Boxes within the image, over each edge, of all its height or width, larger than it, outside, and empty."""
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.uniform(-20, 60, (40, 4)), [
        [0, 3, 40, 20], [-9, 3, 49, 20], [3, 0, 20, 50], [-90, -90, 190, 190], [70, 70, 90, 90], [5, 5, 5, 9]]])
    boxes[:40, 2:] = boxes[:40, :2] + rng.uniform(0, 50, (40, 2))
    masks = rng.random((len(boxes), 7, 7)).astype(np.float32)
    masks[::3] = 1.
    masks[1::9] = 0.
    pasted = list(paste.paste(masks, boxes, 40, 50, dialect))
    whole = [paste.encode(mask) for mask in pasted]
    assert paste.to_rle(masks, boxes, 40, 50, dialect) == whole
    assert len({code['counts'] for code in whole}) > 20
    together = paste.paste_all(masks, boxes, 40, 50, dialect)
    assert together.dtype == bool
    np.testing.assert_array_equal(together, pasted)


def test_bands_do_not_show(monkeypatch):
    masks = np.random.default_rng(2).random((2, 6, 6)).astype(np.float32)
    boxes = np.array([[3., 2, 37, 29], [0, 0, 9, 50]])
    whole = list(paste.paste(masks, boxes, 40, 50, 'pixel_center'))
    monkeypatch.setattr(paste, '_BAND', 100)
    assert (np.stack(whole) == np.stack(list(paste.paste(masks, boxes, 40, 50, 'pixel_center')))).all()


@pytest.mark.parametrize('dialect', ['pixel_center', 'detectron'])
def test_masks_placed_together_are_those_placed_one_by_one(dialect, monkeypatch):
    rng = np.random.default_rng(4)
    corners = rng.uniform(-20, 60, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(-3, 50, (30, 2))], axis=1)
    masks = rng.random((30, 7, 7)).astype(np.float32)
    together = list(paste.windows(masks, boxes, 40, 50, dialect))
    monkeypatch.setattr(paste, '_PIXELS', 1)
    for window, alone in zip(together, paste.windows(masks, boxes, 40, 50, dialect), strict=True):
        assert window[:2] == alone[:2] and (window.rows == alone.rows).all() and (window.columns == alone.columns).all()


@pytest.mark.parametrize(('masks', 'boxes', 'dialect', 'message'), [
    (FULL, [[0, 0, 1, 1]], 'opencv', "dialect 'opencv': expected one of pixel_center, detectron"),
    (FULL, [[0, 0, 1, 1]] * 2, 'detectron', r'masks \(1, 2, 2\) and boxes \(2, 4\)'),
    (np.repeat(FULL, 2, 0), [[0, 0, 1, 1], [0, 0, np.nan, 1]], 'pixel_center', 'box 1 is not finite')])
def test_bad_arguments(masks, boxes, dialect, message):
    with pytest.raises(ValueError, match=message):
        list(paste.paste(masks, np.array(boxes, np.float64), 5, 5, dialect))


def test_memory_on_a_large_image_is_one_mask():
    height, width = 8000, 4000
    masks, boxes = np.ones((4, 28, 28), np.float32), np.tile([[0., 0, height, width]], (4, 1))
    tracemalloc.start()
    try:
        codes = paste.to_rle(masks, boxes, height, width, 'pixel_center')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(codes) == 4
    # the mask, the copy that is encoded and one band of float32; four masks, or one of float32, would be 128 MB
    assert peak < 2 * height * width + 16e6
