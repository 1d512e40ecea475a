"""Affine geometry of augmentation: the placement of an image, and its pixels and boxes after it.

h, w height and width of the source image; oh, ow those of the result; n boxes. Positions are y, x in px with continuous
edges: the center of the first pixel is at 0.5, 0.5. A matrix, float32 [2, 3], maps positions p of the source to those
of the result: matrix[:, :2] @ p + matrix[:, 2].
"""
from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.input import images, transforms


class Placement(NamedTuple):
    """How an image is mirrored, resized, turned about its center and moved, all in one step."""
    size: tf.Tensor              # int32 [2], of the source image
    mirrored: tf.Tensor          # bool [2], top to bottom and left to right
    scaled: tf.Tensor            # int32 [2], size after resizing
    corner: tf.Tensor            # int32 [2], first row and column of the resized image; negative: it is cut
    shape: tf.Tensor             # int32 [2], of the result
    turn: tf.Tensor | None       # float32 [2, 2], rotation and shear; None: neither, so that boxes stay boxes

    def matrix(self) -> tf.Tensor:
        """Return the matrix from the source image to the result."""
        size, scaled = tf.cast(self.size, tf.float32), tf.cast(self.scaled, tf.float32)
        linear = tf.linalg.diag(tf.where(self.mirrored, -1., 1.) * scaled / size)
        if self.turn is not None:
            linear = self.turn @ linear
        center = tf.cast(self.corner, tf.float32) + scaled / 2
        return tf.concat([linear, (center - tf.linalg.matvec(linear, size / 2))[:, None]], axis=1)


def sample_placement(size: tf.Tensor, resized: tf.Tensor, canvas: tf.Tensor | list[int], data: DataConfig,
                     seed: tf.Tensor) -> Placement:
    """Return a random placement: flips, large-scale jitter, rotation, shear and translation.

    The result is as large as the jittered image, but at most as large as the canvas; a larger image is cut at random.

    Args:
        size: int32 [2], of the source image.
        resized: int32 [2], to which it is resized without jitter.
        canvas: height and width; at least `resized`.
        data: the function reads `augment` and the probabilities of flips.
        seed: int64 [2].
    """
    numbers, rule = transforms.uniform(seed, 9), data.augment
    low, high = rule.large_scale_jitter or (1., 1.)
    scaled = tf.cast(resized, tf.float32) * (low + numbers[0] * (high - low))
    scaled = tf.maximum(tf.cast(tf.round(scaled), tf.int32), 1)
    shape = tf.minimum(scaled, canvas)
    spare = tf.cast(scaled - shape + 1, tf.float32)
    shift = _symmetric(numbers[3:5]) * rule.translation * tf.cast(scaled, tf.float32)
    corner = tf.cast(tf.round(shift) - tf.floor(numbers[1:3] * spare), tf.int32)
    mirrored = numbers[5:7] < tf.constant([data.flip_vertical, data.flip_horizontal])
    turn = None
    if rule.turns:
        angles = _symmetric(numbers[7:9]) * tf.constant([rule.rotation, rule.shear]) * (math.pi / 180)
        turn = turning(angles[0], angles[1])
    return Placement(size, mirrored, scaled, corner, shape, turn)


