"""Decode COCO segmentations to masks: polygons and run lengths, compressed or not, of objects and crowds.

Run lengths (RLE) count 0s and 1s in turn, beginning with 0s, down the columns from left to right. A mask is decoded
only for the box around its pixels, because most of the work would be the rest of the image.
"""
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from data_tools.formats import segmentation_forms
from data_tools.formats.segmentation_forms import FARTHEST, short
from data_tools.issues import InvalidDataError, Issue
from mrcnn_tf.input import mask_png

FORM = 'segmentation in another form'
_LONGEST = 1e7    # px, of an outline: the memory of the rasterizer grows with its length
_MAX_BITS = 60    # of a run length


class Region(NamedTuple):
    """The mask of an object: at least one pixel."""
    pixels: np.ndarray    # uint8 [rows, columns], 0 or 1, of the tightest box
    top: int              # of the box, px
    left: int
    area: float           # px^2

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return y1, x1, y2, x2 in px; the box ends after the last pixel."""
        rows, columns = self.pixels.shape
        return float(self.top), float(self.left), float(self.top + rows), float(self.left + columns)

    def png(self, height: int, width: int) -> bytes:
        """Return the mask as a record holds it: a PNG of the whole image."""
        return mask_png.encode(self.pixels, (self.top, self.left), (height, width))


def empty_png(height: int, width: int) -> bytes:
    """Return a mask without pixels as a record holds it."""
    return mask_png.encode(np.empty([0, 0], np.uint8), (0, 0), (height, width))


def is_missing(segmentation: Any) -> bool:
    """Return whether there is no segmentation: null, or an empty list, text or object."""
    return segmentation in (None, '', [], {}, [[]], [{}], [None])


def decode(segmentation: Any, height: int, width: int, fractions: bool = False) -> tuple[Region, list[Issue]]:
    """Return the mask, and the issues of parts that were dropped or are in another form.

    Args:
        segmentation: as in the json.
        height: of the image, px.
        width: of the image, px.
        fractions: polygons within 0..1 are fractions of the image.

    Raises:
        InvalidDataError: no part can be used, or the mask has no pixel.
    """
    parts, forms = segmentation_forms.parts(segmentation)
    codes: list[dict[str, Any]] = []      # compressed RLEs of COCO
    issues: list[Issue] = []
    for part in parts:
        try:
            if isinstance(part, dict):
                runs, more = _checked_runs(part, height, width)
                codes.append(coco_mask.frPyObjects({'size': [height, width], 'counts': runs}, height, width))
            else:
                polygon, more = _checked(part), []
                if fractions and max(map(abs, polygon)) <= segmentation_forms.ONE:
                    polygon = (np.reshape(polygon, [-1, 2]) * [width, height]).ravel().tolist()
                    more = ['fractions of the image']
                codes += coco_mask.frPyObjects([polygon], height, width)
            forms += more
        except InvalidDataError as error:
            issues.append(error.issue)
    if not codes:
        raise InvalidDataError(*issues[0])
    region = _region(_runs_of_text(coco_mask.merge(codes)['counts']), height)
    return region, [*issues, *([Issue(FORM, '; '.join(dict.fromkeys(forms)))] if forms else [])]


def counts_from_text(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    A character has 5 bits of a number, lowest first, as the distance from '0'. Its bit 5 says that more follow, and bit
    4 of the last one is the sign. From the fourth number on, it is the difference to the last but one.

    Raises:
        ValueError: an unexpected character, an end within a number, a number of more than 60 bits.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f'character {character!r}')
        value |= (code & 31) << shift
        shift += 5
        if shift > _MAX_BITS:
            raise ValueError('a number has more than 60 bits')
        if not code & 32:
            value -= (code & 16) << (shift - 4)     # the sign bit is worth -2^shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError('it ends within a number')
    return counts


def _checked(polygon: Any) -> list[float]:
    """Return a polygon, a list of x and y in turn; raises InvalidDataError if it cannot be drawn."""
    if not isinstance(polygon, list) or not {*map(type, polygon)} <= {int, float}:
        raise InvalidDataError('malformed polygon', f'expected a list of numbers, found {short(polygon)}')
    if not all(map(math.inf.__gt__, map(abs, polygon))):      # also False for NaN; an int may be too large for isfinite
        raise InvalidDataError('non-finite numbers', 'a coordinate of a polygon is NaN or infinite')
    if len(polygon) % 2:
        raise InvalidDataError('malformed polygon', f'{len(polygon)} coordinates are not x, y pairs')
    if len(polygon) < 6:
        raise InvalidDataError('polygon with fewer than 3 points', f'{len(polygon) // 2} points')
    if max(map(abs, polygon)) > FARTHEST:
        raise InvalidDataError('malformed polygon', f'a coordinate lies more than {FARTHEST:.0f} px away')
    if len(polygon) * max(map(abs, polygon)) > _LONGEST and _outline(polygon) > _LONGEST:
        raise InvalidDataError('malformed polygon', f'its outline is longer than {_LONGEST:.0f} px')
    return polygon


def _outline(polygon: list[float]) -> float:
    """Return the length of the closed outline, px, along the longer axis of each edge."""
    points = np.array(polygon, float).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _region(runs: np.ndarray, height: int) -> Region:
    """Return the mask of run lengths, int64, that cover the image."""
    ones = 1 + 2 * runs[1::2].nonzero()[0]      # runs of 1s that are not empty
    if not len(ones):
        raise InvalidDataError('empty mask', 'the segmentation covers no pixel')
    ends = runs[:ones[-1] + 1].cumsum()
    firsts, lasts = ends[ones - 1], ends[ones] - 1
    (first_columns, first_rows), (last_columns, last_rows) = np.divmod(firsts, height), np.divmod(lasts, height)
    left = int(first_columns[0])
    around = np.concatenate((first_rows[:1], runs[ones[0]:ones[-1] + 1], height - 1 - last_rows[-1:]))
    values = np.zeros(len(around), np.uint8)
    values[1::2] = 1
    columns = values.repeat(around).reshape(-1, height)
    top, bottom = 0, height
    if (first_columns == last_columns).all():      # else a run continues from the last row to the first
        top, bottom = int(first_rows.min()), int(last_rows.max()) + 1
    return Region(columns[:, top:bottom].T, top, left, float(runs[1::2].sum()))


def _runs_of_text(text: bytes) -> np.ndarray:
    """Return the run lengths, int64, of compressed text from pycocotools: a vectorized `counts_from_text`."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    lasts = (codes < 32).nonzero()[0]
    starts = np.concatenate(([0], lasts[:-1] + 1))
    digits = lasts - starts + 1
    places = np.arange(len(codes)) - np.repeat(starts, digits)
    runs = np.add.reduceat((codes & 31) << 5 * places, starts)
    runs -= (codes[lasts] & 16) << 1 << 5 * (digits - 1)      # the sign bit is worth -2^(5 digits)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def _checked_runs(code: dict[str, Any], height: int, width: int) -> tuple[list[int], list[str]]:
    """Return the run lengths of an RLE, and descriptions of forms that are not COCO's."""
    (size, of_size), (counts, of_counts) = segmentation_forms.size(code), segmentation_forms.counts(code)
    if size not in (None, [height, width]):
        exchanged = '; perhaps height and width are exchanged' if size == [width, height] else ''
        raise InvalidDataError('mask of another size', f'RLE is {short(size)} (height, width), the image [{height}, '
                                                       f'{width}]'
                                                       f'{exchanged}')
    runs = _counts(counts)
    # Other runs would make pycocotools read and write outside its memory.
    if min(runs, default=0) < 0:
        raise InvalidDataError('malformed RLE', f'it has a run of {min(runs)} pixels')
    if sum(runs) != height * width:
        raise InvalidDataError('malformed RLE', f'its runs hold {sum(runs)} pixels, the image {height * width}')
    return runs, [*of_size, *of_counts]


def _counts(counts: Any) -> list[int]:
    if isinstance(counts, str):
        try:
            return counts_from_text(counts)
        except ValueError as error:
            raise InvalidDataError('malformed RLE', f'counts: {error}') from None
    if isinstance(counts, list) and all(type(v) is int for v in counts):
        return counts
    raise InvalidDataError('malformed RLE', f'expected text or a list of ints as counts, found {short(counts)}')
