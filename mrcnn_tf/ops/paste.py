"""A mask predicted over a box becomes a mask of the whole image, and COCO's run-length code (Mask 3.1, inference).

n objects, m cells a side of a predicted mask (28), H x W the image in pixels. Both dialects are bilinear with zeros
beyond the mask, hence separable: image = rows @ mask @ columns.T, where rows [h, m] and columns [w, m] hold the weight
of every cell in every pixel of the h x w window that the mask can reach. They differ in where a pixel falls among the
cells:

- 'pixel_center' (Detectron2, MMDetection): the pixel's centre, placed in the box as it is. A box of no area is empty.
- 'detectron' (Detectron, torchvision): the mask with a border of one zero cell is resized to the box grown by
  (m + 2) / m, its corners cut to integers, one pixel added to each side.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

_PIXELS = 1 << 16    # sides of windows, summed, whose weights are computed at once
_BAND = 1 << 18      # multiply-adds of a band of pixels; OpenBLAS would run a larger product on threads and take longer


class Window(NamedTuple):
    """What one mask covers of the image, from row `top` and column `left` on: `rows @ mask @ columns.T`."""
    top: int
    left: int
    rows: np.ndarray       # float32 [h, m]
    columns: np.ndarray    # float32 [w, m]


def windows(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, dialect: str) -> Iterator[Window]:
    """The window of each mask; it is empty (h or w is 0) where the box does not touch the image.

    Args:
        masks: float [n, m, m], probabilities 0..1.
        boxes: [n, 4], y1, x1, y2, x2 in pixels of the image; may reach beyond it.
        height, width: sides of the image, px.
        dialect: 'pixel_center' or 'detectron'.

    Raises:
        ValueError: shapes that do not fit each other, a box that is not finite, an unknown dialect.
    """
    if dialect not in _DIALECTS:
        raise ValueError(f'paste dialect {dialect!r}: expected one of {", ".join(_DIALECTS)}')
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(f'masks {masks.shape} and boxes {boxes.shape}: expected [n, m, m] and [n, 4]')
    if not np.isfinite(boxes).all():
        raise ValueError(f'box {int(np.argmin(np.isfinite(boxes).all(1)))} is not finite')
    step = max(1, _PIXELS // max(1, height, width))
    for start in range(0, len(boxes), step):
        y1, x1, y2, x2 = boxes[start:start + step].astype(np.float64).T
        rows = _weights(y1, y2, height, masks.shape[1], _DIALECTS[dialect])
        columns = _weights(x1, x2, width, masks.shape[2], _DIALECTS[dialect])
        for (top, of_rows), (left, of_columns) in zip(rows, columns, strict=True):
            yield Window(top, left, of_rows, of_columns)


def paste(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, dialect: str,
          threshold: float = 0.5) -> Iterator[np.ndarray]:
    """Yield masks of the whole image, one at a time: uint8 [H, W] in column order, 1 if the probability >= threshold.

    The memory is one byte per pixel of the image, whatever n is. Arguments and errors are those of `windows`.

    Example:
        >>> import numpy as np
        >>> import mrcnn_tf as m
        >>> masks, boxes = np.ones([1, 28, 28], np.float32), np.float32([[1, 1, 3, 4]])
        >>> for mask in m.paste.paste(masks, boxes, height=4, width=5, dialect='pixel_center'):
        ...     print(mask)
        [[0 0 0 0 0]
         [0 1 1 1 0]
         [0 1 1 1 0]
         [0 0 0 0 0]]
    """
    for mask, window in zip(masks, windows(masks, boxes, height, width, dialect), strict=True):
        image = np.zeros((width, height), np.uint8)                    # transposed: COCO's code runs down the columns
        part = image[window.left:window.left + len(window.columns), window.top:window.top + len(window.rows)]
        _cut(mask, window, threshold, part)
        yield image.T


def paste_all(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, dialect: str,
              threshold: float = 0.5) -> np.ndarray:
    """Return all masks that `paste` gives as one array, bool [n, H, W], one byte for each pixel and mask.

    Arguments and errors are those of `windows`.
    """
    images = np.zeros((len(masks), height, width), bool)
    for image, mask, window in zip(images, masks, windows(masks, boxes, height, width, dialect), strict=True):
        part = image[window.top:window.top + len(window.rows), window.left:window.left + len(window.columns)]
        _cut(mask, window, threshold, part.T)
    return images


def to_rle(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, dialect: str,
           threshold: float = 0.5) -> list[dict[str, Any]]:
    """Return COCO's compressed run-length code of every mask that `paste` gives: {'size': [H, W], 'counts': text}.

    Only the window of each mask is computed, not the whole image. The code is the same.
    """
    codes = []
    for mask, window in zip(masks, windows(masks, boxes, height, width, dialect), strict=True):
        # A zero after each column separates the runs, except where the next column follows in the image too.
        count, rows = len(window.rows), len(window.rows) + (len(window.rows) < height)
        pixels = np.zeros(len(window.columns) * rows + 2, np.uint8)    # and a zero at either end
        _cut(mask, window, threshold, pixels[1:-1].reshape(-1, max(rows, 1))[:, :count])
        column, row = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), max(rows, 1))
        codes.append(_code((window.left + column) * height + window.top + row, height, width))
    return codes


def _cut(mask: np.ndarray, window: Window, threshold: float, image: np.ndarray) -> None:
    """Set uint8 or bool [w, h], the transposed image of the window, to probability >= threshold."""
    inner = mask.astype(np.float32).T @ window.rows.T                  # [m, h]
    step = max(1, _BAND // max(1, inner.size))
    for start in range(0, len(window.columns), step):
        image[start:start + step] = window.columns[start:start + step] @ inner >= threshold


def _code(edges: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Return COCO's compressed code of the runs between ascending edges, positions down the columns of the image."""
    ends = np.concatenate([[0], edges, [height * width]])
    counts = (ends[1:] - ends[:-1]).tolist()
    if len(edges) and not counts[-1]:
        counts.pop()
    rle = coco_mask.frPyObjects({'size': [height, width], 'counts': counts}, height, width)
    return {'size': [height, width], 'counts': rle['counts'].decode('ascii')}


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length code of one mask of a whole image ([H, W], 0 or not 0), ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask != 0).view(np.uint8))
    return {'size': [int(side) for side in rle['size']], 'counts': rle['counts'].decode('ascii')}


