"""Boxes and areas, by hand."""
from __future__ import annotations

import numpy as np
import pytest

from data_tools import objects
from data_tools.issues import InvalidDataError

MASK = np.zeros([6, 9], bool)
MASK[2:4, 3] = MASK[3, 3:8] = True     # rows 2..3, columns 3..7


def test_a_masks_box_ends_after_its_last_pixel() -> None:
    assert objects.mask_box(MASK) == (2, 3, 4, 8)
    assert objects.mask_box(np.ones([1, 1])) == (0, 0, 1, 1)
    assert objects.box_area(objects.mask_box(MASK)) == 10


@pytest.mark.parametrize('box, expected', [
    ((2, 3, 4, 8), []),
    ((2, 3, 4, 5), ['box and mask disagree']),      # 4 of 10
    ((2, 3, 4, 5.5), []),                           # 5 of 10
    ((0, 3, 4, 8), []),                             # 10 of 20
    ((4, 3, 6, 8), ['box and mask disagree']),      # touches
])
def test_boxes_that_hardly_overlap_their_mask(box: objects.Box, expected: list[str]) -> None:
    assert [fault.reason for fault in objects.disagreement(box, objects.mask_box(MASK))] == expected


def test_the_disagreement_names_both_boxes() -> None:
    [fault] = objects.disagreement((3, 2, 8, 4), objects.mask_box(MASK))      # x and y exchanged
    assert fault.detail == 'the box is 3.0, 2.0, 8.0, 4.0, that of the mask 2.0, 3.0, 4.0, 8.0 (y1, x1, y2, x2)'


def test_clip() -> None:
    assert objects.clip((1, 2, 3, 4), (10, 10), 'b') == ((1, 2, 3, 4), [])
    box, [fault] = objects.clip((-1, 2, 3, 12.5), (10, 10), 'box b')
    assert box == (0, 2, 3, 10) and fault == ('box clipped', 'box b went 2.50 px beyond the image')
    assert objects.clip((0, 0, 0.1, 0.1), (10, 10), 'b')[0][3] == float(np.float32(0.1))


@pytest.mark.parametrize('box, reason', [
    ((1, 2, 1, 4), 'box without area'), ((1, 4, 3, 2), 'box without area'), ((10, 0, 11, 3), 'box outside the image'),
    ((0, -3, 3, 0), 'box outside the image'), ((float('nan'), 0, 1, 1), 'non-finite numbers'),
    ((0, 0, 1, 10 ** 400), 'non-finite numbers')])
def test_invalid_boxes(box: objects.Box, reason: str) -> None:
    with pytest.raises(InvalidDataError) as error:
        objects.clip(box, (10, 10), 'b')
    assert error.value.issue.reason == reason


def test_areas() -> None:
    assert objects.area(None, 6.0) == (6.0, []) and objects.area(5, 6.0) == (5.0, [])
    for value in (0, -1, float('nan'), 10 ** 400, 'x', True):
        area, [fault] = objects.area(value, 6.0)
        assert (area, fault.reason) == (6.0, 'area computed')
