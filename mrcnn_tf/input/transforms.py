"""Resize and flip: each moves image, boxes and masks together.

h, w height and width of the image in hand; n objects; S side of a mask crop. A seed is int64 [2]; equal seeds draw
equal numbers, whatever was drawn before.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.input import images

_SIDE, _FLIPS = 0, 1      # what a draw is for: draws for different purposes are independent


class Sample(NamedTuple):
    """An image and the objects on it."""
    image: tf.Tensor                  # float32 [h, w, 3]
    boxes: tf.Tensor                  # float32 [n, 4], y1, x1, y2, x2 in px of `image`
    masks: tf.Tensor | None = None    # uint8 [n, S, S], 0..255, each over its box


def resize(sample: Sample, shape: tf.Tensor, antialias: bool = False) -> Sample:
    """To `shape`, int32 [2]; antialias: as `images.resize`. A mask crop is of its box and stays as it is."""
    scale = tf.cast(shape, tf.float32) / tf.cast(tf.shape(sample.image)[:2], tf.float32)
    image = images.resize(sample.image, shape, antialias)
    return sample._replace(image=image, boxes=sample.boxes * tf.tile(scale, [2]))


def flip_horizontal(sample: Sample) -> Sample:
    """Left becomes right."""
    return _flip(sample, 1)


def flip_vertical(sample: Sample) -> Sample:
    """Top becomes bottom."""
    return _flip(sample, 0)


def random_flips(sample: Sample, seed: tf.Tensor, horizontal: float, vertical: float) -> Sample:
    """Flips each way or not, independently, with the given probabilities 0..1."""
    draws = _uniform(seed, _FLIPS, 2)                                              # 0 <= draw < 1
    sample = _either(draws[0] < horizontal, flip_horizontal, sample)
    return _either(draws[1] < vertical, flip_vertical, sample)


def random_side(seed: tf.Tensor, sides: Sequence[int]) -> tf.Tensor:
    """One of the sides, int32 [], all equally probable."""
    index = tf.cast(_uniform(seed, _SIDE, 1)[0] * len(sides), tf.int32)
    return tf.gather(tf.constant(list(sides), tf.int32), tf.minimum(index, len(sides) - 1))


def _flip(sample: Sample, axis: int) -> Sample:
    """Along the rows (0) or the columns (1)."""
    y1, x1, y2, x2 = tf.unstack(sample.boxes, axis=1)                              # each [n]
    extent = tf.cast(tf.shape(sample.image)[axis], tf.float32)
    edges = [y1, extent - x2, y2, extent - x1] if axis else [extent - y2, x1, extent - y1, x2]
    masks = None if sample.masks is None else tf.reverse(sample.masks, [axis + 1])
    return Sample(tf.reverse(sample.image, [axis]), tf.stack(edges, axis=1), masks)


def _either(condition: tf.Tensor, transform: Callable[[Sample], Sample], sample: Sample) -> Sample:
    return tf.cond(condition, lambda: transform(sample), lambda: sample)


def _uniform(seed: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
    # A named algorithm: the automatic choice depends on the device.
    seed = tf.random.experimental.stateless_fold_in(seed, purpose, alg='philox')
    return tf.random.stateless_uniform([count], seed, alg='philox')
