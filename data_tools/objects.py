"""Boxes and areas of objects as records hold them, whatever the annotations look like.

Boxes are y1, x1, y2, x2 in px, continuous edges: a mask's box ends after its last pixel.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_tools.issues import Fault, Unusable

Box = tuple[float, float, float, float]

_CLIP_TOLERANCE = 1e-6    # px: x + width of two decimals is not exact
LARGEST = 3e38            # float32
OUTSIDE = 'box outside the image'
CLIPPED = 'box clipped'
DISAGREE = 'box and mask disagree'
NO_MASK = 'object without a mask'    # in a set with masks: it is kept, with its box
_LEAST_IOU = 0.5          # of a box and that of its mask, below which one of them is probably wrong


def finite(values: Sequence[float], text: str) -> list[float]:
    """The numbers as float; raises Unusable where one is NaN, infinite or too large to be one."""
    try:
        found = [float(value) for value in values]
    except OverflowError:
        found = [math.inf]
    if not all(abs(value) < math.inf for value in found):
        raise Unusable('non-finite numbers', text)
    return found


def clip(box: Sequence[float], size: tuple[int, int], text: str) -> tuple[Box, list[Fault]]:
    """The part of a box within an image, as float32 holds it, and whether it had to be clipped.

    Args:
        box: y1, x1, y2, x2 as annotated.
        size: height and width of the image.
        text: what messages call the box.

    Raises:
        Unusable: not finite, without area, outside the image.
    """
    y1, x1, y2, x2 = finite(box, text)
    if not (y2 > y1 and x2 > x1):
        raise Unusable('box without area', text)
    height, width = size
    inside = (min(max(y1, 0), height), min(max(x1, 0), width), min(max(y2, 0), height), min(max(x2, 0), width))
    top, left, bottom, right = np.array(inside, np.float32).tolist()
    if not (bottom > top and right > left):
        outside = y1 >= height or x1 >= width or y2 <= 0 or x2 <= 0
        raise Unusable(OUTSIDE if outside else 'box without area',
                       f'{text}, the image {width} wide and {height} high')
    beyond = max(-x1, -y1, x2 - width, y2 - height)
    clipped = [Fault(CLIPPED, f'{text} went {beyond:.2f} px beyond the image')]
    return (top, left, bottom, right), clipped if beyond > _CLIP_TOLERANCE else []


def mask_box(mask: np.ndarray) -> Box:
    """The box of a mask, [height, width], that covers at least a pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1)


def disagreement(box: Box, other: Box) -> list[Fault]:
    """A fault where a box and that of its mask hardly overlap: coordinates exchanged, or of another object."""
    top, left = max(box[0], other[0]), max(box[1], other[1])
    both = max(min(box[2], other[2]) - top, 0) * max(min(box[3], other[3]) - left, 0)
    if both >= _LEAST_IOU * (box_area(box) + box_area(other) - both):
        return []
    return [Fault(DISAGREE,
                  f'the box is {_text(box)}, that of the mask {_text(other)} (y1, x1, y2, x2)')]


def box_area(box: Box) -> float:
    """Of a box, px^2."""
    return (box[2] - box[0]) * (box[3] - box[1])


def area(annotated: Any, covered: float) -> tuple[float, list[Fault]]:
    """The area as annotated where it can be one, else what mask or box cover, px^2."""
    if annotated is None:
        return covered, []
    if type(annotated) in (int, float) and 0 < annotated < LARGEST:
        return float(annotated), []
    return covered, [Fault('area computed', f'area is {annotated!r:.40}')]


def _text(box: Box) -> str:
    return ', '.join(f'{v:.1f}' for v in box)
