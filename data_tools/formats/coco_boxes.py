"""The boxes of a COCO json: convert the formats that tools write to y1, x1, y2, x2 in px, and read one annotation's
box.

COCO's own format is x, y, width, height in px; `coco_box_survey` detects sets in another one.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_tools import objects
from data_tools.formats import segmentation
from data_tools.issues import InvalidDataError, Issue

FORMATS = {'xywh': 'x, y, width, height', 'xyxy': 'x1, y1, x2, y2',
           'cxcywh': 'center x, center y, width, height', 'yxyx': 'y1, x1, y2, x2'}
WHOLE = {'normalized': 1, 'percent': 100}      # what the side of an image is in these units; px otherwise
NAMES = (*FORMATS, *(f'{unit}-{order}' for unit in WHOLE for order in FORMATS))
_ANGLES = ('rotation', 'angle', 'theta')


def corners(name: str, values: Sequence[Any], size: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Return y1, x1, y2, x2 in px of a box.

    Args:
        name: format of the box, of `NAMES`.
        values: its four numbers, or four columns of many boxes.
        size: height and width of the image, px.
    """
    a, b, c, d = values
    unit, _, order = name.rpartition('-')
    if order == 'xywh':
        c, d = a + c, b + d
    elif order == 'cxcywh':
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    elif order == 'yxyx':
        a, b, c, d = b, a, d, c
    height, width = (side / WHOLE[unit] for side in size) if unit else (1, 1)
    return b * height, a * width, d * height, c * width


def describe(name: str) -> str:
    """Return a description of the four numbers of a format."""
    unit, _, order = name.rpartition('-')
    what = {'': '', 'normalized': 'fractions of the image: ', 'percent': 'percents of the image: '}
    return what[unit] + FORMATS[order]


def read(annotation: Mapping[str, Any], region: segmentation.Region | None, size: tuple[int, int], name: str,
         ) -> tuple[objects.Box, list[Issue], list[Issue]]:
    """Return the box of an annotation within its image, its repairs, and warnings.

    If `bbox` is no valid box, the box of the mask is used.

    Args:
        annotation: as in the json.
        region: its mask; None: it has none, or masks are not read.
        size: height and width of the image, px.
        name: format, of `NAMES`.

    Raises:
        InvalidDataError: there is no box and no mask, or the box is outside the image.
    """
    text = f'bbox is {annotation.get("bbox")!r:.60}'
    try:
        return _stated(annotation, region, size, name, text)
    except InvalidDataError as error:
        if region is None or error.issue.reason == objects.OUTSIDE:
            raise
        return region.box, [Issue('box computed', f'{text}; the box of its mask is used')], []


def numbers(bbox: Any) -> list[float] | None:
    """Return the four numbers of a box, or five with an angle, also if written as texts; None for anything else."""
    if not isinstance(bbox, list) or len(bbox) not in (4, 5):
        return None
    if {*map(type, bbox)} <= {int, float}:
        return bbox
    if not {*map(type, bbox)} <= {int, float, str}:
        return None
    try:
        return [float(value) for value in bbox]
    except (ValueError, OverflowError):
        return None


def _stated(annotation: Mapping[str, Any], region: segmentation.Region | None, size: tuple[int, int], name: str,
            text: str) -> tuple[objects.Box, list[Issue], list[Issue]]:
    bbox = annotation.get('bbox')
    values = numbers(bbox)
    if values is None:
        raise InvalidDataError('malformed box', f'{text}, expected {describe(name)}')
    repairs = [] if values is bbox else [Issue('numbers written as text', text)]
    values = objects.finite(values, text)
    if len(values) == 5:
        if values.pop() % 180:
            raise InvalidDataError('rotated box', f'{text}: its fifth number may be an angle or a score; give the '
                                                  'upright box or a segmentation')
        repairs.append(Issue('box with an angle of 0', text))
    box = corners(name, values, size)
    angle = _rotation(annotation)
    if angle % 180:
        if region is not None:
            raise InvalidDataError('rotated box', text)      # so the upright box of the mask is used
        repairs.append(Issue('rotated box', f'{text}, rotated by {angle:g} degrees: the upright box around it is '
                                            'used'))
        box = _upright(box, angle)
    clipped, of_clip = objects.clip(box, size, text)
    return clipped, [*repairs, *of_clip], [] if region is not None else list(_unclear_angles(annotation))


def _rotation(annotation: Mapping[str, Any]) -> float:
    """Return CVAT's rotation in degrees, clockwise about the center of the box; 0 if there is none."""
    attributes = annotation.get('attributes')
    angle: Any = attributes.get('rotation') if isinstance(attributes, dict) else None
    return float(angle) if is_number(angle) and abs(angle) < objects.LARGEST else 0.


def _upright(box: Sequence[float], degrees: float) -> tuple[float, float, float, float]:
    """Return the upright box around a box that is rotated about its center."""
    y1, x1, y2, x2 = box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    half_height = ((y2 - y1) * cosine + (x2 - x1) * sine) / 2
    half_width = ((y2 - y1) * sine + (x2 - x1) * cosine) / 2
    y, x = (y1 + y2) / 2, (x1 + x2) / 2
    return y - half_height, x - half_width, y + half_height, x + half_width


def _unclear_angles(annotation: Mapping[str, Any]) -> Iterator[Issue]:
    """Yield an issue for each number that may be an angle, as it is not known what the tool means by it."""
    attributes = annotation.get('attributes')
    for prefix, holder in (('', annotation), ('attributes.', attributes if isinstance(attributes, dict) else {})):
        for key in _ANGLES:
            value = holder.get(key)
            if is_number(value) and value and prefix + key != 'attributes.rotation':
                yield Issue('perhaps a rotated box', f'{prefix}{key} is {value!r:.20}; the box is used as upright')


def is_number(value: Any) -> bool:
    """Return whether a value of a json is a number; true and false are none."""
    return type(value) in (int, float)
