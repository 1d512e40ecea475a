"""COCO segmentations to masks: polygons, and run lengths compressed or not, whether crowd or object.

Run lengths (RLE) count 0s and 1s in turn, beginning with 0s, down the columns from left to right.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from data_tools.incidents import Fault, Unusable

# Beyond any image; the rasteriser takes memory with the length of the outline.
FARTHEST = 1e6    # px
_LONGEST = 1e7    # px, of an outline
_LONGEST_NUMBER = 60    # bits


def decode(segmentation: Any, height: int, width: int) -> tuple[np.ndarray, list[Fault]]:
    """The mask, uint8 [height, width] of 0 and 1, and the faults of polygons that had to be left out.

    Raises:
        Unusable: none of it can be used, or it covers no pixel.
    """
    faults: list[Fault] = []
    if isinstance(segmentation, list) and segmentation:
        polygons, faults = _usable(segmentation)
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    elif isinstance(segmentation, dict):
        mask = _from_rle(segmentation, height, width)
    else:
        raise Unusable('no segmentation', f'segmentation is {_short(segmentation)}')
    if not mask.any():
        raise Unusable('empty mask', 'the segmentation covers no pixel')
    return mask, faults


def counts_from_text(text: str) -> list[int]:
    """Run lengths out of COCO's compressed text: 5 bits a character from '0' on, lowest first, bit 5 says that more
    follow, bit 4 of the last is the sign; from the third (counting from 0) on, the difference to the last but one.

    Raises:
        ValueError: another character, an end within a number, a number beyond 60 bits.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f'character {character!r}')
        value |= (code & 31) << shift
        shift += 5
        if shift > _LONGEST_NUMBER:
            raise ValueError('a number without end')
        if not code & 32:
            value -= (code & 16) << (shift - 4)     # the sign bit is worth -2^shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError('cut within a number')
    return counts


def _usable(polygons: list[Any]) -> tuple[list[list[float]], list[Fault]]:
    found = [_fault(polygon) for polygon in polygons]
    kept = [polygon for polygon, fault in zip(polygons, found, strict=True) if fault is None]
    faults = [fault for fault in found if fault is not None]
    if not kept:
        raise Unusable(*faults[0])
    return kept, faults


def _fault(polygon: Any) -> Fault | None:
    if not isinstance(polygon, list) or not all(type(v) in (int, float) for v in polygon):
        return Fault('malformed polygon', f'expected a list of numbers, found {_short(polygon)}')
    if not all(abs(v) < math.inf for v in polygon):      # no NaN either; an int may be too long for isfinite
        return Fault('non-finite numbers', 'a coordinate of a polygon is NaN or infinite')
    if len(polygon) % 2:
        return Fault('malformed polygon', f'{len(polygon)} coordinates are not x, y pairs')
    if len(polygon) < 6:
        return Fault('polygon with fewer than 3 points', f'{len(polygon) // 2} points')
    if max(map(abs, polygon)) > FARTHEST:
        return Fault('malformed polygon', f'a coordinate lies more than {FARTHEST:.0f} px away')
    if len(polygon) * max(map(abs, polygon)) > _LONGEST and _outline(polygon) > _LONGEST:
        return Fault('malformed polygon', f'its outline is longer than {_LONGEST:.0f} px')
    return None


def _outline(polygon: list[float]) -> float:
    """Length of the closed outline, px, along the longer axis of each edge."""
    points = np.array(polygon, float).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _from_rle(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    size = segmentation.get('size')
    if size != [height, width]:
        raise Unusable('mask of another size', f'RLE is of {_short(size)}, the image of [{height}, {width}]')
    counts = _counts(segmentation.get('counts'))
    # pycocotools would read and write past its memory.
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise Unusable('malformed RLE', f'its runs hold {sum(counts)} pixels, the image {height * width}')
    values = np.arange(len(counts), dtype=np.uint8) % 2
    return np.repeat(values, counts).reshape(width, height).T


def _counts(counts: Any) -> list[int]:
    if isinstance(counts, str):
        try:
            return counts_from_text(counts)
        except ValueError as error:
            raise Unusable('malformed RLE', f'counts: {error}') from None
    if isinstance(counts, list) and all(type(v) is int for v in counts):
        return counts
    raise Unusable('malformed RLE', f'expected text or a list of ints as counts, found {_short(counts)}')


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + '...'
