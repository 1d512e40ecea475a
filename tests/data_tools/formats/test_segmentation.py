"""COCO segmentations: masks by hand, and against pycocotools."""
from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.formats import segmentation
from data_tools.issues import InvalidDataError, Issue

SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]      # x, y: the pixels of rows and columns 1 and 2
NAN, INFINITE = float('nan'), float('inf')


def decode(value: Any, height: int, width: int) -> tuple[np.ndarray, list[Issue]]:
    """The mask of the whole image."""
    region, issues = segmentation.decode(value, height, width)
    mask = np.zeros((height, width), region.pixels.dtype)
    top, left, bottom, right = map(int, region.box)
    mask[top:bottom, left:right] = region.pixels
    assert region.pixels.any(axis=1)[[0, -1]].all() and region.pixels.any(axis=0)[[0, -1]].all()     # it is tight
    assert region.area == mask.sum()
    return mask, issues


def pixels(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros([4, 6], np.uint8)
    mask[rows, columns] = 1
    return mask


def test_polygon() -> None:
    mask, issues = decode([SQUARE], 4, 6)
    assert mask.dtype == np.uint8 and issues == []
    np.testing.assert_array_equal(mask, pixels(slice(1, 3), slice(1, 3)))


def test_polygons_are_joined_and_cut_at_the_border() -> None:
    mask, issues = decode([SQUARE, [4.0, 0.0, 9.0, 0.0, 9.0, 4.0, 4.0, 4.0]], 4, 6)
    np.testing.assert_array_equal(mask, pixels(slice(1, 3), slice(1, 3)) | pixels(slice(0, 4), slice(4, 6)))
    assert issues == []


def test_rle_runs_down_the_columns() -> None:
    # Column 0 of 4 and the first of column 1 are 0; then rows 1, 2 of column 1 and so on.
    mask, _ = decode({'size': [4, 6], 'counts': [5, 2, 2, 2, 13]}, 4, 6)
    np.testing.assert_array_equal(mask, pixels(slice(1, 3), slice(1, 3)))
    text = coco_mask.encode(np.asfortranarray(mask))['counts'].decode()
    np.testing.assert_array_equal(decode({'size': [4, 6], 'counts': text}, 4, 6)[0], mask)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2 ** 32 - 1))
