"""The boxes of a COCO json: the formats that tools write, which of them a whole set fits, and one annotation's box.

COCO's own format is x, y, width, height in px. Nothing in a json says that another one was written, and single boxes
rarely show it, so the boxes of the whole set are compared with the images, with their masks and with their areas
before any is used. Boxes leave here as y1, x1, y2, x2 in px.
"""
from __future__ import annotations

import array
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_tools import objects
from data_tools.formats import segmentation, segmentation_forms
from data_tools.issues import ConversionError, Fault, Unusable

FORMATS = {'xywh': 'x, y, width, height', 'xyxy': 'x1, y1, x2, y2',
           'cxcywh': 'centre x, centre y, width, height', 'yxyx': 'y1, x1, y2, x2'}
WHOLE = {'normalized': 1, 'percent': 100}      # what the side of an image is in these units; px otherwise
NAMES = (*FORMATS, *(f'{unit}-{order}' for unit in WHOLE for order in FORMATS))
_OWN = 'xywh'                # COCO's

_SAMPLE = 1_000_000          # boxes that are compared, spread evenly over the set
_MASKS = 10_000              # of the set, the first, whose outlines are looked at
_TOLERANCE = 1.0             # px beyond the image that rounding explains
_LARGE, _REACHED, _SEVERAL = 200, 80, 5    # px: percents are in images from this side on; to be reached; boxes
_AREA = 0.01                 # relative error of an area that rounding explains
_LEAST_IOU = 0.5             # of a box and that of its mask
_FEW = 2                     # boxes, and
_SHARE = 0.02                # of all, that do not fit: fewer prove nothing
_TIMES = 10                  # fewer of them do not fit the format that is named instead
_MOST = 0.9                  # of the boxes, for what has to hold for nearly all
_ANGLES = ('rotation', 'angle', 'theta')


