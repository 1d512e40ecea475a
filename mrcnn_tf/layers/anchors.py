"""Anchor boxes: Faster R-CNN 3.1.1, with one scale a pyramid level (FPN 4.1).

B images, C channels, A anchors of all levels, flattened by level, row, column and anchor of the cell.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.config import AnchorConfig
from mrcnn_tf.layers.feature_maps import as_list
from mrcnn_tf.ops.arguments import check_choice, check_list
from mrcnn_tf.ops.tensor_shapes import Dimension, dimensions

ORDERS = ('ratio_major', 'size_major')


def base_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = False,
                 order: str = 'ratio_major') -> np.ndarray:
    """Return the anchors of one cell around the origin, float32 [sizes * ratios, 4] in px.

    Args:
        sizes: square roots of the areas, px.
        ratios: height / width.
        rounded: round to whole pixels, halves to even.
        order: 'ratio_major' lists all sizes of the first ratio, then those of the next (torchvision); 'size_major' all
            ratios of the first size first (Detectron2).

    Example:
        >>> base_anchors([16.], [0.25, 1.]).tolist()
        [[-4.0, -16.0, 4.0, 16.0], [-8.0, -8.0, 8.0, 8.0]]
    """
    root = np.sqrt(np.asarray(ratios, np.float64))[:, None]                       # [ratios, 1]
    sides = np.asarray(sizes, np.float64)[None, :]
    half = np.stack([root * sides, sides / root], axis=-1) / 2                    # [ratios, sizes, 2]
    half = (half if order == 'ratio_major' else half.swapaxes(0, 1)).reshape(-1, 2)
    boxes = np.concatenate([-half, half], axis=1)
    return (np.round(boxes) if rounded else boxes).astype(np.float32)             # halves to even, as torch rounds


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class AnchorGenerator(keras.layers.Layer):
    """The anchor boxes of feature maps (Faster 3.1.1; FPN 4.1). The defaults are those of an FPN's P2 to P6.

    The input is a list of feature maps [B, rows, columns, C], the finest first, or a single one. The output is anchors
    float32 [A, 4] in px, the same for all images of the batch, neither clipped to the image nor dropped. They run by
    level, row, column and anchor of the cell. The center of the anchors of row i lies at (i + offset) * stride.

    Args:
        sizes: square roots of the areas in px, one list per level.
        ratios: height / width.
        strides: px between neighboring cells, one number per level (Detectron2). None: the side of the canvas divided
            by the number of cells, rounded down (torchvision), which differs from the level's stride where it does not
            divide the canvas: 800 px give P6 13 rows, 61 px apart, not 64. `canvas` must then be given in each call.
        rounded: round the anchors of one cell to whole pixels (torchvision).
        offset: of the first center, in strides; 0 puts it on the corner of the first cell.
        order: of the anchors of one cell, see `base_anchors`.

    Raises:
        ValueError: an argument is none of these, or `strides` does not have one number for each level.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.anchors import AnchorGenerator
        >>> pyramid = [tf.zeros([1, 64 // stride, 64 // stride, 3]) for stride in (4, 8, 16, 32, 64)]
        >>> tuple(AnchorGenerator()(pyramid).shape)      # 3 anchors in each of 256 + 64 + 16 + 4 + 1 cells
        (1023, 4)
        >>> AnchorGenerator(sizes=[[32.]], ratios=[1.], strides=[16])(tf.zeros([1, 1, 2, 3])).numpy().tolist()
        [[-16.0, -16.0, 16.0, 16.0], [-16.0, 0.0, 16.0, 32.0]]
    """

    def __init__(self, sizes: Sequence[Sequence[float]] = ((32.,), (64.,), (128.,), (256.,), (512.,)),
                 ratios: Sequence[float] = (.5, 1., 2.), strides: Sequence[float] | None = (4, 8, 16, 32, 64),
                 rounded: bool = False, offset: float = 0., order: str = 'ratio_major', **kwargs: Any) -> None:
        super().__init__(**{'autocast': False, 'dtype': 'float32', **kwargs})
        for each in sizes:
            check_list('AnchorGenerator', 'a level of sizes', each)
        check_list('AnchorGenerator', 'ratios', ratios)
        check_choice('AnchorGenerator', 'order', order, ORDERS)
        if strides is not None:
            check_list('AnchorGenerator', 'strides', strides)
            if len(strides) != len(sizes):
                raise ValueError(f'AnchorGenerator: strides is {strides!r}; expected {len(sizes)} numbers, one for '
                                 'each list of sizes')
        # A copy: Keras 2 puts wrappers into the lists that a layer holds, and these are the config's.
        self.sizes = [list(each) for each in sizes]
        self.ratios, self.strides = tuple(ratios), None if strides is None else tuple(strides)
        self.rounded, self.offset, self.order = rounded, offset, order

    @classmethod
    def of(cls, config: AnchorConfig, strides: Sequence[int], **kwargs: Any) -> AnchorGenerator:
        """Return the anchors that a config's `model.anchors` describes, for levels of these strides, in px."""
        return cls(config.sizes, config.ratios, strides if config.stride == 'level' else None, config.rounded,
                   config.offset, config.order, **kwargs)

    @property
    def per_cell(self) -> list[int]:
        """The number of anchors of a cell, for each level."""
        return [len(s) * len(self.ratios) for s in self.sizes]

    def call(self, features: Sequence[tf.Tensor] | tf.Tensor, canvas: Any = None) -> tf.Tensor:
        """Return the anchors of all levels.

        Args:
            features: the finest first, or a single one; rows and columns may be dynamic.
            canvas: height and width of the images that they come from, px, two ints or int32 [2]; used only without
                `strides`.

        Raises:
            ValueError: neither `strides` nor `canvas` is given; more or fewer feature maps than levels.
        """
        features = as_list('AnchorGenerator', features, len(self.sizes))
        if self.strides is None and canvas is None:
            raise ValueError('AnchorGenerator: without strides, the anchors depend on the canvas: pass '
                             'canvas=(height, width) or construct the layer with strides')
        levels = [self._level(base_anchors(sizes, self.ratios, self.rounded, self.order), *self._centers(
            dimensions(feature)[1:3], level, canvas))
            for level, (sizes, feature) in enumerate(zip(self.sizes, features, strict=True))]
        return tf.concat(levels, axis=0)

    def _centers(self, grid: Sequence[Dimension], level: int, canvas: Any) -> list[tf.Tensor]:
        """Return y of each row and x of each column of cells, float32."""
        strides = [canvas[axis] // cells for axis, cells in enumerate(grid)] if self.strides is None else (
            [self.strides[level]] * 2)
        return [(tf.range(cells, dtype=tf.float32) + self.offset) * tf.cast(stride, tf.float32)
                for cells, stride in zip(grid, strides, strict=True)]

    def _level(self, base: np.ndarray, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        yy, xx = tf.meshgrid(y, x, indexing='ij')
        shift = tf.stack([yy, xx, yy, xx], axis=-1)                                # [rows, columns, 4]
        return tf.reshape(shift[:, :, None] + base, [-1, 4])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'sizes': [list(each) for each in self.sizes], 'ratios': list(self.ratios),
                'strides': None if self.strides is None else list(self.strides), 'rounded': self.rounded,
                'offset': self.offset, 'order': self.order}


def cells_of_images(features: Sequence[tf.Tensor], strides: Sequence[int], sizes: tf.Tensor) -> list[tf.Tensor]:
    """Return which cells of each level an image would have on a canvas of its own.

    Args:
        features: feature maps [B, rows, columns, C] of the levels.
        strides: px per cell of each level.
        sizes: float32 [B, 2], height and width of each image's own canvas, px.

    Returns:
        For each level bool [B, rows * columns].

    Example:
        >>> import tensorflow as tf
        >>> feature = tf.zeros([1, 2, 2, 1])
        >>> cells_of_images([feature], [4], tf.constant([[8., 4.]]))[0].numpy().tolist()
        [[True, False, True, False]]
    """
    levels = []
    for feature, stride in zip(features, strides, strict=True):
        _, rows, columns, _ = dimensions(feature)
        down, across = (tf.range(cells, dtype=tf.float32) * stride < sizes[:, axis, None]
                        for axis, cells in enumerate((rows, columns)))
        levels.append(tf.reshape(down[:, :, None] & across[:, None, :], [sizes.shape[0], -1]))
    return levels
