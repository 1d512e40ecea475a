"""Proposals by OpenCV's Selective Search (Uijlings et al., 2013); the extra `proposals` installs OpenCV.

m boxes of an image. OpenCV greedily groups segments of color into larger and larger regions, in several ways, and each
region gives a box. It orders the boxes by random numbers of the C library, which differ from call to call. The order
here depends on the boxes only, so a set is the same on every machine and for any number of processes.
"""
from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.issues import ConversionError, InvalidDataError
from mrcnn_tf.files.extras import install
from mrcnn_tf.input.records import Proposals

MODES = ('fast', 'quality')
_SEED = 0


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective Search in a mode: 'fast', or 'quality', which groups in more ways and takes several times as long.

    Raises:
        ConversionError: the mode is unknown, or OpenCV is not installed.
    """
    mode: str = 'fast'

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConversionError(f'mode is {self.mode!r}, expected one of {", ".join(MODES)}')
        _opencv()

    def __str__(self) -> str:
        return f'selective search, {self.mode}'


def propose(encoded: bytes, mode: str = 'fast') -> Proposals:
    """Return all boxes of an image, best first; the scores fall evenly from 1 to 1 / m.

    Args:
        encoded: bytes of a JPEG or PNG; the EXIF orientation is not applied.
        mode: 'fast', or 'quality', which groups in more ways and takes several times as long.

    Returns:
        boxes float32 [m, 4], y1, x1, y2, x2 in px with continuous edges, and scores float32 [m].

    Raises:
        InvalidDataError: OpenCV cannot decode the image.
        ConversionError: OpenCV is not installed.
    """
    cv2 = _opencv()
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InvalidDataError('corrupt image', 'OpenCV cannot decode it')
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    (search.switchToSelectiveSearchFast if mode == 'fast' else search.switchToSelectiveSearchQuality)()
    boxes = order_boxes(np.asarray(search.process(), np.int64).reshape(-1, 4))
    x, y, width, height = boxes.T
    return Proposals(np.stack([y, x, y + height, x + width], axis=1).astype(np.float32), rank_scores(len(boxes)))


def order_boxes(boxes: np.ndarray) -> np.ndarray:
    """Return boxes int [m, 4] (x, y, width, height) in an order that mixes sizes and prefers large ones.

    The paper (section 3.3) sorts regions by their position in the hierarchy, the whole image first, times a random
    number. Here the position is the rank by area, and the random numbers have a fixed seed.
    """
    x, y, width, height = boxes.T
    boxes = boxes[np.lexsort((height, width, y, x, -width * height))]
    random = np.random.Generator(np.random.PCG64(_SEED)).random(len(boxes))
    return boxes[np.argsort(np.arange(1, len(boxes) + 1) * random, kind='stable')]


def rank_scores(count: int) -> np.ndarray:
    """Return scores float32 [count] for boxes of which only the order is known: evenly from 1 down to 1 / count."""
    return (np.arange(count, 0, -1) / max(count, 1)).astype(np.float32)


def _opencv() -> Any:
    with contextlib.suppress(ImportError):
        import cv2

        if hasattr(cv2, 'ximgproc'):
            return cv2
    raise ConversionError(f"Selective Search needs OpenCV's contributed modules: {install('proposals')}")
