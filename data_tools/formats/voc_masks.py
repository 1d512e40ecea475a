"""Read the masks of PASCAL VOC: in SegmentationObject/ID.png, pixel k belongs to object k of the xml, from 1.

255 is the border between objects. The png is a palette image, gray, or an image of the palette's colors.
"""
from __future__ import annotations

import pathlib

import numpy as np

from data_tools import images
from data_tools.formats.voc_folders import SEGMENTS
from data_tools.issues import InvalidDataError, Issue

_BORDER = 255
_CODE = np.array([1 << 16, 1 << 8, 1])      # red, green, blue to one number


def read(path: pathlib.Path) -> np.ndarray:
    """Return the object of each pixel, uint8 [height, width]; 0: none.

    Raises:
        InvalidDataError: the file is missing, cannot be decoded, or is no such image.
    """
    if not path.is_file():
        raise InvalidDataError('no segmentation', str(path))
    pixels = images.pixels(images.read(path), str(path))
    if pixels.dtype != np.uint8 or pixels.shape[2:] == (2,):
        raise InvalidDataError('malformed annotation', f'{path}: expected a palette, gray values of 8 bit or colors; '
                                                       '--boxes converts without masks')
    if pixels.ndim == 3:
        pixels = _indices(pixels[..., :3], path)
    return np.where(pixels == _BORDER, 0, pixels)


def color_map() -> np.ndarray:
    """Return VOC's colors, uint8 [256, 3].

    The lowest three bits of an index are the highest bits of red, green and blue, the next three the second highest,
    and so on.
    """
    bits = np.arange(256)[:, None] >> np.arange(9) & 1      # [256, 9], the lowest first
    return (bits.reshape(256, 3, 3) << np.array([7, 6, 5])[:, None]).sum(1).astype(np.uint8)


def unknown_segments(pixels: np.ndarray | None, count: int) -> list[Issue]:
    """Return an issue if pixels belong to objects beyond the `count` of the xml."""
    values = [] if pixels is None else np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    beyond = [value for value in values if value > count]
    return [Issue('segments of no object', f'{beyond[:5]}, the xml has {count} objects')] if beyond else []


def mask(pixels: np.ndarray, number: int, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of an object, bool [height, width].

    Args:
        pixels: from `read`.
        number: of the object, from 1.
        size: height and width of the image, px.

    Raises:
        InvalidDataError: the pixels have another size than the image.
    """
    if pixels.shape != size:
        raise InvalidDataError('mask of another size', f'{SEGMENTS} is {pixels.shape[1]} wide and {pixels.shape[0]} '
                                                       f'high, the image {size[1]} wide and {size[0]} high')
    return np.asarray(pixels == number)


def _indices(pixels: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Return the index of each color, uint8 [height, width]."""
    colors, codes = color_map() @ _CODE, pixels @ _CODE
    order = np.argsort(colors)
    indices = order[np.searchsorted(colors, codes, sorter=order).clip(max=_BORDER)]
    wrong = pixels[colors[indices] != codes]
    if len(wrong):
        raise InvalidDataError('malformed annotation', f"{path}: RGB {wrong[0].tolist()} is no color of VOC's map; "
                                                       '--boxes converts without masks')
    return indices.astype(np.uint8)