def test_compressed_rle_is_read_as_pycocotools_reads_it(height: int, width: int, share: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    mask[seed % height, seed % width] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    pixels, _ = decode({'size': [height, width], 'counts': rle['counts'].decode()}, height, width)
    np.testing.assert_array_equal(pixels, mask)


@pytest.mark.parametrize('polygon, reason', [
    ([1, 1, 3, 3], 'polygon with fewer than 3 points'),
    ([1, 1, 3, 1, 3, 3, 1], 'malformed polygon'),
    ([1, 1, 3, 1, 3, '3'], 'malformed polygon'),
    ([1, 1, 3, 1, 3, True], 'malformed polygon'),
    ([1, 1, 3, 1, 3, 1e7], 'malformed polygon'),
    ([1, 1, 3, 1, 3, 10 ** 400], 'malformed polygon'),
    (5, 'malformed polygon'),
    ([1, 1, 3, 1, 3, NAN], 'non-finite numbers'),
    ([1, 1, 3, 1, -INFINITE, 3], 'non-finite numbers'),
])
def test_an_invalid_polygon_is_dropped_or_the_object_if_it_is_alone(polygon: Any, reason: str) -> None:
    mask, issues = decode([polygon, SQUARE], 4, 6)
    np.testing.assert_array_equal(mask, pixels(slice(1, 3), slice(1, 3)))
    assert [fault.reason for fault in issues] == [reason]
    with pytest.raises(InvalidDataError) as error:
        decode([polygon], 4, 6)
    assert error.value.issue.reason == reason


def test_a_negative_run_is_named() -> None:
    with pytest.raises(InvalidDataError, match='it has a run of -2 pixels'):      # together the runs hold 24 pixels
        decode({'size': [4, 6], 'counts': [5, -2, 21]}, 4, 6)


@pytest.mark.parametrize('value, reason', [
    (None, 'malformed segmentation'),
    ([], 'malformed segmentation'),
    (3, 'malformed segmentation'),
    ('4;', 'malformed segmentation'),
    ('[[1, 1, 3', 'malformed segmentation'),
    ({'exterior': [[1, 1], [3, 1], [3, 3]]}, 'malformed RLE'),
    ([[[[[[[[1, 1], [3, 1], [3, 3]]]]]]]], 'malformed polygon'),
    ([[1, 1, 0], [3, 1, 0], [3, 3, 0]], 'malformed polygon'),
    ([[1, 1], [3, 1]], 'polygon with fewer than 3 points'),
    ({'size': [4, 6], 'counts': "b'5'"}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': '5 2 17'}, 'malformed RLE'),
    ({'size': [6, 4], 'counts': [5, 2, 17]}, 'mask of another size'),
    ({'size': '4, 6', 'counts': [5, 2, 17]}, 'mask of another size'),
    ({'size': [4, 6]}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': [5, 2]}, 'malformed RLE'),             # pycocotools reads foreign memory for these
    ({'size': [4, 6], 'counts': [5, 200]}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': [5, -2, 21]}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': [5.5, 1.5, 17]}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': []}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': ''}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': 'zzzz'}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': 'Pé'}, 'malformed RLE'),
    ({'size': [4, 6], 'counts': [24]}, 'empty mask'),
    ([[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], 'empty mask'),
    ([[10, 1, 13, 1, 13, 3]], 'empty mask'),
])
def test_segmentations_that_give_no_mask(value: Any, reason: str) -> None:
    with pytest.raises(InvalidDataError) as error:
        decode(value, 4, 6)
    assert error.value.issue.reason == reason
    assert len(error.value.issue.detail) < 120


@given(st.integers(1, 60), st.integers(1, 60), st.lists(st.lists(st.floats(-20, 80), min_size=6, max_size=12).filter(
    lambda polygon: len(polygon) % 2 == 0), min_size=1, max_size=3))
def test_polygons_as_pycocotools_draws_them(height: int, width: int, polygons: list[list[float]]) -> None:
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    if expected.any():
        np.testing.assert_array_equal(decode(polygons, height, width)[0], expected)
    else:
        with pytest.raises(InvalidDataError, match='empty mask'):
            decode(polygons, height, width)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 9))
def test_any_run_lengths(counts: list[int], height: int) -> None:
    counts = [*counts, -sum(counts) % height]      # runs of nothing are allowed anywhere
    expected = np.repeat(np.arange(len(counts)) % 2, counts).reshape(-1, height).T
    if expected.any():
        pixels, _ = decode({'size': [*expected.shape], 'counts': counts}, *expected.shape)
        np.testing.assert_array_equal(pixels, expected)


def test_the_png_has_the_size_of_the_image() -> None:
    region, _ = segmentation.decode([SQUARE], 4, 6)
    with Image.open(io.BytesIO(region.png(4, 6))) as image:
        np.testing.assert_array_equal(np.array(image), pixels(slice(1, 3), slice(1, 3)))


POINTS = [[1, 1], [3, 1], [3, 3], [1, 3]]
RUNS = [5, 2, 2, 2, 13]       # of the same pixels; its text is 52000;
RIGHT = {'size': [4, 6], 'counts': [16, 4, 4]}      # all of column 4
TEXT = coco_mask.encode(np.asfortranarray(pixels(slice(1, 3), slice(1, 3))))['counts'].decode()


