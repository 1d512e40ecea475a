"""The box of one annotation of a COCO json: invalid, clipped and rotated boxes, with expected values by hand."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_tools.formats import coco_boxes, segmentation
from data_tools.issues import InvalidDataError


def region(mask: np.ndarray) -> segmentation.Region:
    return segmentation.Region(mask, 2, 3, float(mask.sum()))      # rows 2.., columns 3..


MASK = region(np.ones([4, 5], np.uint8))


def read(annotation: dict[str, Any], mask: segmentation.Region | None = None) -> tuple[Any, list[str], list[str]]:
    """Return the box and the reasons of its repairs and warnings, in an image 60 high and 80 wide."""
    box, repairs, warnings = coco_boxes.read(annotation, mask, (60, 80), 'xywh')
    return box, [issue.reason for issue in repairs], [issue.reason for issue in warnings]


@pytest.mark.parametrize('bbox', [None, [], [0, 0, 0, 0], [8, 10, 0, 5], [8, 10, -2, 5], 'x', [1, 2, 3], [None] * 4,
                                  [float('nan'), 1, 2, 3], [1, 2, 3, 4, 30]], ids=str)
def test_an_invalid_box_is_replaced_by_that_of_the_mask(bbox: Any) -> None:
    assert read({'bbox': bbox}, MASK) == ((2, 3, 6, 8), ['box computed'], [])
    with pytest.raises(InvalidDataError):
        read({'bbox': bbox})


def test_a_box_outside_the_image_is_not_replaced() -> None:
    with pytest.raises(InvalidDataError, match='box outside the image'):
        read({'bbox': [90, 1, 5, 5]}, MASK)


def test_numbers_written_as_texts() -> None:
    assert read({'bbox': ['3', '2.0', 5, '4']}) == ((2, 3, 6, 8), ['numbers written as text'], [])


@pytest.mark.parametrize(('degrees', 'expected'), [
    (0, (10, 20, 20, 40)), (180., (10, 20, 20, 40)), (360, (10, 20, 20, 40)),
    (90, (5, 25, 25, 35)), (-270, (5, 25, 25, 35)),
    # cosine and sine 0.7071: half sides (10 + 20) 0.7071 / 2 = 10.6066 around 15, 30
    (45, (15 - 10.6066, 30 - 10.6066, 15 + 10.6066, 30 + 10.6066)), (-45, (4.3934, 19.3934, 25.6066, 40.6066)),
    # cosine 0.8660, sine 0.5: half height (8.660 + 10) / 2 = 9.330, half width (5 + 17.320) / 2 = 11.160
    (30, (5.66987, 18.83975, 24.33013, 41.16025))])
def test_a_rotated_box_becomes_the_upright_one_around_it(degrees: float, expected: tuple[float, ...]) -> None:
    box, repairs, warnings = read({'bbox': [20, 10, 20, 10], 'attributes': {'rotation': degrees}})
    assert box == pytest.approx(expected, abs=1e-4) and warnings == []
    assert repairs == ([] if degrees % 180 == 0 else ['rotated box'])


def test_a_rotated_box_is_replaced_by_that_of_the_mask() -> None:
    assert read({'bbox': [3, 2, 5, 4], 'attributes': {'rotation': 33.}}, MASK) == ((2, 3, 6, 8), ['box computed'], [])


def test_a_fifth_number() -> None:
    assert read({'bbox': [3, 2, 5, 4, 0]}) == ((2, 3, 6, 8), ['box with an angle of 0'], [])
    with pytest.raises(InvalidDataError, match='rotated box: .* its fifth number may be an angle or a score'):
        read({'bbox': [3, 2, 5, 4, 30.0]})


@pytest.mark.parametrize('extra', [{'angle': 0.3}, {'rotation': 30}, {'attributes': {'theta': -1}}], ids=str)
def test_a_possible_angle_gives_a_warning(extra: dict[str, Any]) -> None:
    assert read({'bbox': [3, 2, 5, 4], **extra}) == ((2, 3, 6, 8), [], ['perhaps a rotated box'])


@pytest.mark.parametrize('extra', [
    {'angle': 0}, {'attributes': None}, {'attributes': {'rotation': 'x'}}, {'attributes': {'rotation': 10 ** 400}},
    {'attributes': {'rotation': float('nan')}}, {'theta': True}], ids=lambda each: str(each)[:40])
def test_values_that_are_no_angle(extra: dict[str, Any]) -> None:
    assert read({'bbox': [3, 2, 5, 4], **extra}) == ((2, 3, 6, 8), [], [])
