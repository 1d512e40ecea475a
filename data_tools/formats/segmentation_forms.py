"""Convert segmentations in forms that other tools write to COCO's form, if their meaning is certain.

COCO's form is a list of polygons, each a list of x and y in turn, or an object with the `size` [height, width] and the
`counts` of an RLE.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from data_tools.issues import InvalidDataError

FARTHEST = 1e6           # px: farther than any image reaches
ONE = 1.001              # the largest fraction, with rounding
_MAX_DEPTH = 5           # of nested lists


def parts(segmentation: Any) -> tuple[list[Any], list[str]]:
    """Return the polygons and RLEs of an object, and a description of each form that is not COCO's.

    A valid polygon is a flat list.

    Raises:
        InvalidDataError: the segmentation is neither a list nor an object.
    """
    if isinstance(segmentation, dict):
        return [segmentation], []
    if isinstance(segmentation, str):
        try:
            segmentation = json.loads(segmentation)
        except (ValueError, RecursionError):
            segmentation = None
        if isinstance(segmentation, (list, dict)) and segmentation:
            inner, forms = parts(segmentation)
            return inner, ['the text of a list', *forms]
    if not isinstance(segmentation, list) or not segmentation:
        raise InvalidDataError('malformed segmentation', f'expected polygons or an RLE, found {short(segmentation)}')
    return _of_list(segmentation, 1)


def outline(segmentation: Any) -> tuple[float, float, float, float] | None:
    """Return y1, x1, y2, x2 around the polygons of a segmentation; None if a part is no valid polygon."""
    try:
        polygons = parts(segmentation)[0]
    except InvalidDataError:
        return None
    if not all(isinstance(each, list) and each and not len(each) % 2 and _flat(each) for each in polygons):
        return None
    xs, ys = ([v for each in polygons for v in each[first::2]] for first in (0, 1))
    if not all(map(FARTHEST.__gt__, map(abs, (*xs, *ys)))):      # also False for NaN
        return None
    return float(min(ys)), float(min(xs)), float(max(ys)), float(max(xs))


def size(code: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the size of an RLE, [height, width] if it is valid, and a description of any other form."""
    stated = code.get('size')
    if stated is None:
        return None, ['an RLE without its size']
    sides = _whole(stated)
    return sides, ['an RLE with its size as texts'] if sides != stated else []


def counts(code: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the counts of an RLE, a list of ints or a text if they are valid, and a description of any other form."""
    stated: Any = code.get('counts')
    if isinstance(stated, str):
        text = stated.strip()
        if len(text) > 2 and text[:2] in ("b'", 'b"') and text[-1] == text[1]:      # str() of bytes in Python
            return text[2:-1].replace('\\\\', '\\'), ["an RLE with the counts b'...'"]
        if text.startswith('[') and text.endswith(']'):
            try:
                return json.loads(text), ['an RLE with the text of a list as counts']
            except (ValueError, RecursionError):
                return stated, []
        return stated, []
    numbers = _whole(stated)
    same = numbers is stated or {*map(type, stated)} == {int}
    return numbers, [] if same else ['an RLE with counts that are not written as ints']


def short(value: Any) -> str:
    """Return the text of a value, shortened to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + '...'


def _of_list(value: list[Any], depth: int) -> tuple[list[Any], list[str]]:
    if _flat(value):
        return [value], ['a polygon that is not in a list']
    if points := _points(value):
        return [points], ['a polygon as a list of points']
    flat: list[Any] = []
    forms: list[str] = []
    for each in value:
        nested = isinstance(each, list) and bool(each) and {*map(type, each)} <= {list, dict}
        if nested and depth < _MAX_DEPTH:
            inner, more = _of_list(each, depth + 1)
            flat, forms = flat + inner, forms + (more or ['lists within a list'])
        else:
            flat.append(each)
            forms += ['an RLE in a list'] if isinstance(each, dict) else []
    return flat, forms


def _flat(value: Sequence[Any]) -> bool:
    return {*map(type, value)} <= {int, float}


def _points(value: list[Any]) -> list[float]:
    """Return x and y of at least three points in turn; empty if a value is no point."""
    points = [_point(each) for each in value] if len(value) > 2 else []
    return [number for point in points for number in point] if all(points) else []


def _point(value: Any) -> list[float]:
    """Return x and y of [x, y], of {"x": x, "y": y}, or of one of them in a list, as in OpenCV's contours."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and value.keys() == {'x', 'y'}:
        value = [value['x'], value['y']]
    return value if isinstance(value, list) and len(value) == 2 and _flat(value) else []


def _whole(values: Any) -> Any:
    """Return integral floats and texts of digits as ints; anything else as it is."""
    if not isinstance(values, list) or {*map(type, values)} == {int}:
        return values
    numbers = [int(v) if (type(v) is float and v.is_integer()) or (isinstance(v, str) and v.isdecimal() and len(v) < 20)
               else v for v in values]
    return numbers if {*map(type, numbers)} <= {int} else values
