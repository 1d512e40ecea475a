"""Detect whether the boxes of a COCO json are in another format than COCO's x, y, width, height in px.

A json does not name its box format, and single boxes rarely show it. So the boxes of the whole set are compared with
the sizes of the images, with the masks and with the areas before any is used.
"""
from __future__ import annotations

import array
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.formats import segmentation, segmentation_forms
from data_tools.formats.coco_boxes import FORMATS, WHOLE, corners, describe, is_number, numbers
from data_tools.issues import ConversionError

_COCO = 'xywh'

_SAMPLE = 1_000_000          # boxes that are compared, evenly spread over the set
_MASKS = 10_000              # the first of the set, whose outlines are compared
_TOLERANCE = 1.0             # px beyond the image that rounding explains
_MIN_SIDE = 200              # px: percents are recognized in images from this side on only,
_MIN_REACH = 80              # if boxes reach this far to the right and down,
_MIN_BOXES = 5               # and if there are so many
_AREA = 0.01                 # relative error of an area that rounding explains
_MIN_IOU = 0.5               # of a box and the box of its mask
# Another format is reported if at least this number and fraction of the boxes misfit COCO's,
_MIN_MISFITS = 2
_MIN_FRACTION = 0.02
_RATIO = 10                  # and if this many times fewer misfit the other one.
_NEARLY_ALL = 0.9            # fraction of the boxes


