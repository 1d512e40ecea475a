"""Detection of other box formats from whole sets, with expected boxes by hand; ordinary sets are not suspected."""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from data_tools.formats import coco_box_survey, coco_boxes
from data_tools.issues import ConversionError
from tests.paths import SHARED

# x, y, width, height in an image 60 high and 80 wide, at every edge
BOXES = [[0, 0, 30, 20], [50, 30, 30, 30], [4, 40, 20, 20], [60, 0, 20, 10], [30, 10, 12, 16], [8, 10, 20, 16]]


SIZE = (60, 80)


def written(name: str, box: Sequence[float]) -> list[float]:
    """Return a box x, y, width, height in another format, computed independently of the converter."""
    x, y, w, h = box
    values = {'xywh': [x, y, w, h], 'xyxy': [x, y, x + w, y + h], 'cxcywh': [x + w / 2, y + h / 2, w, h],
              'yxyx': [y, x, y + h, x + w]}[name.rpartition('-')[2]]
    sides = [SIZE[0], SIZE[1]] * 2 if name.endswith('yxyx') else [SIZE[1], SIZE[0]] * 2
    unit = name.rpartition('-')[0]
    whole = {'normalized': 1, 'percent': 100}.get(unit, 1)
    return [whole * v / side for v, side in zip(values, sides, strict=True)] if unit else values


def suspicion(annotations: Sequence[dict[str, Any]], size: tuple[int, int] | None = SIZE) -> str:
    """Return the error for a set of annotations; '' if there is none."""
    survey = coco_box_survey.Survey()
    for each in annotations:
        survey.add(each)
    try:
        survey.check([size] * len(annotations), 'a.json')
    except ConversionError as error:
        return str(error)
    return ''


@pytest.mark.parametrize('name', coco_boxes.NAMES)
def test_each_format_is_read_and_recognized(name: str) -> None:
    """Percents are recognized only in images that are larger than a hundred px."""
    size = (600, 800) if name.startswith('percent') else SIZE
    error = suspicion([{'bbox': written(name, box)} for box in BOXES], size)
    likely = name.replace('-yxyx', '-xyxy')      # x and y are equal in images of unknown size
    assert (f'give --box-format {likely}, or --box-format xywh to use them as they are' in error) is (name != 'xywh')
    for x, y, w, h in BOXES:
        corners = coco_boxes.corners(name, written(name, (x, y, w, h)), SIZE)
        assert corners == pytest.approx((y, x, y + h, x + w))


def test_the_error_gives_the_evidence() -> None:
    corners = [[8, 10, 28, 26], [36, 30, 54, 54], [5, 5, 35, 25], [20, 34, 45, 56], [40, 4, 56, 20]]
    assert suspicion([{'bbox': box} for box in corners], (64, 64)) == (
        'a.json: 3 of 5 boxes end beyond the image; they look like x1, y1, x2, y2: give --box-format xyxy, or '
        '--box-format xywh to use them as they are')
    assert suspicion([{'bbox': written('normalized-xywh', box)} for box in BOXES]).startswith(
        'a.json: 6 of 6 boxes lie within 0..1; they look like fractions of the image: x, y, width, height: give ')


NEAR = [[2, 3, 12, 10], [8, 8, 10, 12], [1, 1, 6, 5], [10, 5, 9, 9]]      # as corners they end within the image too


