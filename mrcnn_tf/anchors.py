"""Anchor boxes: Faster R-CNN 3.1.1, with one scale a pyramid level (FPN 4.1).

A anchors of all levels, flattened by level, row, column, ratio, size.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def base_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> np.ndarray:
    """Anchors around the origin, float32 [ratios * sizes, 4], px; ratio = height / width, area = size^2."""
    root = np.sqrt(np.asarray(ratios, np.float64))[:, None]                       # [ratios, 1]
    sides = np.asarray(sizes, np.float64)[None, :]
    half = np.stack([root * sides, sides / root], axis=-1).reshape(-1, 2) / 2     # [ratios * sizes, 2]
    boxes = np.concatenate([-half, half], axis=1)
    return (np.round(boxes) if rounded else boxes).astype(np.float32)             # halves to even, as torch rounds


class AnchorGenerator(keras.layers.Layer):
    """Levels [B, rows, columns, C] -> anchors float32 [A, 4] in px of the canvas, neither clipped nor dropped.

    Args:
        sizes: sides in px, one list a level.
        ratios: height / width.
        rounded: base anchors to whole pixels (torchvision's dialect).
        offset: of the first centre, in strides; 0 puts it on the corner of the first cell.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], rounded: bool = False,
                 offset: float = 0., **kwargs: Any) -> None:
        super().__init__(**{'autocast': False, 'dtype': 'float32', **kwargs})
        # A copy: Keras 2 puts wrappers into the lists that a layer holds, and these are the config's.
        self.sizes = [list(each) for each in sizes]
        self.ratios, self.rounded, self.offset = ratios, rounded, offset

    @property
    def per_cell(self) -> list[int]:
        """Anchors of one cell, a number a level."""
        return [len(s) * len(self.ratios) for s in self.sizes]

    def call(self, features: Sequence[tf.Tensor], canvas: tuple[int, int] = (0, 0)) -> tf.Tensor:
        """features: of static shape, the finest first; canvas: (height, width) px of the images they come from."""
        levels = [self._level(base_anchors(sizes, self.ratios, self.rounded), feature.shape[1:3], canvas)
                  for sizes, feature in zip(self.sizes, features, strict=True)]
        return tf.constant(np.concatenate(levels))

    def _level(self, base: np.ndarray, grid: Sequence[int], canvas: tuple[int, int]) -> np.ndarray:
        rows, columns = grid
        y = (np.arange(rows, dtype=np.float32) + self.offset) * (canvas[0] // rows)
        x = (np.arange(columns, dtype=np.float32) + self.offset) * (canvas[1] // columns)
        yy, xx = np.meshgrid(y, x, indexing='ij')
        shift = np.stack([yy, xx, yy, xx], axis=-1).astype(np.float32)            # [rows, columns, 4]
        return (shift[:, :, None] + base).reshape(-1, 4)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'sizes': self.sizes, 'ratios': self.ratios, 'rounded': self.rounded,
                'offset': self.offset}
