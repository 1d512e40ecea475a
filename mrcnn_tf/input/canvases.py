"""The sizes of a set's images, and the canvases that waste least of the memory on padding.

N image sizes, C canvases. A size is height and width in px; a canvas is a multiple of 32 px on each side.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.input import images, records
from mrcnn_tf.input.damage import explain
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.tuning import untuned

Sizes = Mapping[tuple[int, int], int]      # number of images of each size
LARGEST_SCALE = 2.                         # of images in a recipe for other data
_EXTRA = 2                                 # canvases beside those that hold every image of the resize rule
_WORTH = 0.05                              # an extra canvas saves at least this share of the padded area


class Padding(NamedTuple):
    """What canvases cost on the images of a set."""
    area: float           # padded area, as a multiple of the area of the resized images
    scale: float          # median factor by which images are resized


def image_sizes(manifest: str | os.PathLike[str], most: int = 1000) -> dict[tuple[int, int], int]:
    """Return how many of the first `most` images of a set have each size. No image is decoded.

    Raises:
        ManifestError: the manifest cannot be used.
        InputError: a damaged shard or record.
    """
    def size(serialized: tf.Tensor) -> tf.Tensor:
        record = records.parse_size(serialized)
        return tf.stack([record['height'], record['width']])

    files = Manifest.read(manifest).shard_paths(manifest)
    dataset = tf.data.TFRecordDataset(files).take(most).map(tf.autograph.experimental.do_not_convert(size))
    try:
        sizes = np.array(list(untuned(dataset).as_numpy_iterator()), np.int64).reshape(-1, 2)
    except tf.errors.OpError as error:
        raise explain(error, manifest) from error
    unique, counts = np.unique(sizes, axis=0, return_counts=True)
    return {(int(height), int(width)): int(count) for (height, width), count in zip(unique, counts, strict=True)}


def propose(sizes: Sizes, data: DataConfig) -> list[list[int]]:
    """Return canvases for a set: the extremes of the resize rule, and up to two that fit most of its images better.

    Args:
        sizes: of the images.
        data: the function reads `short_sides`, `long_side` and the same of the test size, and `round_sides`.
    """
    short, long = _round_up(np.array(_largest(data))).tolist()
    canvases = [[short, long]] if short == long else [[short, long], [long, short]]
    shapes, weights = _resized(sizes, data)
    candidates = np.unique(_round_up(shapes), axis=0)
    for _ in range(_EXTRA):
        areas = [_area(shapes, weights, [*canvases, each.tolist()]) for each in candidates]
        best = int(np.argmin(areas))
        if areas[best] > (1 - _WORTH) * _area(shapes, weights, canvases):
            break
        canvases.append(candidates[best].tolist())
    return sorted(canvases)


def smaller_sides(sizes: Sizes, data: DataConfig) -> dict[str, int | list[int]]:
    """Return the sides of the resize rule scaled down so that it enlarges images at most `LARGEST_SCALE` times.

    Args:
        sizes: of the images; the median of their shorter sides counts.
        data: the function reads the sides of training and tests.

    Returns:
        Settings of `data` by name; empty if the rule does so already.
    """
    shorter = np.repeat([min(size) for size in sizes], list(sizes.values()))
    scale = LARGEST_SCALE * float(np.median(shorter)) / max(data.short_sides)
    if scale >= 1:
        return {}

    def scaled(side: int) -> int:
        return max(32, round(side * scale / 32) * 32)

    return {'short_sides': sorted({scaled(side) for side in data.short_sides}), 'long_side': scaled(data.long_side),
            'test_short_side': scaled(data.test_short_side), 'test_long_side': scaled(data.test_long_side)}


def padding(sizes: Sizes, data: DataConfig, canvases: Sequence[Sequence[int]]) -> Padding:
    """Return what canvases, of which one holds each image, cost on the images of a set."""
    shapes, weights = _resized(sizes, data)
    scales = np.repeat(shapes[:, 0] / np.array(list(sizes), float)[:, 0], weights)
    own = (shapes.prod(axis=1) * weights).sum()
    return Padding(_area(shapes, weights, canvases) / own, float(np.median(scales)))


def _largest(data: DataConfig) -> tuple[int, int]:
    """Return the largest shorter and longer side of a resized image, in training and tests."""
    short, long = max(*data.short_sides, data.test_short_side), max(data.long_side, data.test_long_side)
    return min(short, long), long


def _resized(sizes: Sizes, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the shapes of images in training at the largest short side, int64 [N, 2], and the number of each."""
    heights, widths = np.array(list(sizes)).T
    shapes = images.resized_shape(heights, widths, max(data.short_sides), data.long_side, data.round_sides)
    return np.asarray(shapes, np.int64).T, np.array(list(sizes.values()))


def _area(shapes: np.ndarray, weights: np.ndarray, canvases: Sequence[Sequence[int]]) -> float:
    """Return the area of the smallest canvas that holds each shape, summed over the images."""
    sides = np.array(canvases)
    holds = (shapes[:, None] <= sides).all(axis=2)                            # [N, C]
    return float((np.where(holds, sides.prod(axis=1), np.inf).min(axis=1) * weights).sum())


def _round_up(sides: np.ndarray) -> np.ndarray:
    return -(-sides // 32) * 32
