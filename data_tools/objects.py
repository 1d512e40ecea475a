"""Boxes and areas of objects as records hold them, for annotations of all formats.

Boxes are y1, x1, y2, x2 in px with continuous edges: the box of a mask ends after its last pixel.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_tools.issues import InvalidDataError, Issue

Box = tuple[float, float, float, float]

_CLIP_TOLERANCE = 1e-6    # px: x + width of decimal numbers is not exact
LARGEST = 3e38            # float32
OUTSIDE = 'box outside the image'
CLIPPED = 'box clipped'
DISAGREE = 'box and mask disagree'
NO_MASK = 'object without a mask'    # in a set with masks: the object is kept with its box
_LEAST_IOU = 0.5          # of a box and the box of its mask; below it, one of them is probably wrong


def finite(values: Sequence[float], text: str) -> list[float]:
    """Return the numbers as floats; raises InvalidDataError if one is NaN, infinite or too large for a float."""
    try:
        floats = [float(value) for value in values]
    except OverflowError:
        floats = [math.inf]
    if not all(abs(value) < math.inf for value in floats):
        raise InvalidDataError('non-finite numbers', text)
    return floats


def clip(box: Sequence[float], size: tuple[int, int], text: str) -> tuple[Box, list[Issue]]:
    """Return the part of a box within an image, rounded to float32, and an issue if the box was clipped.

    Args:
        box: y1, x1, y2, x2 in px, as annotated.
        size: height and width of the image, px.
        text: the box in messages.

    Raises:
        InvalidDataError: the box is not finite, has no area, or is outside the image.
    """
    y1, x1, y2, x2 = finite(box, text)
    if not (y2 > y1 and x2 > x1):
        raise InvalidDataError('box without area', text)
    height, width = size
    inside = (min(max(y1, 0), height), min(max(x1, 0), width), min(max(y2, 0), height), min(max(x2, 0), width))
    top, left, bottom, right = np.array(inside, np.float32).tolist()
    if not (bottom > top and right > left):
        outside = y1 >= height or x1 >= width or y2 <= 0 or x2 <= 0
        raise InvalidDataError(OUTSIDE if outside else 'box without area',
                       f'{text}, the image {width} wide and {height} high')
    beyond = max(-x1, -y1, x2 - width, y2 - height)
    clipped = [Issue(CLIPPED, f'{text} went {beyond:.2f} px beyond the image')]
    return (top, left, bottom, right), clipped if beyond > _CLIP_TOLERANCE else []


def mask_box(mask: np.ndarray) -> Box:
    """Return the box of a mask, bool [height, width], that has at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1)


def disagreement(box: Box, other: Box) -> list[Issue]:
    """Return an issue if the IoU of a box and the box of its mask is below 0.5.

    Then the coordinates are exchanged, or one of them is of another object.
    """
    top, left = max(box[0], other[0]), max(box[1], other[1])
    both = max(min(box[2], other[2]) - top, 0) * max(min(box[3], other[3]) - left, 0)
    if both >= _LEAST_IOU * (box_area(box) + box_area(other) - both):
        return []
    return [Issue(DISAGREE, f'the box is {_text(box)}, that of the mask {_text(other)} (y1, x1, y2, x2)')]


def box_area(box: Box) -> float:
    """Return the area of a box, px^2."""
    return (box[2] - box[0]) * (box[3] - box[1])


def area(annotated: Any, covered: float) -> tuple[float, list[Issue]]:
    """Return the annotated area if it is a positive number, else the covered area; px^2.

    Args:
        annotated: value of the annotation; None: it has none.
        covered: area of the mask, or of the box of an object without one, px^2.
    """
    if annotated is None:
        return covered, []
    if type(annotated) in (int, float) and 0 < annotated < LARGEST:
        return float(annotated), []
    return covered, [Issue('area computed', f'area is {annotated!r:.40}')]


def _text(box: Box) -> str:
    return ', '.join(f'{v:.1f}' for v in box)
