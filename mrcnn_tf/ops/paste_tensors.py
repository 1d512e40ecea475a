"""The masks of `ops/paste.py` and COCO's run-length code, as operations of a TensorFlow graph, for exported models.

m cells a side of a predicted mask (28); H x W the image in px; h x w the window that a mask can reach.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_CHARACTERS = 7    # of a run in COCO's text, at most: 5 bits each


class PastedMask(NamedTuple):
    """A mask of the whole image: it is 0 outside a window.

    columns: bool [w, h], the window, transposed, because COCO's code runs down the columns; corner: int32 [2], its
    first row and column; size: int32 [2], height and width of the image.
    """
    columns: tf.Tensor
    corner: tf.Tensor
    size: tf.Tensor


def paste(mask: tf.Tensor, box: tf.Tensor, size: tf.Tensor, dialect: str, threshold: float = .5) -> PastedMask:
    """Return a mask of the whole image, 1 where the probability reaches the threshold; as `paste.paste`.

    Args:
        mask: float32 [m, m], probabilities 0..1.
        box: float32 [4], y1, x1, y2, x2 in px of the image; may reach beyond it.
        size: int32 [2], height and width of the image, px.
        dialect: 'pixel_center' or 'detectron'.
    """
    edges, cells = tf.cast(box, tf.float64), mask.shape[0]
    place = {'pixel_center': _pixel_center, 'detectron': _detectron}[dialect]
    top, rows = _weights(*place(edges[0], edges[2], size[0], cells), cells)
    left, columns = _weights(*place(edges[1], edges[3], size[1], cells), cells)
    probabilities = tf.matmul(columns, tf.matmul(mask, rows, transpose_a=True, transpose_b=True))    # [w, h]
    return PastedMask(probabilities >= threshold, tf.stack([top, left]), size)


def full(pasted: PastedMask) -> tf.Tensor:
    """Return the mask as uint8 [H, W], 0 or 1."""
    (top, left), (height, width) = tf.unstack(pasted.corner), tf.unstack(pasted.size)
    across, down = tf.unstack(tf.shape(pasted.columns))
    padding = [[left, width - left - across], [top, height - top - down]]
    return tf.transpose(tf.pad(tf.cast(pasted.columns, tf.uint8), padding))


def runs(pasted: PastedMask) -> tf.Tensor:
    """Return the lengths of the runs down the columns, int64 [n]: the first of zeros, then of ones, in turn."""
    (height, width), (top, left) = (tf.unstack(tf.cast(pair, tf.int64)) for pair in (pasted.size, pasted.corner))
    whole = tf.equal(tf.shape(pasted.columns)[1], pasted.size[0])    # a run may continue in the next column
    lines = tf.cond(whole, lambda: tf.reshape(pasted.columns, [1, -1]), lambda: pasted.columns)
    lines = tf.pad(lines, [[0, 0], [1, 1]])
    first, end = (left * height + top + tf.reduce_sum(tf.where(change) * [height, 1], axis=1) for change in (
        lines[:, 1:] & ~lines[:, :-1], ~lines[:, 1:] & lines[:, :-1]))
    edges = tf.concat([[0], tf.reshape(tf.stack([first, end], axis=1), [-1]), [height * width]], axis=0)
    lengths = edges[1:] - edges[:-1]
    return lengths[:tf.size(lengths) - tf.cast(lengths[-1] == 0, tf.int32)]


def run_length_text(lengths: tf.Tensor) -> tf.Tensor:
    """Return COCO's compressed run-length code of runs int64 [n]: string [], the `counts` of pycocotools.

    From the fourth on, a run is given by its difference from the last but one. A number is 5 bits a character, the
    lowest first; the sixth bit says that more follow, and the last bit of the last character is the sign.
    """
    values = lengths - tf.concat([tf.zeros([tf.minimum(3, tf.size(lengths))], tf.int64), lengths[1:-2]], axis=0)
    shifts = 5 * tf.range(_CHARACTERS, dtype=tf.int64)
    digits = tf.bitwise.right_shift(values[:, None], shifts)                                  # [n, 7], more than 5 bits
    rest, sign = tf.bitwise.right_shift(digits, tf.constant(5, tf.int64)), tf.bitwise.bitwise_and(digits, 16) != 0
    more = tf.where(sign, rest != -1, rest != 0)
    kept = tf.cast(tf.math.cumprod(tf.cast(more, tf.int32), axis=1, exclusive=True), tf.bool)
    codes = tf.bitwise.bitwise_and(digits, 31) + 32 * tf.cast(more, tf.int64) + 48
    return tf.strings.unicode_encode(tf.cast(tf.boolean_mask(codes, kept), tf.int32), 'UTF-8')


def _pixel_center(low: tf.Tensor, high: tf.Tensor, side: tf.Tensor, cells: int) -> tuple[tf.Tensor, tf.Tensor]:
    """As `paste._pixel_center`."""
    reach = .5 * (high - low) / cells + 1.
    first = _clipped(tf.floor(low - reach), 0, side)
    last = tf.where(high <= low, first, _clipped(tf.math.ceil(high + reach), first, side))
    positions = (tf.cast(tf.range(first, last), tf.float64) + .5 - low) / (high - low) * cells - .5
    return first, positions


def _detectron(low: tf.Tensor, high: tf.Tensor, side: tf.Tensor, cells: int) -> tuple[tf.Tensor, tf.Tensor]:
    """As `paste._detectron`."""
    center, half = .5 * (low + high), .5 * (high - low) * (cells + 2) / cells
    start, stop = (tf.cast(edge, tf.int32) for edge in (center - half, center + half))
    length = tf.maximum(stop + 1 - start, 1)
    first = tf.clip_by_value(start, 0, side)
    last = tf.clip_by_value(start + length, first, side)
    positions = (tf.cast(tf.range(first, last) - start, tf.float64) + .5) * (cells + 2)
    return first, positions / tf.cast(length, tf.float64) - 1.5


def _clipped(value: tf.Tensor, low: tf.Tensor | int, high: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.cast(value, tf.int32), low, high)


def _weights(first: tf.Tensor, positions: tf.Tensor, cells: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first pixel and bilinear weights, float32 [pixels, m]; as `paste._weights`."""
    distance = tf.abs(positions[:, None] - tf.range(cells, dtype=tf.float64))
    return first, tf.cast(tf.nn.relu(1. - distance), tf.float32)