@pytest.mark.parametrize(('value', 'detail'), [
    (SQUARE, 'a polygon that is not in a list'),
    (POINTS, 'a polygon as a list of points'),
    ([POINTS], 'a polygon as a list of points'),
    ([[[x, y]] for x, y in POINTS], 'a polygon as a list of points'),       # OpenCV's contours
    ([{'x': x, 'y': y} for x, y in POINTS], 'a polygon as a list of points'),
    ([[SQUARE]], 'lists within a list'),
    (json.dumps([SQUARE]), 'the text of a list'),
    ([{'size': [4, 6], 'counts': RUNS}], 'an RLE in a list'),
    ({'size': ['4', '6'], 'counts': RUNS}, 'an RLE with its size as texts'),
    ({'counts': RUNS}, 'an RLE without its size'),
    ({'size': [4, 6], 'counts': [5.0, 2, 2, 2, '13']}, 'an RLE with counts that are not written as ints'),
    ({'size': [4, 6], 'counts': [5.0, 2.0, 2.0, 2.0, 13.0]}, 'an RLE with counts that are not written as ints'),
    ({'size': [4, 6], 'counts': str(RUNS)}, 'an RLE with the text of a list as counts'),
    ({'size': [4, 6], 'counts': f"b'{TEXT}'"}, "an RLE with the counts b'...'"),
    ([{'size': ['4', '6'], 'counts': f'b"{TEXT}"'}],
     'an RLE in a list; an RLE with its size as texts; an RLE with the counts b\'...\''),
], ids=str)
def test_other_forms_with_the_same_meaning(value: Any, detail: str) -> None:
    mask, issues = decode(value, 4, 6)
    np.testing.assert_array_equal(mask, pixels(slice(1, 3), slice(1, 3)))
    assert issues == [Issue('segmentation in another form', detail)]


@pytest.mark.parametrize('value', [
    [{'size': [4, 6], 'counts': RUNS}, RIGHT], [RIGHT, SQUARE], [POINTS, [[4, 0], [5, 0], [5, 4], [4, 4]]],
    [[SQUARE], [[4, 0, 5, 0, 5, 4, 4, 4]]]], ids=str)
def test_several_parts_are_one_object(value: Any) -> None:
    mask, [fault] = decode(value, 4, 6)
    np.testing.assert_array_equal(mask, pixels(slice(1, 3), slice(1, 3)) | pixels(slice(0, 4), slice(4, 5)))
    assert fault.reason == 'segmentation in another form'


def test_an_invalid_part_is_dropped() -> None:
    mask, issues = decode([RIGHT, {'size': [6, 4], 'counts': [24]}], 4, 6)
    np.testing.assert_array_equal(mask, pixels(slice(0, 4), slice(4, 5)))
    assert [fault.reason for fault in issues] == ['mask of another size', 'segmentation in another form']
    assert issues[0].detail == ('RLE is [6, 4] (height, width), the image [4, 6]; '
                                'perhaps height and width are exchanged')


def test_counts_that_are_the_text_of_python_bytes() -> None:
    r"""A run of 44 - 2^5 is a backslash in COCO's text: 92 - 48 = 44."""
    mask = np.zeros([4, 60], np.uint8)
    mask[:, 30:40] = 1
    code = next(counts for k in range(1, 60) for counts in [coco_mask.encode(np.asfortranarray(
        np.repeat([[0] * k + [1] * 20 + [0] * (40 - k)] if k < 40 else [[0] * 59 + [1]], 4, axis=0).astype(np.uint8)
    ))['counts']] if b'\\' in counts)
    expected = coco_mask.decode({'size': [4, 60], 'counts': code})
    pixels, _ = decode({'size': [4, 60], 'counts': str(code)}, 4, 60)
    np.testing.assert_array_equal(pixels, expected)


def test_fractions_of_the_image() -> None:
    unit = [v / side for v, side in zip(SQUARE, (6, 4) * 4, strict=True)]
    region, [fault] = segmentation.decode([unit], 4, 6, fractions=True)
    assert region.box == (1, 1, 3, 3) and fault.detail == 'fractions of the image'
    assert segmentation.decode([SQUARE], 4, 6, fractions=True)[1] == []


@pytest.mark.parametrize('value', [None, [], {}, '', [[]], [{}], [None]], ids=str)
def test_missing_segmentations(value: Any) -> None:
    assert segmentation.is_missing(value)


@pytest.mark.parametrize('value', [
    [SQUARE], SQUARE, {'size': [4, 6], 'counts': RUNS}, 0, 'x', [0], [[], SQUARE]], ids=str)
def test_segmentations_that_are_not_missing(value: Any) -> None:
    assert not segmentation.is_missing(value)
