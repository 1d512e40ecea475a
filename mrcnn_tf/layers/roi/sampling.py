"""Bilinear samples of boxes: their positions, and their average or maximum in each bin (RoIAlign, RoIWarp).

B images, N boxes per image, K = B * N, L levels, P output side, C channels, s index of a sample within its bin.

Two engines sample the points: `op_engine`, with tf.image.crop_and_resize, all samples of a box at once, which is fast
on a CPU but not supported by XLA, and `xla_engine`, with gathers.

The latter runs a loop over passes: pass s takes the s-th sample of all bins of many boxes and adds it to the average or
maximum of its bin (or four of the cells around the samples, see `xla_engine.Passes`). So memory does not grow with the
number of samples (tests/test_memory.py). The number differs between boxes but needs no dynamic shape: a box without a
pass s adds nothing. Boxes are pooled in groups that have similar numbers of samples.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_tf.layers.roi.levels import Size, rounded
from mrcnn_tf.ops.roi_samples import samples_per_bin
from mrcnn_tf.ops.tensor_shapes import dimensions

NEAR = 1e-4    # cells

State = tuple[tf.Tensor, ...]


class SamplingPlan(NamedTuple):
    """The positions of each box's samples, in cells of the level that the box is pooled from."""
    level: tf.Tensor      # int32 [K]
    image: tf.Tensor      # int32 [K]
    start: tf.Tensor      # float32 [K, 2], y and x of the first bin's edge; 0 is the center of the first cell
    bin: tf.Tensor        # float32 [K, 2], sides of a bin in y and x
    ratio: tf.Tensor      # float32 [K, 2], samples per bin in y and x

    def points(self, s: tf.Tensor | int, size: Size) -> tuple[tf.Tensor, tf.Tensor]:
        """Return y and x of sample s of every bin, float32 [K, P], in cells; `size`: rows and columns of bins."""
        s = tf.cast(s, tf.float32)
        columns = tf.maximum(self.ratio[:, 1], 1.)
        row = tf.floor((s + .5) / columns)                                         # + .5: rounding errors do not matter
        y = self.position(0, row[..., None], size[0])
        x = self.position(1, (s - row * columns)[..., None], size[1])
        return y, x

    def position(self, axis: int, i: tf.Tensor, side: int) -> tf.Tensor:
        """Return sample i, float32 [..., K, 1 or P], of the bins along axis 0 (y) or 1 (x), in cells: [..., K, P]."""
        bin_, ratio = self.bin[:, axis, None], tf.maximum(self.ratio[:, axis, None], 1.)
        return self.start[:, axis, None] + bin_ * (i + .5) / ratio + bin_ * tf.range(side, dtype=tf.float32)

    @property
    def count(self) -> tf.Tensor:
        """The number of samples in each bin of a box, float32 [K]."""
        return tf.reduce_prod(self.ratio, axis=-1)

    @property
    def divisor(self) -> tf.Tensor:
        """The number of samples in each bin of a box, at least 1: float32 [K, 1, 1, 1]."""
        return tf.maximum(self.count, 1.)[:, None, None, None]

    def take(self, index: tf.Tensor) -> SamplingPlan:
        """Return the plan of the boxes at `index`, int32 or int64 [k]."""
        return SamplingPlan(*(tf.gather(field, index) for field in self))


