"""Transforms of images with their objects and proposals: resize, flip, and what a transform of your own must do.

h, w height and width of the current image; n objects, m proposals; S side of a mask crop.

A transform is a function `transform(sample, seed) -> sample`. It runs in a graph, so it uses `tf.cond` or `tf.where`
instead of `if`, and samples random numbers with stateless functions such as `tf.random.stateless_uniform(shape, seed)`.
Each transform of an image gets its own seed, int64 [2], which depends on `train.seed`, the number of the image since
the first step and the position of the transform in the list, and on nothing else.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_tf.input import images


class Sample(NamedTuple):
    """An image with its objects and proposals.

    A transform that moves pixels moves `boxes`, `masks` and `proposals` too; one that drops objects calls `keep`. A
    mask covers its box, so that a transform that cuts a box cuts its mask in the same way.
    """
    image: tf.Tensor                      # float32 [h, w, 3], RGB 0..255
    boxes: tf.Tensor                      # float32 [n, 4], y1, x1, y2, x2 in px of `image`
    labels: tf.Tensor                     # int32 [n], 1..K
    crowd: tf.Tensor                      # bool [n]
    masks: tf.Tensor | None = None        # uint8 [n, S, S], 0..255, each over its box; None: the batch has no masks
    has_mask: tf.Tensor | None = None     # bool [n], False: the object has a box only; None as `masks`
    proposals: tf.Tensor | None = None    # float32 [m, 4], px of `image`; None: the batch has no proposals

    def keep(self, kept: tf.Tensor) -> Sample:
        """Return the sample without the objects, proposals not included, for which `kept`, bool [n], is False."""
        fields = {name: tf.boolean_mask(getattr(self, name), kept)
                  for name in ('boxes', 'labels', 'crowd', 'masks', 'has_mask') if getattr(self, name) is not None}
        return self._replace(**fields)

    def move(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Sample:
        """Return the sample with `function`, [k, 4] -> [k, 4], applied to boxes and proposals."""
        proposals = None if self.proposals is None else function(self.proposals)
        return self._replace(boxes=function(self.boxes), proposals=proposals)


Transform = Callable[[Sample, tf.Tensor], Sample]


class TransformError(ValueError):
    """A transform does not return what it should; the message is one line: which one, what it returned, what to do."""


def step_seed(seed: tf.Tensor, step: int) -> tf.Tensor:
    """Return the seed of one transform, int64 [2], from that of the image and the transform's position in the list."""
    # A named algorithm: the automatic choice depends on the device.
    return tf.random.experimental.stateless_fold_in(seed, step, alg='philox')


def uniform(seed: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Return random numbers, float32 [count], 0 <= number < 1, that depend on the seed, int64 [2], alone."""
    return tf.random.stateless_uniform([count], seed, alg='philox')


def apply(transforms: Sequence[Transform], sample: Sample, seed: tf.Tensor, first: int = 0) -> Sample:
    """Return the sample after all transforms, in order, each with its own seed.

    Args:
        transforms: functions that return a Sample with the same fields and types as they get.
        sample: with any fields.
        seed: int64 [2], of the image.
        first: position of the first transform, which determines its seed.

    Raises:
        TransformError: a transform returned another structure.
    """
    for step, transform in enumerate(transforms, first):
        result = transform(sample, step_seed(seed, step))
        if _structure(result) != _structure(sample):
            name = getattr(transform, '__name__', repr(transform))
            raise TransformError(f'transform {name}: it got {_structure(sample)} and returned {_structure(result)}; '
                                 'return a Sample with the same fields and types')
        sample = result
    return sample


def resize(sample: Sample, shape: tf.Tensor, antialias: bool = False) -> Sample:
    """Return the sample resized to `shape`, int32 [2]; antialias: as in `images.resize`."""
    image = images.resize(sample.image, shape, antialias)
    return scale_boxes(sample, tf.shape(sample.image)[:2], shape)._replace(image=image)


def scale_boxes(sample: Sample, size: tf.Tensor, shape: tf.Tensor) -> Sample:
    """Return the sample with the boxes and proposals of an image of `size`, int32 [2], in px of one of `shape`."""
    scale = tf.cast(shape, tf.float32) / tf.cast(size, tf.float32)
    return sample.move(lambda boxes: boxes * tf.tile(scale, [2]))


def flip_horizontal(sample: Sample) -> Sample:
    """Return the sample mirrored left to right.

    Example:
        >>> import tensorflow as tf
        >>> import mrcnn_tf as m
        >>> sample = m.transforms.Sample(image=tf.zeros([10, 20, 3]), boxes=tf.constant([[0., 0., 4., 5.]]),
        ...                              labels=tf.constant([1]), crowd=tf.constant([False]))
        >>> m.transforms.flip_horizontal(sample).boxes.numpy().tolist()
        [[0.0, 15.0, 4.0, 20.0]]
    """
    return _flip(sample, 1)


def flip_vertical(sample: Sample) -> Sample:
    """Return the sample mirrored top to bottom."""
    return _flip(sample, 0)


def random_flips(sample: Sample, seed: tf.Tensor, horizontal: float, vertical: float) -> Sample:
    """Return the sample, mirrored in each direction or not, independently, with the given probabilities 0..1."""
    numbers = uniform(seed, 2)                                                    # 0 <= number < 1
    sample = _either(numbers[0] < horizontal, flip_horizontal, sample)
    return _either(numbers[1] < vertical, flip_vertical, sample)


def random_side(seed: tf.Tensor, sides: Sequence[int]) -> tf.Tensor:
    """Return one of the sides, int32 [], all equally probable."""
    index = tf.cast(uniform(seed, 1)[0] * len(sides), tf.int32)
    return tf.gather(tf.constant(list(sides), tf.int32), tf.minimum(index, len(sides) - 1))


def _structure(sample: Any) -> str:
    """Return the fields of a sample that are not None, with their types."""
    if not isinstance(sample, Sample):
        return type(sample).__name__
    return ', '.join(f'{name} {value.dtype.name}' for name, value in sample._asdict().items() if value is not None)


def _flip(sample: Sample, axis: int) -> Sample:
    """Mirror the rows (0) or the columns (1)."""
    extent = tf.cast(tf.shape(sample.image)[axis], tf.float32)

    def flip_boxes(boxes: tf.Tensor) -> tf.Tensor:
        y1, x1, y2, x2 = tf.unstack(boxes, axis=1)                                 # each [k]
        return tf.stack([y1, extent - x2, y2, extent - x1] if axis else [extent - y2, x1, extent - y1, x2], axis=1)

    masks = None if sample.masks is None else tf.reverse(sample.masks, [axis + 1])
    return sample.move(flip_boxes)._replace(image=tf.reverse(sample.image, [axis]), masks=masks)


def _either(condition: tf.Tensor, transform: Callable[[Sample], Sample], sample: Sample) -> Sample:
    return tf.cond(condition, lambda: transform(sample), lambda: sample)