def turning(rotation: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Return the matrix, float32 [2, 2], of a shear along the x axis and then a counter-clockwise rotation, radians."""
    sine, cosine, slope = tf.sin(rotation), tf.cos(rotation), tf.tan(shear)
    return tf.stack([tf.stack([cosine, -sine]), tf.stack([sine, cosine])]) @ tf.stack(
        [tf.constant([1., 0.]), tf.stack([slope, 1.])])


def place_image(image: tf.Tensor, placement: Placement, antialias: bool, fill: tf.Tensor) -> tf.Tensor:
    """Return the placed image, float32 [oh, ow, 3].

    Args:
        image: float32 [h, w, 3].
        placement: of the image.
        antialias: as in `images.resize`.
        fill: float32 [3], the color where the result shows nothing of the image.
    """
    if placement.turn is None:     # ten times faster than `warp`, and equal to a resize followed by a crop
        image = images.resize(image, placement.scaled, antialias)
        for axis in (0, 1):
            image = _reversed_if(placement.mirrored[axis], image, axis)
        return _window(image, placement.corner, placement.shape, fill)
    matrix = placement.matrix()
    if antialias:                  # averages where the image shrinks; the one interpolation then changes no scale
        shrunk = tf.minimum(placement.scaled, placement.size)
        image = images.resize(image, shrunk, antialias)
        matrix = after_scaling(matrix, tf.cast(placement.size, tf.float32) / tf.cast(shrunk, tf.float32))
    return warp(image, matrix, placement.shape, fill)


def after_scaling(matrix: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Return the matrix for positions that are multiplied by `scale`, float32 [2], before the given one."""
    return matrix * tf.concat([scale, [1.]], axis=0)


def warp(pixels: tf.Tensor, matrix: tf.Tensor, shape: tf.Tensor | list[int], fill: tf.Tensor | float = 0.
         ) -> tf.Tensor:
    """Return pixels at other positions, interpolated bilinearly, float32 [oh, ow, c].

    Args:
        pixels: float32 [h, w, c]; values are constant between the outermost centers and the edges.
        matrix: from the source to the result; it must have an inverse.
        shape: of the result.
        fill: values beyond the edges of the source, [c] or [].
    """
    (yy, yx, y), (xy, xx, x) = (tf.unstack(row) for row in tf.unstack(inverse(matrix)))
    # The op takes x before y, and counts from the center of the first pixel.
    transform = tf.stack([xx, xy, x + (xx + xy - 1) / 2, yx, yy, y + (yx + yy - 1) / 2, 0., 0.])
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None], transforms=transform[None], output_shape=tf.convert_to_tensor(shape), fill_value=0.,
        interpolation='BILINEAR', fill_mode='NEAREST')[0]
    rows, columns = centers(0, shape[0])[:, None], centers(0, shape[1])[None]     # [oh, 1], [1, ow]
    positions = (yy * rows + yx * columns + y, xy * rows + xx * columns + x)      # of the source, each [oh, ow]
    sides = tf.unstack(tf.cast(tf.shape(pixels)[:2], tf.float32))
    inside = tf.reduce_all([(at >= 0) & (at <= side) for at, side in zip(positions, sides, strict=True)], axis=0)
    return tf.where(inside[..., None], warped, fill)


def centers(first: tf.Tensor | int, end: tf.Tensor | int) -> tf.Tensor:
    """Return the positions of the centers of the pixels from `first` to before `end`, float32 [end - first]."""
    return tf.cast(tf.range(first, end), tf.float32) + .5


def move_boxes(boxes: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Return the boxes that enclose the four moved corners of each box, float32 [n, 4]."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    middle = tf.linalg.matvec(matrix[:, :2], middle) + matrix[:, 2]
    half = tf.linalg.matvec(tf.abs(matrix[:, :2]), half)
    return tf.concat([middle - half, middle + half], axis=1)


def clip_boxes(boxes: tf.Tensor, shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the part of each box inside an image, float32 [n, 4], and its fraction of the box's area, [n]."""
    clipped = tf.clip_by_value(boxes, 0., tf.cast(tf.tile(shape, [2]), tf.float32))
    return clipped, tf.math.divide_no_nan(_areas(clipped), _areas(boxes))


def inverse(matrix: tf.Tensor) -> tf.Tensor:
    """Return the matrix of the opposite direction."""
    # By hand: tf.linalg.inv takes longer than the warp of a mask.
    (a, b, _), (c, d, _) = (tf.unstack(row) for row in tf.unstack(matrix))
    linear = tf.stack([tf.stack([d, -b]), tf.stack([-c, a])]) / (a * d - b * c)
    return tf.concat([linear, -tf.linalg.matvec(linear, matrix[:, 2])[:, None]], axis=1)


def _areas(boxes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _symmetric(numbers: tf.Tensor) -> tf.Tensor:
    """Return numbers in -1..1 from those in 0..1."""
    return 2 * numbers - 1


def _reversed_if(condition: tf.Tensor, image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.cond(condition, lambda: tf.reverse(image, [axis]), lambda: image)


def _window(image: tf.Tensor, corner: tf.Tensor, shape: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Return the part of an image in a window of `shape`, in which the image begins at `corner`."""
    size = tf.shape(image)[:2]
    first = tf.clip_by_value(-corner, 0, size)
    end = tf.clip_by_value(shape - corner, first, size)
    part = image[first[0]:end[0], first[1]:end[1]]
    before = tf.clip_by_value(corner, 0, shape - (end - first))
    padding = tf.concat([tf.stack([before, shape - before - (end - first)], axis=1), [[0, 0]]], axis=0)

    def filled() -> tf.Tensor:
        inside = tf.pad(tf.ones_like(part[:, :, :1], tf.bool), padding)
        return tf.where(inside, tf.pad(part, padding), fill)

    return tf.cond(tf.reduce_all(end - first == shape), lambda: part, filled)