def sampling_plan(boxes: tf.Tensor, levels: tf.Tensor, strides: Sequence[float], size: Size, sampling_ratio: int,
                  aligned: bool, quantized: bool = False) -> SamplingPlan:
    """Return the sampling plan of the K boxes.

    Args:
        boxes: float32 [B, N, 4] px.
        levels: int32 [B, N], the level that each box is pooled from.
        strides: px per cell of each level.
        size: rows and columns of bins.
        sampling_ratio, aligned: as in RoIAlign.
        quantized: first round the edges of boxes to cells, as RoIPool does; `aligned` has no effect then.
    """
    batch, number = dimensions(boxes)[:2]
    flat, level = tf.reshape(boxes, [-1, 4]), tf.reshape(levels, [-1])
    edges = flat * tf.gather(tf.constant([1. / s for s in strides], tf.float32), level)[:, None]   # [K, 4], in cells
    if quantized:    # the cells of RoIPool, from the edge of the first to the edge of the last
        edges = rounded(edges)
        start, sides = edges[:, :2] - .5, tf.maximum(edges[:, 2:] - edges[:, :2] + 1., 1.)
    else:
        start, sides = edges[:, :2] - (.5 if aligned else 0.), edges[:, 2:] - edges[:, :2]
        sides = sides if aligned else tf.maximum(sides, 1.)
    bins = sides / tf.constant(size, tf.float32)
    ratio = tf.fill(tf.shape(bins), float(sampling_ratio)) if sampling_ratio else (
        samples_per_bin(sides, tf.constant(size)))
    return SamplingPlan(level, tf.repeat(tf.range(batch), number), start, bins, ratio)


class Aggregation(NamedTuple):
    """How the samples of a bin give its value: `begin`, `add` for each, and `end`; and the gradient of each sample.

    `s` is the number of a sample, or of a pass; `present` says which boxes have it, bool [K, 1, 1, 1]; `values` are 0
    for the others. `divisor` is that of a SamplingPlan.
    """
    begin: Callable[[list[Any]], State]                                   # shape
    add: Callable[[State, Any, tf.Tensor, tf.Tensor], State]              # state, s, values, present
    scale: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]                    # of a value or its gradient; divisor
    gradient: Callable[[tf.Tensor, State, Any], tf.Tensor]                # of a sample: scaled upstream, state, s

    def end(self, state: State, plan: SamplingPlan) -> State:
        """Return the state after the last sample; its first part is the value of each bin."""
        return self.scale(state[0], plan.divisor), *state[1:]


def _add_larger(state: State, s: Any, values: tf.Tensor, present: tf.Tensor) -> State:
    largest, holder = state
    # The samples of a box without area coincide. XLA may compute their value twice with different roundings, for the
    # result and for the gradient; the tolerance makes both choose the same sample.
    larger = present & ((holder < 0) | (values - largest > 1e-6 * tf.abs(largest)))
    return tf.where(larger, values, largest), tf.where(larger, s, holder)


AVERAGE = Aggregation(begin=lambda shape: (tf.zeros(shape),),
                      add=lambda state, s, values, present: (state[0] + values,),
                      scale=lambda values, divisor: values / divisor,
                      gradient=lambda upstream, state, s: upstream)
# The state is the largest value and the index of its sample, the first one in a tie.
MAX = Aggregation(begin=lambda shape: (tf.zeros(shape), tf.fill(shape, -1)), add=_add_larger,
                  scale=lambda values, divisor: values,
                  gradient=lambda upstream, state, s: tf.where(state[1] == s, upstream, 0.))
AGGREGATIONS = {'average': AVERAGE, 'max': MAX}


class Corners(NamedTuple):
    """The two cells around a coordinate, and their weights (0 outside the feature map): each [K, P]."""
    low: tf.Tensor
    high: tf.Tensor
    low_weight: tf.Tensor
    high_weight: tf.Tensor


def corners(position: tf.Tensor, cells: tf.Tensor) -> Corners:
    """Return the cells around `position` [K, P] on an axis of `cells` cells, float32, a scalar or [K, 1]."""
    weight = tf.cast(inside(position, cells), tf.float32)
    position = tf.clip_by_value(position, 0., cells - 1.)
    low = tf.floor(position)
    high = tf.minimum(low + 1., cells - 1.)
    fraction = position - low
    return Corners(tf.cast(low, tf.int32), tf.cast(high, tf.int32), (1. - fraction) * weight, fraction * weight)


def inside(position: tf.Tensor, cells: tf.Tensor) -> tf.Tensor:
    """Return whether samples lie at most a cell beyond the feature map, where they have a value: bool.

    Rounding must not move a sample that lies on this border, as RoIWarp's do in boxes at the image's edge, across it.
    """
    return (position >= -1. - NEAR) & (position <= cells + NEAR)