def corners(name: str, values: Sequence[Any], size: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Return y1, x1, y2, x2 in px of four numbers, or of four columns, in the format `name` of `NAMES`.

    Args:
        size: height and width of the image.
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
    """Return what the numbers of a format are."""
    unit, _, order = name.rpartition('-')
    what = {'': '', 'normalized': 'fractions of the image: ', 'percent': 'percents of the image: '}
    return what[unit] + FORMATS[order]


def read(annotation: Mapping[str, Any], region: segmentation.Region | None, size: tuple[int, int], name: str,
         ) -> tuple[objects.Box, list[Fault], list[Fault]]:
    """Return the box of an annotation within its image, what was repaired, and what is odd about it.

    Where `bbox` gives no box, that of the mask is taken.

    Args:
        size: height and width of the image.
        name: format, of `NAMES`.

    Raises:
        Unusable: no box and no mask, or a box outside the image.
    """
    text = f'bbox is {annotation.get("bbox")!r:.60}'
    try:
        return _stated(annotation, region, size, name, text)
    except Unusable as unusable:
        if region is None or unusable.fault.reason == objects.OUTSIDE:
            raise
        return region.box, [Fault('box computed', f'{text}; the box of its mask is taken')], []


def numbers(bbox: Any) -> list[float] | None:
    """Return the four numbers of a box, or five, with an angle; None where they are something else.

    Numbers written as texts are read.
    """
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


class Survey:
    """The boxes of a set in order, and whether they fit COCO's format."""

    def __init__(self) -> None:
        self._rows = array.array('f')                        # 5 for each annotation: bbox, area; NaN: there is none
        self._outlines: dict[int, tuple[float, ...]] = {}    # y1, x1, y2, x2 of polygons, by ordinal
        self._masked = array.array('b')                      # 1: the annotation has a mask

    def add(self, annotation: Mapping[str, Any]) -> None:
        """Takes the next annotation."""
        area: Any = annotation.get('area')
        shape = annotation.get('segmentation')
        values = [*(numbers(annotation.get('bbox')) or [math.nan] * 4)[:4], area if _is_number(area) else math.nan]
        try:
            self._rows.extend(array.array('f', values))
        except OverflowError:                                # an int beyond float
            self._rows.extend([math.nan] * 5)
        if shape and len(self._outlines) < _MASKS and (outline := segmentation_forms.outline(shape)):
            self._outlines[len(self._masked)] = outline
        self._masked.append(not segmentation.is_missing(shape))

    def fractional_polygons(self) -> bool:
        """Whether polygons are fractions of the image: nearly all lie within 0..1."""
        return _within_one(np.array([*self._outlines.values()]).reshape(-1, 4)) is not None

    def check(self, sizes: Sequence[tuple[float, float] | None], source: str) -> None:
        """Raises ConversionError where the boxes are in another format than COCO's, with the evidence and the remedy.

        Args:
            sizes: height and width of the image of each annotation; None where they are not known.
            source: file, for the message.
        """
        chosen = np.arange(0, len(sizes), max(1, len(sizes) // _SAMPLE))
        rows = np.array(self._rows, np.float32).reshape(-1, 5)[chosen].astype(np.float64)
        usable = np.all(np.isfinite(rows[:, :4]) & (rows[:, 2:4] > 0).all(axis=1, keepdims=True), axis=1)
        known = usable & np.array([sizes[i] is not None for i in chosen.tolist()], bool)
        size = np.array([sizes[i] for i in chosen[known].tolist()], np.float64).reshape(-1, 2)
        found = (_fractions(rows[usable, :4]) or self._of_pixels(chosen[known], rows[known], size.T)
                 or _percents(rows[known, :4], size))
        if found:
            name, evidence = found
            raise ConversionError(f'{source}: {evidence}; they look like {describe(name)}: pass --box-format {name}, '
                                  f'or --box-format {_OWN} to keep them as they are')

    def _of_pixels(self, ordinals: np.ndarray, rows: np.ndarray, size: np.ndarray) -> tuple[str, str] | None:
        """The format that fits annotations better, and the evidence: rows [n, 5]; of their images, size [2, n]."""
        boxes = {name: _columns(name, rows[:, :4], (size[0], size[1])) for name in FORMATS}
        beyond = {name: _beyond(each, size) for name, each in boxes.items()}
        outlines = np.array([self._outlines.get(i, (math.nan,) * 4) for i in ordinals.tolist()]).reshape(-1, 4)
        apart = {name: _apart(each, outlines) for name, each in boxes.items()}
        if rival := _rival({name: beyond[name] | apart[name] for name in FORMATS}):
            outside, missed = int(beyond[_OWN].sum()), int(apart[_OWN].sum())
            evidence = (f'{outside} of {len(rows)} boxes end beyond the image' if outside >= missed else
                        f'{missed} of {int(np.isfinite(outlines[:, 0]).sum())} boxes do not lie around their masks')
            return rival, evidence
        # The area of an object without a mask is that of its box, if the tool has computed it at all.
        stated = np.flatnonzero((rows[:, 4] > 0) & (np.array(self._masked, np.int8)[ordinals] == 0))
        areas = {name: _other_area(boxes[name][stated], rows[stated, 4]) | beyond[name][stated] for name in FORMATS}
        if len(stated) and areas[_OWN].mean() >= _MOST and (rival := _rival(areas)):
            return rival, f'the area of {int(areas[_OWN].sum())} of {len(stated)} objects is not width times height'
        return None


def _columns(name: str, values: np.ndarray, size: tuple[Any, Any]) -> np.ndarray:
    """`corners` of [n, 4] as [n, 4]."""
    return np.stack(corners(name, list(values.T), size), axis=1)


def _rival(misfits: Mapping[str, np.ndarray]) -> str | None:
    """The format that hardly any box misfits, where enough of them misfit COCO's: both bool [n]."""
    counts = {name: int(each.sum()) for name, each in misfits.items()}
    best = min(counts, key=lambda name: counts[name])         # of equal ones the first, which is the more common
    enough = counts[_OWN] >= max(_FEW, _SHARE * len(misfits[_OWN]))
    return best if enough and counts[best] * _TIMES <= counts[_OWN] else None


def _fractions(values: np.ndarray) -> tuple[str, str] | None:
    """The format of boxes [n, 4] that are fractions of the image, and the evidence."""
    within = _within_one(values)
    if within is None:
        return None
    return f'normalized-{_order(values[within], 1)}', f'{within.sum()} of {len(within)} boxes lie within 0..1'


def _percents(values: np.ndarray, sizes: np.ndarray) -> tuple[str, str] | None:
    """The format of boxes [n, 4] that are percents of the images [n, 2], and the evidence.

    All lie in the first 100 px of images that are much larger, and reach nearly that far.
    """
    whole = WHOLE['percent']
    if len(values) < _SEVERAL or sizes.min() < _LARGE or np.abs(values).max() > whole * segmentation_forms.ONE:
        return None
    order = _order(values, whole)
    boxes = _columns(order, values, (1, 1))
    if _beyond(boxes, np.full([2, 1], whole)).any() or (boxes[:, 2:].max(axis=0) < _REACHED).any():
        return None
    return f'percent-{order}', f'{len(values)} of {len(values)} boxes lie within 0..100'


def _order(values: np.ndarray, whole: float) -> str:
    """Which of `FORMATS` fewest boxes [n, 4] misfit in images of this side."""
    misfits = {name: int(_beyond(_columns(name, values, (1, 1)), np.full([2, 1], whole), whole *
                                 (segmentation_forms.ONE - 1)).sum()) for name in FORMATS}
    return min(misfits, key=lambda name: misfits[name])


def _within_one(values: np.ndarray) -> np.ndarray | None:
    """Which of [n, 4] lie within 0..1, if nearly all do and not all at its ends: no set has objects below a pixel."""
    within = (np.abs(values) <= segmentation_forms.ONE).all(axis=1)
    nearly_all = len(values) > 0 and within.mean() >= _MOST and bool((values[within] % 1).any())
    return within if nearly_all else None


def _beyond(boxes: np.ndarray, size: np.ndarray, tolerance: float = _TOLERANCE) -> np.ndarray:
    """Which boxes [n, 4] end beyond images of these heights and widths [2, n], or have no area."""
    outside = np.hstack([boxes[:, :2] < -tolerance, boxes[:, 2:] > size.T + tolerance])
    return np.any(np.hstack([outside, boxes[:, 2:] <= boxes[:, :2]]), axis=1)


def _apart(boxes: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Which boxes [n, 4] hardly overlap the boxes of their masks [n, 4]; not those without one, NaN."""
    sides = np.minimum(boxes[:, 2:], outlines[:, 2:]) - np.maximum(boxes[:, :2], outlines[:, :2])
    both = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(outlines[:, 2:] - outlines[:, :2], axis=1) - both
    return both < _LEAST_IOU * union


def _other_area(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Which boxes [n, 4] have another area than [n]."""
    return np.abs(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - areas) > _AREA * areas


def _stated(annotation: Mapping[str, Any], region: segmentation.Region | None, size: tuple[int, int], name: str,
            text: str) -> tuple[objects.Box, list[Fault], list[Fault]]:
    bbox = annotation.get('bbox')
    values = numbers(bbox)
    if values is None:
        raise Unusable('malformed box', f'{text}, expected {describe(name)}')
    repairs = [] if values is bbox else [Fault('numbers written as text', text)]
    values = objects.finite(values, text)
    if len(values) == 5:
        if values.pop() % 180:
            raise Unusable('rotated box', f'{text}: its fifth number may be an angle or a score; give the upright box '
                                          'or a segmentation')
        repairs.append(Fault('box with an angle of 0', text))
    box = corners(name, values, size)
    turned = _rotation(annotation)
    if turned % 180:
        if region is not None:
            raise Unusable('rotated box', text)               # the box of the mask is the upright one
        repairs.append(Fault('rotated box', f'{text}, turned by {turned:g} degrees: the upright box around it is '
                                            'taken'))
        box = _around(box, turned)
    clipped, of_clip = objects.clip(box, size, text)
    return clipped, [*repairs, *of_clip], [] if region is not None else list(_unclear_angles(annotation))


def _rotation(annotation: Mapping[str, Any]) -> float:
    """Degrees, clockwise about the centre of the box: CVAT's attribute; 0 where there is none."""
    attributes = annotation.get('attributes')
    turned: Any = attributes.get('rotation') if isinstance(attributes, dict) else None
    return float(turned) if _is_number(turned) and abs(turned) < objects.LARGEST else 0.


def _around(box: Sequence[float], degrees: float) -> tuple[float, float, float, float]:
    """The upright box around one that is turned about its centre."""
    y1, x1, y2, x2 = box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    half_height = ((y2 - y1) * cosine + (x2 - x1) * sine) / 2
    half_width = ((y2 - y1) * sine + (x2 - x1) * cosine) / 2
    y, x = (y1 + y2) / 2, (x1 + x2) / 2
    return y - half_height, x - half_width, y + half_height, x + half_width


def _unclear_angles(annotation: Mapping[str, Any]) -> Iterator[Fault]:
    """A fault for each number that may be an angle, of a tool whose meaning of it is not known."""
    attributes = annotation.get('attributes')
    for prefix, holder in (('', annotation), ('attributes.', attributes if isinstance(attributes, dict) else {})):
        for key in _ANGLES:
            value = holder.get(key)
            if _is_number(value) and value and prefix + key != 'attributes.rotation':
                yield Fault('perhaps a rotated box', f'{prefix}{key} is {value!r:.20}; the box is taken as upright')


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
