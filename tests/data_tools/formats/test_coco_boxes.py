"""Formats of boxes, by hand; and that no ordinary set is taken for one of another format."""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from data_tools.formats import coco_boxes, segmentation
from data_tools.issues import ConversionError, Unusable
from tests.paths import SHARED

# x, y, width, height in an image 60 high and 80 wide, at every edge
BOXES = [[0, 0, 30, 20], [50, 30, 30, 30], [4, 40, 20, 20], [60, 0, 20, 10], [30, 10, 12, 16], [8, 10, 20, 16]]
SIZE = (60, 80)


def written(name: str, box: Sequence[float]) -> list[float]:
    """x, y, width, height in another format, worked out anew."""
    x, y, w, h = box
    values = {'xywh': [x, y, w, h], 'xyxy': [x, y, x + w, y + h], 'cxcywh': [x + w / 2, y + h / 2, w, h],
              'yxyx': [y, x, y + h, x + w]}[name.rpartition('-')[2]]
    sides = [SIZE[0], SIZE[1]] * 2 if name.endswith('yxyx') else [SIZE[1], SIZE[0]] * 2
    unit = name.rpartition('-')[0]
    whole = {'normalized': 1, 'percent': 100}.get(unit, 1)
    return [whole * v / side for v, side in zip(values, sides, strict=True)] if unit else values


def survey(annotations: Sequence[dict[str, Any]], size: tuple[int, int] | None = SIZE) -> str:
    """What is said of a set; '' where nothing is."""
    found = coco_boxes.Survey()
    for each in annotations:
        found.add(each)
    try:
        found.check([size] * len(annotations), 'a.json')
    except ConversionError as error:
        return str(error)
    return ''


@pytest.mark.parametrize('name', coco_boxes.NAMES)
def test_each_format_is_read_and_recognised(name: str) -> None:
    """Percents only in images that are larger than a hundred px."""
    said = survey([{'bbox': written(name, box)} for box in BOXES], (600, 800) if name.startswith('percent') else SIZE)
    likely = name.replace('-yxyx', '-xyxy')      # without sizes nothing tells x from y
    assert (f'pass --box-format {likely}, or --box-format xywh to keep them as they are' in said) is (name != 'xywh')
    for x, y, w, h in BOXES:
        found = coco_boxes.corners(name, written(name, (x, y, w, h)), SIZE)
        assert found == pytest.approx((y, x, y + h, x + w))


def test_the_evidence_is_named() -> None:
    corners = [[8, 10, 28, 26], [36, 30, 54, 54], [5, 5, 35, 25], [20, 34, 45, 56], [40, 4, 56, 20]]
    assert survey([{'bbox': box} for box in corners], (64, 64)) == (
        'a.json: 3 of 5 boxes end beyond the image; they look like x1, y1, x2, y2: pass --box-format xyxy, or '
        '--box-format xywh to keep them as they are')
    assert survey([{'bbox': written('normalized-xywh', box)} for box in BOXES]).startswith(
        'a.json: 6 of 6 boxes lie within 0..1; they look like fractions of the image: x, y, width, height: pass ')


NEAR = [[2, 3, 12, 10], [8, 8, 10, 12], [1, 1, 6, 5], [10, 5, 9, 9]]      # as corners they end within the image too