class _Places(NamedTuple):
    """Of n boxes along one axis: the first pixel and the one after the last, int [n], and a function of pixels and of
    the numbers of their boxes: where the pixels lie among the cells (centres 0 .. m - 1).
    """
    first: np.ndarray
    end: np.ndarray
    position: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _pixel_center(low: np.ndarray, high: np.ndarray, side: int, cells: int) -> _Places:
    reach = 0.5 * (high - low) / cells + 1.0    # interpolation towards the zeros beyond: half a cell, whole pixels
    first = np.clip(np.floor(low - reach), 0, side)
    end = np.where(high > low, np.minimum(np.maximum(np.ceil(high + reach), first), side), first)
    return _Places(first.astype(int), end.astype(int), lambda pixel, box: (
        pixel + 0.5 - low[box]) / (high - low)[box] * cells - 0.5)


def _detectron(low: np.ndarray, high: np.ndarray, side: int, cells: int) -> _Places:
    """Counted from the border cell, which is zero, the first true cell is number 1."""
    center, half = 0.5 * (low + high), 0.5 * (high - low) * (cells + 2) / cells
    start, stop = np.trunc(center - half), np.trunc(center + half) + 1
    length = np.maximum(stop - start, 1)
    first = np.clip(start, 0, side)
    end = np.minimum(np.maximum(start + length, first), side)
    return _Places(first.astype(int), end.astype(int), lambda pixel, box: (
        pixel - start[box] + 0.5) * (cells + 2) / length[box] - 1.5)


def _weights(low: np.ndarray, high: np.ndarray, side: int, cells: int, place: Callable[..., _Places]
             ) -> Iterator[tuple[int, np.ndarray]]:
    """Yield of each box its first pixel and the bilinear weights of its pixels, float32 [pixels, m].

    A cell counts 1 at its centre and falls to 0 at the next one's, so a pixel reads two cells.
    """
    places = place(low, high, side, cells)
    ends = np.cumsum(places.end - places.first)
    box = np.repeat(np.arange(len(low)), places.end - places.first)
    pixel = np.arange(len(box)) + (places.end - ends)[box]
    position = places.position(pixel, box)
    weights, below = np.zeros((len(box), cells), np.float32), np.floor(position).astype(int)
    for cell in (below, below + 1):
        there = np.flatnonzero((cell >= 0) & (cell < cells))
        weights[there, cell[there]] = 1.0 - np.abs(position[there] - cell[there])
    return zip(places.first.tolist(), np.split(weights, ends[:-1]), strict=True)


_DIALECTS: dict[str, Callable[[np.ndarray, np.ndarray, int, int], _Places]] = {
    'pixel_center': _pixel_center, 'detectron': _detectron}