def test_the_format_is_recognized_by_masks() -> None:
    sets = {name: [{'bbox': written(name, box), 'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]]}
                   for box in NEAR for x, y, w, h in [box]] for name in ('xywh', 'xyxy', 'yxyx')}
    assert suspicion(sets['xywh']) == ''
    assert suspicion(sets['xyxy']).startswith(
        'a.json: 2 of 4 boxes do not fit their masks; they look like x1, y1, x2, y2: give')
    assert '--box-format yxyx, or' in suspicion(sets['yxyx'])


def test_the_format_is_recognized_by_areas() -> None:
    corners = [{'bbox': written('xyxy', box), 'area': box[2] * box[3]} for box in NEAR]
    assert suspicion(corners) == (
        'a.json: the area of 4 of 4 objects is not width times height; they look like x1, y1, x2, y2: give '
        '--box-format xyxy, or --box-format xywh to use them as they are')
    assert suspicion([{'bbox': box, 'area': box[2] * box[3]} for box in NEAR]) == ''
    assert suspicion([{'bbox': box, 'area': 0.7 * box[2] * box[3]} for box in NEAR]) == ''      # of no format


def test_objects_near_the_corner_are_no_percents() -> None:
    """Fewer than five boxes, or boxes that do not reach near 100, are px."""
    boxes = [{'bbox': box} for box in BOXES]
    assert suspicion(boxes, (600, 800)) == '' and suspicion([{'bbox': [10, 10, 85, 85]}] * 4, (600, 800)) == ''
    assert suspicion([{'bbox': [10, 10, 85, 85]}] * 5, (600, 800)).startswith(
        'a.json: 5 of 5 boxes lie within 0..100; they look like percents of the image: x, y, width, height: give')


@pytest.mark.parametrize('annotations', [
    [], [{}], [{'bbox': None}], [{'bbox': 'x'}, {'bbox': [1, 2]}], [{'bbox': [float('nan')] * 4}] * 3,
    [{'bbox': [0, 0, 0, 0], 'segmentation': [[0, 0, 9, 0, 9, 9]]}] * 3, [{'bbox': [10 ** 400, 1, 2, 3]}] * 2,
    [{'bbox': [0, 0, 1, 1]}] * 3,
    [{'bbox': [10, 10, 75, 45]}],
    [{'bbox': [5, 5, 76, 30]}] * 50,      # a pixel beyond the image
    [{'bbox': [0, 0, 90, 70]}] * 9 + [{'bbox': [40, 30, 60, 50]}],      # all beyond the image
    [{'bbox': box} for box in BOXES] + [{'bbox': [70, 50, 72, 52]}] * 2], ids=[
        'no annotations', 'no box', 'null', 'no numbers', 'NaN', 'zeros', 'huge', 'one pixel', 'a single box',
        'rounded', 'no format fits', 'few misfits'])
def test_sets_that_prove_no_other_format(annotations: list[dict[str, Any]]) -> None:
    assert suspicion(annotations) == '' and suspicion(annotations, None) == ''


def test_numbers_too_large_for_a_float_count_as_no_box() -> None:
    annotations = [{'bbox': written('xyxy', box)} for box in BOXES]
    assert '3 of 6 boxes' in suspicion([{'bbox': [1, 2, 3, 10 ** 400]}, *annotations, {'area': 10 ** 400}])


@pytest.mark.parametrize('path', [
    'nuclei/annotations/*.json', 'coco_permissive/**/*.json', 'cocoeval_parity/i*_100.json'])
def test_real_sets_are_not_suspected(path: str) -> None:
    files = sorted((SHARED / 'data').glob(path))
    if not files:
        pytest.skip(f'no ../shared/data/{path}')
    for file in files:
        data = json.loads(file.read_text())
        if not isinstance(data, dict) or 'annotations' not in data:
            continue
        sizes = {image['id']: (image['height'], image['width']) for image in data['images']}
        survey = coco_box_survey.Survey()
        for each in data['annotations']:
            survey.add(each)
            survey.add({**each, 'segmentation': None, 'area': None})
        survey.check([sizes[each['image_id']] for each in data['annotations'] for _ in range(2)], file.name)
        assert not survey.fractional_polygons()


def test_polygons_in_fractions_of_the_image() -> None:
    survey = coco_box_survey.Survey()
    for x in (.1, .5):
        survey.add({'segmentation': [[x, .1, x + .3, .1, x + .3, .9]]})
    assert survey.fractional_polygons()
    survey.add({'segmentation': [[0, 1, 20, 1, 20, 30]]})
    assert not survey.fractional_polygons() and not coco_box_survey.Survey().fractional_polygons()