class Survey:
    """The boxes of a set in order, to check whether they fit COCO's format."""

    def __init__(self) -> None:
        self._rows = array.array('f')                        # 5 per annotation: bbox and area; NaN: not given
        self._outlines: dict[int, tuple[float, ...]] = {}    # y1, x1, y2, x2 of polygons, by ordinal
        self._masked = array.array('b')                      # 1: the annotation has a mask

    def add(self, annotation: Mapping[str, Any]) -> None:
        """Add the next annotation."""
        area: Any = annotation.get('area')
        shape = annotation.get('segmentation')
        values = [*(numbers(annotation.get('bbox')) or [math.nan] * 4)[:4], area if is_number(area) else math.nan]
        try:
            self._rows.extend(array.array('f', values))
        except OverflowError:                                # an int too large for a float
            self._rows.extend([math.nan] * 5)
        if shape and len(self._outlines) < _MASKS and (outline := segmentation_forms.outline(shape)):
            self._outlines[len(self._masked)] = outline
        self._masked.append(not segmentation.is_missing(shape))

    def fractional_polygons(self) -> bool:
        """Return whether polygons are fractions of the image: nearly all lie within 0..1."""
        return _within_one(np.array([*self._outlines.values()]).reshape(-1, 4)) is not None

    def check(self, sizes: Sequence[tuple[float, float] | None], source: str) -> None:
        """Raise ConversionError with the evidence and the remedy if the boxes are in another format than COCO's.

        Args:
            sizes: height and width of the image of each annotation, px; None: not known.
            source: the json, for the message.
        """
        chosen = np.arange(0, len(sizes), max(1, len(sizes) // _SAMPLE))
        rows = np.array(self._rows, np.float32).reshape(-1, 5)[chosen].astype(np.float64)
        usable = np.all(np.isfinite(rows[:, :4]) & (rows[:, 2:4] > 0).all(axis=1, keepdims=True), axis=1)
        known = usable & np.array([sizes[i] is not None for i in chosen.tolist()], bool)
        size = np.array([sizes[i] for i in chosen[known].tolist()], np.float64).reshape(-1, 2)
        other = (_fractions(rows[usable, :4]) or self._of_pixels(chosen[known], rows[known], size.T)
                 or _percents(rows[known, :4], size))
        if other:
            name, evidence = other
            raise ConversionError(f'{source}: {evidence}; they look like {describe(name)}: give --box-format {name}, '
                                  f'or --box-format {_COCO} to use them as they are')

    def _of_pixels(self, ordinals: np.ndarray, rows: np.ndarray, size: np.ndarray) -> tuple[str, str] | None:
        """Return the format that fits better than COCO's and the evidence; None if there is none.

        Args:
            ordinals: int [n] of the annotations.
            rows: [n, 5], box and area.
            size: [2, n], height and width of their images, px.
        """
        boxes = {name: _columns(name, rows[:, :4], (size[0], size[1])) for name in FORMATS}
        beyond = {name: _beyond(each, size) for name, each in boxes.items()}
        outlines = np.array([self._outlines.get(i, (math.nan,) * 4) for i in ordinals.tolist()]).reshape(-1, 4)
        apart = {name: _apart(each, outlines) for name, each in boxes.items()}
        if rival := _rival({name: beyond[name] | apart[name] for name in FORMATS}):
            outside, missed = int(beyond[_COCO].sum()), int(apart[_COCO].sum())
            evidence = (f'{outside} of {len(rows)} boxes end beyond the image' if outside >= missed else
                        f'{missed} of {int(np.isfinite(outlines[:, 0]).sum())} boxes do not fit their masks')
            return rival, evidence
        # Tools that compute the area of an object without a mask take that of its box.
        stated = np.flatnonzero((rows[:, 4] > 0) & (np.array(self._masked, np.int8)[ordinals] == 0))
        areas = {name: _other_area(boxes[name][stated], rows[stated, 4]) | beyond[name][stated] for name in FORMATS}
        if len(stated) and areas[_COCO].mean() >= _NEARLY_ALL and (rival := _rival(areas)):
            return rival, f'the area of {int(areas[_COCO].sum())} of {len(stated)} objects is not width times height'
        return None


def _columns(name: str, values: np.ndarray, size: tuple[Any, Any]) -> np.ndarray:
    """Return `corners` of boxes [n, 4] as [n, 4]."""
    return np.stack(corners(name, list(values.T), size), axis=1)


def _rival(misfits: Mapping[str, np.ndarray]) -> str | None:
    """Return the format that hardly any box misfits, if enough misfit COCO's; misfits: bool [n] by format."""
    counts = {name: int(each.sum()) for name, each in misfits.items()}
    best = min(counts, key=lambda name: counts[name])         # of equal ones the first: it is more common
    enough = counts[_COCO] >= max(_MIN_MISFITS, _MIN_FRACTION * len(misfits[_COCO]))
    return best if enough and counts[best] * _RATIO <= counts[_COCO] else None


def _fractions(values: np.ndarray) -> tuple[str, str] | None:
    """Return the format of boxes [n, 4] and the evidence if they are fractions of the image."""
    within = _within_one(values)
    if within is None:
        return None
    return f'normalized-{_order(values[within], 1)}', f'{within.sum()} of {len(within)} boxes lie within 0..1'


def _percents(values: np.ndarray, sizes: np.ndarray) -> tuple[str, str] | None:
    """Return the format of boxes [n, 4] and the evidence if they are percents of images of these sizes [n, 2].

    Then all lie in the first 100 px of images that are much larger, and some reach nearly that far.
    """
    whole = WHOLE['percent']
    if len(values) < _MIN_BOXES or sizes.min() < _MIN_SIDE or np.abs(values).max() > whole * segmentation_forms.ONE:
        return None
    order = _order(values, whole)
    boxes = _columns(order, values, (1, 1))
    if _beyond(boxes, np.full([2, 1], whole)).any() or (boxes[:, 2:].max(axis=0) < _MIN_REACH).any():
        return None
    return f'percent-{order}', f'{len(values)} of {len(values)} boxes lie within 0..100'


def _order(values: np.ndarray, whole: float) -> str:
    """Return the format of `FORMATS` that the fewest boxes [n, 4] misfit in square images with sides of `whole`."""
    misfits = {name: int(_beyond(_columns(name, values, (1, 1)), np.full([2, 1], whole), whole *
                                 (segmentation_forms.ONE - 1)).sum()) for name in FORMATS}
    return min(misfits, key=lambda name: misfits[name])


def _within_one(values: np.ndarray) -> np.ndarray | None:
    """Return which of [n, 4] lie within 0..1 if nearly all do, else None.

    Values that are all 0 or 1 are px: no set has objects smaller than a pixel only.
    """
    within = (np.abs(values) <= segmentation_forms.ONE).all(axis=1)
    nearly_all = len(values) > 0 and within.mean() >= _NEARLY_ALL and bool((values[within] % 1).any())
    return within if nearly_all else None


def _beyond(boxes: np.ndarray, size: np.ndarray, tolerance: float = _TOLERANCE) -> np.ndarray:
    """Return which boxes [n, 4] reach beyond images of sizes [2, n] or have no area, bool [n]."""
    outside = np.hstack([boxes[:, :2] < -tolerance, boxes[:, 2:] > size.T + tolerance])
    return np.any(np.hstack([outside, boxes[:, 2:] <= boxes[:, :2]]), axis=1)


def _apart(boxes: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Return which boxes [n, 4] hardly overlap the boxes of their masks [n, 4], bool [n]; NaN: no mask, False."""
    sides = np.minimum(boxes[:, 2:], outlines[:, 2:]) - np.maximum(boxes[:, :2], outlines[:, :2])
    both = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(outlines[:, 2:] - outlines[:, :2], axis=1) - both
    return both < _MIN_IOU * union


def _other_area(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Return which boxes [n, 4] have another area than stated [n], bool [n]."""
    return np.abs(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - areas) > _AREA * areas
