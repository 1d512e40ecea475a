"""Proposals by Selective Search (Uijlings et al., 2013) as OpenCV computes it; the extra `proposals` brings that.

m boxes of an image. OpenCV groups segments of colour greedily into ever larger regions, in several ways; each region
gives a box. It draws the order of the boxes from the C library's random numbers, which differ from call to call; the
order here is a function of the boxes alone, so that a set is the same whoever computes it, in however many processes.
"""
from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from data_tools.issues import ConversionError, Unusable
from mrcnn_tf.input.records import Proposals

MODES = ('fast', 'quality')
_SEED = 0


def check(mode: str) -> None:
    """Raises ConversionError where the mode is unknown or OpenCV is missing."""
    if mode not in MODES:
        raise ConversionError(f'mode {mode!r}: expected one of {", ".join(MODES)}')
    _opencv()


def propose(encoded: bytes, mode: str = 'fast') -> Proposals:
    """All boxes of an image, best first; scores fall evenly from 1 to 1 / m.

    Args:
        encoded: bytes of a JPEG or PNG; an EXIF orientation is not applied.
        mode: 'fast' or 'quality', which groups in more ways and takes several times as long.

    Raises:
        Unusable: OpenCV cannot decode the image.
        ConversionError: OpenCV is missing.
    """
    cv2 = _opencv()
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise Unusable('corrupt image', 'OpenCV cannot decode it')
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    (search.switchToSelectiveSearchFast if mode == 'fast' else search.switchToSelectiveSearchQuality)()
    boxes = ordered(np.asarray(search.process(), np.int64).reshape(-1, 4))
    x, y, width, height = boxes.T
    return Proposals(np.stack([y, x, y + height, x + width], axis=1).astype(np.float32), ranked(len(boxes)))


def ordered(boxes: np.ndarray) -> np.ndarray:
    """Boxes x, y, width, height in an order that mixes sizes and favours large ones.

    The paper (section 3.3) sorts regions by their position in the hierarchy, the whole image
    first, times a random number. Here the position is that by area, and the numbers are always the same.
    """
    x, y, width, height = boxes.T
    boxes = boxes[np.lexsort((height, width, y, x, -width * height))]
    draws = np.random.Generator(np.random.PCG64(_SEED)).random(len(boxes))
    return boxes[np.argsort(np.arange(1, len(boxes) + 1) * draws, kind='stable')]


def ranked(count: int) -> np.ndarray:
    """Scores float32 [count] of boxes of which only the order is known: they fall evenly from 1 to 1 / count."""
    return (np.arange(count, 0, -1) / max(count, 1)).astype(np.float32)


def _opencv() -> Any:
    with contextlib.suppress(ImportError):
        import cv2

        if hasattr(cv2, 'ximgproc'):
            return cv2
    raise ConversionError("Selective Search is in OpenCV's contributed modules; pip install 'mrcnn-tf[proposals]'")