def test_masks_tell_the_format() -> None:
    sets = {name: [{'bbox': written(name, box), 'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]]}
                   for box in NEAR for x, y, w, h in [box]] for name in ('xywh', 'xyxy', 'yxyx')}
    assert survey(sets['xywh']) == ''
    assert survey(sets['xyxy']).startswith(
        'a.json: 2 of 4 boxes do not lie around their masks; they look like x1, y1, x2, y2: pass')
    assert '--box-format yxyx, or' in survey(sets['yxyx'])


def test_areas_tell_the_format() -> None:
    corners = [{'bbox': written('xyxy', box), 'area': box[2] * box[3]} for box in NEAR]
    assert survey(corners) == (
        'a.json: the area of 4 of 4 objects is not width times height; they look like x1, y1, x2, y2: pass '
        '--box-format xyxy, or --box-format xywh to keep them as they are')
    assert survey([{'bbox': box, 'area': box[2] * box[3]} for box in NEAR]) == ''
    assert survey([{'bbox': box, 'area': 0.7 * box[2] * box[3]} for box in NEAR]) == ''      # of no format


def test_objects_near_the_corner_are_no_percents() -> None:
    """Four alone, or some that do not come near 100."""
    boxes = [{'bbox': box} for box in BOXES]
    assert survey(boxes, (600, 800)) == '' and survey([{'bbox': [10, 10, 85, 85]}] * 4, (600, 800)) == ''
    assert '5 of 5 boxes lie within 0..100; they look like percents of the image: x, y, width, height: pass' in survey(
        [{'bbox': [10, 10, 85, 85]}] * 5, (600, 800))


@pytest.mark.parametrize('annotations', [
    [], [{}], [{'bbox': None}], [{'bbox': 'x'}, {'bbox': [1, 2]}], [{'bbox': [float('nan')] * 4}] * 3,
    [{'bbox': [0, 0, 0, 0], 'segmentation': [[0, 0, 9, 0, 9, 9]]}] * 3, [{'bbox': [10 ** 400, 1, 2, 3]}] * 2,
    [{'bbox': [0, 0, 1, 1]}] * 3,                                    # one pixel
    [{'bbox': [10, 10, 75, 45]}],                                    # one alone proves nothing
    [{'bbox': [5, 5, 76, 30]}] * 50,                                 # rounded, a pixel beyond
    [{'bbox': [0, 0, 90, 70]}] * 9 + [{'bbox': [40, 30, 60, 50]}],   # all beyond, no format fits
    [{'bbox': box} for box in BOXES] + [{'bbox': [70, 50, 72, 52]}] * 2], ids=lambda each: str(each)[:40])
def test_what_proves_nothing(annotations: list[dict[str, Any]]) -> None:
    assert survey(annotations) == '' and survey(annotations, None) == ''


def test_numbers_beyond_float_do_not_shift_the_others() -> None:
    annotations = [{'bbox': written('xyxy', box)} for box in BOXES]
    assert '3 of 6 boxes' in survey([{'bbox': [1, 2, 3, 10 ** 400]}, *annotations, {'area': 10 ** 400}])


@pytest.mark.parametrize('path', [
    'nuclei/annotations/*.json', 'coco_permissive/**/*.json', 'cocoeval_parity/i*_100.json'])
def test_real_sets_are_taken_as_they_are(path: str) -> None:
    files = sorted((SHARED / 'data').glob(path))
    if not files:
        pytest.skip(f'no ../shared/data/{path}')
    for file in files:
        data = json.loads(file.read_text())
        if not isinstance(data, dict) or 'annotations' not in data:
            continue
        sizes = {image['id']: (image['height'], image['width']) for image in data['images']}
        found = coco_boxes.Survey()
        for each in data['annotations']:
            found.add(each)
            found.add({**each, 'segmentation': None, 'area': None})
        found.check([sizes[each['image_id']] for each in data['annotations'] for _ in range(2)], file.name)
        assert not found.fractional_polygons()


def region(mask: np.ndarray) -> segmentation.Region:
    return segmentation.Region(mask, 2, 3, float(mask.sum()))      # rows 2.., columns 3..


MASK = region(np.ones([4, 5], np.uint8))


def read(annotation: dict[str, Any], mask: segmentation.Region | None = None) -> tuple[Any, list[str], list[str]]:
    box, repairs, odd = coco_boxes.read(annotation, mask, SIZE, 'xywh')
    return box, [fault.reason for fault in repairs], [fault.reason for fault in odd]


@pytest.mark.parametrize('bbox', [None, [], [0, 0, 0, 0], [8, 10, 0, 5], [8, 10, -2, 5], 'x', [1, 2, 3], [None] * 4,
                                  [float('nan'), 1, 2, 3], [1, 2, 3, 4, 30]], ids=str)
def test_a_box_that_is_none_is_that_of_the_mask(bbox: Any) -> None:
    assert read({'bbox': bbox}, MASK) == ((2, 3, 6, 8), ['box computed'], [])
    with pytest.raises(Unusable):
        read({'bbox': bbox})


def test_a_box_outside_the_image_is_not_replaced() -> None:
    with pytest.raises(Unusable, match='box outside the image'):
        read({'bbox': [90, 1, 5, 5]}, MASK)


def test_numbers_as_texts() -> None:
    assert read({'bbox': ['3', '2.0', 5, '4']}) == ((2, 3, 6, 8), ['numbers written as text'], [])


@pytest.mark.parametrize(('degrees', 'expected'), [
    (0, (10, 20, 20, 40)), (180., (10, 20, 20, 40)), (360, (10, 20, 20, 40)),
    (90, (5, 25, 25, 35)), (-270, (5, 25, 25, 35)),
    # cosine and sine 0.7071: half sides (10 + 20) 0.7071 / 2 = 10.6066 around 15, 30
    (45, (15 - 10.6066, 30 - 10.6066, 15 + 10.6066, 30 + 10.6066)), (-45, (4.3934, 19.3934, 25.6066, 40.6066)),
    # cosine 0.8660, sine 0.5: half height (8.660 + 10) / 2 = 9.330, half width (5 + 17.320) / 2 = 11.160
    (30, (5.66987, 18.83975, 24.33013, 41.16025))])
def test_a_rotated_box_becomes_the_upright_one_around_it(degrees: float, expected: tuple[float, ...]) -> None:
    box, repairs, odd = read({'bbox': [20, 10, 20, 10], 'attributes': {'rotation': degrees}})
    assert box == pytest.approx(expected, abs=1e-4) and odd == []
    assert repairs == ([] if degrees % 180 == 0 else ['rotated box'])


def test_a_rotated_box_with_a_mask_is_that_of_the_mask() -> None:
    assert read({'bbox': [3, 2, 5, 4], 'attributes': {'rotation': 33.}}, MASK) == ((2, 3, 6, 8), ['box computed'], [])


def test_a_fifth_number() -> None:
    assert read({'bbox': [3, 2, 5, 4, 0]}) == ((2, 3, 6, 8), ['box with an angle of 0'], [])
    with pytest.raises(Unusable, match='rotated box: .* its fifth number may be an angle or a score'):
        read({'bbox': [3, 2, 5, 4, 30.0]})


@pytest.mark.parametrize('extra', [{'angle': 0.3}, {'rotation': 30}, {'attributes': {'theta': -1}}], ids=str)
def test_what_may_be_an_angle_is_told(extra: dict[str, Any]) -> None:
    assert read({'bbox': [3, 2, 5, 4], **extra}) == ((2, 3, 6, 8), [], ['perhaps a rotated box'])


@pytest.mark.parametrize('extra', [
    {'angle': 0}, {'attributes': None}, {'attributes': {'rotation': 'x'}}, {'attributes': {'rotation': 10 ** 400}},
    {'attributes': {'rotation': float('nan')}}, {'theta': True}], ids=lambda each: str(each)[:40])
def test_what_is_no_angle(extra: dict[str, Any]) -> None:
    assert read({'bbox': [3, 2, 5, 4], **extra}) == ((2, 3, 6, 8), [], [])


def test_fractions_of_polygons() -> None:
    found = coco_boxes.Survey()
    for x in (.1, .5):
        found.add({'segmentation': [[x, .1, x + .3, .1, x + .3, .9]]})
    assert found.fractional_polygons()
    found.add({'segmentation': [[0, 1, 20, 1, 20, 30]]})
    assert not found.fractional_polygons() and not coco_boxes.Survey().fractional_polygons()
