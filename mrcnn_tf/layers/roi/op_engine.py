"""The engine of RoIAlign and RoIWarp that runs tf.image.crop_and_resize. Not for XLA.

A sample up to one cell outside the feature map takes the value at its border, so each level is padded by one repeated
cell. Farther outside, crop_and_resize gives 0, as RoIAlign does. Boxes are grouped by level and number of samples, so
the shapes inside are dynamic.

B images, N boxes per image, K = B * N, L levels, P output side, C channels, k boxes of one level or group.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from mrcnn_tf.layers.recomputation import zero_after
from mrcnn_tf.layers.roi import xla_engine
from mrcnn_tf.layers.roi.levels import Size
from mrcnn_tf.layers.roi.sampling import AVERAGE, NEAR, Aggregation, SamplingPlan, State, corners
from mrcnn_tf.ops.tensor_shapes import Dimension, dimensions

GROUP = 2 ** 21      # the most values of the samples of boxes pooled together: 8 MB, about a processor's cache
WINDOWS = 2 ** 23    # the most values that the gradients of boxes computed together have: 34 MB


def _with_border(feature: tf.Tensor) -> tf.Tensor:
    """Return a feature map [B, h, w, C] with its outermost cells repeated: [B, h + 2, w + 2, C].

    As tf.pad with the mode SYMMETRIC, which takes 3.5 times as long.
    """
    batch, height, width, channels = dimensions(feature)
    rows, columns = (tf.clip_by_value(tf.range(-1, side + 1), 0, side - 1) for side in (height, width))
    images = tf.range(batch)[:, None, None] * (height * width)
    return tf.gather(tf.reshape(feature, [-1, channels]), images + rows[:, None] * width + columns)


def forward(maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, aggregation: Aggregation
            ) -> State:
    """Return the state of the boxes after their last sample, as `xla_engine.forward`, but of the maps' type.

    All samples of a box are one crop. Where their number is adaptive, they are about a cell apart, so those of a box
    within the image take little more memory than the feature map.
    """
    dtypes, shape = [maps[0].dtype, *([] if aggregation is AVERAGE else [tf.int32])], [None, *size, maps[0].shape[3]]
    arrays = [tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=shape) for dtype in dtypes]
    indices = [_on_level(plan, level) for level in range(len(maps))]
    for feature, index in zip(maps, indices, strict=True):
        arrays = _pool_level(feature, plan.take(index), size, math.isqrt(samples), aggregation, arrays)
    places = tf.argsort(tf.concat(indices, axis=0))
    return tuple(tf.gather(array.concat(), places) for array in arrays)


def _on_level(plan: SamplingPlan, level: int) -> tf.Tensor:
    """Return the boxes of a level, int64 [k], those with equal numbers of samples one after the other."""
    index = tf.where(plan.level == level)[:, 0]
    return tf.gather(index, tf.argsort(_grid(plan.take(index))))


def _grid(plan: SamplingPlan) -> tf.Tensor:
    """Return a key of each box, int64 [k]; boxes with equal numbers of rows and of columns of samples share it."""
    rows, columns = tf.unstack(tf.cast(plan.ratio, tf.int64), axis=1)
    return rows * 2 ** 31 + columns


def _pool_level(feature: tf.Tensor, plan: SamplingPlan, size: Size, sampling_ratio: int, aggregation: Aggregation,
                arrays: list[tf.TensorArray]) -> list[tf.TensorArray]:
    """Pool boxes that are on one level, in groups that fit into a processor's cache; append the states to `arrays`."""
    _, height, width, channels = dimensions(feature)
    padded, grid = tf.cast(_with_border(feature), tf.float32), _grid(plan)
    number, crops = tf.shape(grid)[0], _crops(plan, size, height, width)
    aggregate = _average if aggregation is AVERAGE else _maximum

    def once(first: tf.Tensor, arrays: list[tf.TensorArray]) -> tuple[tf.Tensor, list[tf.TensorArray]]:
        ratio = (sampling_ratio, sampling_ratio) if sampling_ratio else tuple(tf.unstack(
            tf.cast(tf.maximum(tf.reduce_max(plan.ratio[first:first + 1], axis=0), 1.), tf.int32)))
        alike = tf.reduce_sum(tf.cast(grid[first:] == grid[first:first + 1], tf.int32))
        fitting = GROUP // math.prod([*size, channels]) // ratio[0] // ratio[1]
        end = first + tf.minimum(alike, tf.maximum(fitting, 1))
        values = tf.image.crop_and_resize(padded, crops[first:end], plan.image[first:end],
                                          [size[0] * ratio[0], size[1] * ratio[1]])
        return end, [array.write(array.size(), tf.cast(part, array.dtype))
                     for array, part in zip(arrays, aggregate(values, size, ratio), strict=True)]

    # At least once, also for a level without boxes: TensorFlow cannot concatenate nothing.
    return tf.while_loop(lambda first, arrays: (first < number) | (arrays[0].size() == 0), once, (0, arrays),
                         parallel_iterations=1)[1]


def _crops(plan: SamplingPlan, size: Size, height: Dimension, width: Dimension) -> tf.Tensor:
    """Return the boxes for crop_and_resize, float32 [k, 4].

    A box reaches from its first sample to its last, in the padded level's cells, normalized to 0..1.
    """
    ratio = tf.maximum(plan.ratio, 1.)
    ends = tf.concat([plan.start + plan.bin * (offset / ratio + bins) for offset, bins in (
        (.5, 0.), (-.5, tf.constant(size, tf.float32)))], axis=1)
    ends = tf.where(plan.count[:, None] > 0, ends, -9.)       # far outside, where the kernel reads nothing
    limit = tf.cast(tf.stack([height, width] * 2), tf.float32) + 1.
    # As in `inside`; a few steps of float32 below 1, because the kernel rounds too.
    return tf.where(tf.abs(ends + 1. - limit) < NEAR, 1. - 5e-7, (ends + 1.) / limit)


def _average(values: tf.Tensor, size: Size, ratio: tuple[Dimension, Dimension]) -> State:
    """Return the averages [k, P, P, C] of samples [k, P rows, P columns, C]; `ratio` is (rows, columns) of a bin."""
    rows, columns = ratio
    if isinstance(rows, int):
        return (tf.nn.avg_pool2d(values, ratio, ratio, 'VALID'),)
    channels = values.shape[3]
    sums = tf.reduce_sum(tf.reshape(values, [-1, rows, size[1] * columns * channels]), axis=1)
    sums = tf.reduce_sum(tf.reshape(sums, [-1, columns, channels]), axis=1)
    return (tf.reshape(sums, [-1, *size, channels]) / tf.cast(rows * columns, tf.float32),)


def _maximum(values: tf.Tensor, size: Size, ratio: tuple[Dimension, Dimension]) -> State:
    """Return the maxima [k, P, P, C] of the samples and their numbers within the bins; arguments as for `_average`."""
    rows, columns = ratio
    channels = values.shape[3]
    bins = tf.reshape(values, [-1, size[0], rows, size[1], columns, channels])
    bins = tf.reshape(tf.transpose(bins, [0, 1, 3, 2, 4, 5]), [-1, *size, rows * columns, channels])
    return tf.reduce_max(bins, axis=3), tf.argmax(bins, axis=3, output_type=tf.int32)


def backward(upstream: tf.Tensor, state: State, maps: Sequence[tf.Tensor], plan: SamplingPlan, samples: int,
             aggregation: Aggregation) -> list[tf.Tensor]:
    """Return the gradients of the feature maps. An average is separable: its gradient is two small matrix products.

    Arguments and result are those of `xla_engine.backward`. TensorFlow's gradient of crop_and_resize is wrong on a CPU:
    its threads add to the same cell without a lock.
    """
    if aggregation is not AVERAGE:
        return xla_engine.backward(upstream, state, maps, plan, samples, aggregation)
    return [_gradient_of_level(feature, upstream, plan, tf.where(plan.level == level)[:, 0])
            for level, feature in enumerate(maps)]


def _gradient_of_level(feature: tf.Tensor, upstream: tf.Tensor, plan: SamplingPlan, index: tf.Tensor) -> tf.Tensor:
    """Return the gradient of a feature map [B, h, w, C] from the boxes `index`, int64 [k]."""
    (batch, height, width, channels), size = dimensions(feature), (upstream.shape[1], upstream.shape[2])
    bins = tf.gather(plan.bin, index)
    sides = tf.math.ceil(bins * tf.constant(size, tf.float32))                     # below 0 for an inverted box
    sides = tf.clip_by_value(sides, 0., tf.cast([height, width], tf.float32))
    order = tf.argsort(sides[:, 0], direction='DESCENDING')                        # so windows in a group are similar
    index, sides = tf.gather(index, order), tf.cast(tf.gather(sides, order) + 2., tf.int32)

    def spread(first: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def fitting(columns: tf.Tensor) -> tf.Tensor:
            return tf.maximum(WINDOWS // (sides[first, 0] * columns * channels), 1)

        widest = tf.reduce_max(sides[first:first + fitting(sides[first, 1]), 1])
        box = index[first:first + fitting(widest)]
        part = plan.take(box)
        rows, down = _axis_weights(part, 0, size[0], height)
        columns, across = _axis_weights(part, 1, size[1], width)
        values = AVERAGE.scale(tf.gather(upstream, box), part.divisor)             # [k, P, P, C]
        values = tf.matmul(down, tf.reshape(values, [-1, size[0], size[1] * channels]))
        values = tf.matmul(across[:, None], tf.reshape(values, [tf.shape(box)[0], -1, size[1], channels]))
        rows += part.image[:, None] * height
        place = (rows * width)[:, :, None] + columns[:, None, :]                   # [k, window rows, window columns]
        # In place; tf.tensor_scatter_nd_add copies the map each time on a CPU.
        return first + tf.shape(box)[0], tf.raw_ops.ScatterNdNonAliasingAdd(
            input=total, indices=place[..., None], updates=values)

    # TensorFlow would make a constant of plain zeros, keep it, and copy it in each step.
    start = (tf.constant(0), tf.fill([batch * height * width, channels], zero_after(upstream)))
    total = tf.while_loop(lambda first, _: first < tf.shape(index)[0], spread, start, parallel_iterations=1)[1]
    return tf.reshape(total, tf.shape(feature))


def _axis_weights(plan: SamplingPlan, axis: int, side: int, cells: Dimension) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the cells of each box along one axis, int32 [k, w], and the sum of each one's weights in each bin.

    The weights are float32 [k, w, P]. w is that of the largest box; for others there are cells of weight 0.

    Args:
        plan: of the boxes.
        axis: 0 for y, 1 for x.
        side: P.
        cells: of the feature map along this axis.
    """
    ratio = plan.ratio[:, axis, None, None]                                                         # [k, 1, 1]
    s = tf.cast(tf.range(tf.maximum(tf.cast(tf.reduce_max(ratio), tf.int32), 1)), tf.float32)
    bin_ = plan.bin[:, axis, None, None]
    position = plan.start[:, axis, None, None] + bin_ * (s + .5) / tf.maximum(ratio, 1.) + (
        bin_ * tf.range(side, dtype=tf.float32)[:, None])                                           # [k, P, s]
    ends = corners(position, tf.cast(cells, tf.float32))
    first = tf.reduce_min(ends.low, axis=[1, 2])[:, None]                                           # [k, 1]
    inside = tf.cast(s < ratio, tf.float32)
    last = tf.reduce_max(tf.where(s < ratio, ends.high, 0), axis=[1, 2])[:, None]
    window = tf.range(tf.maximum(tf.reduce_max(last - first), 0) + 1)
    numbers = first + window                                                                        # [k, w]
    weights = sum(tf.reduce_sum(tf.where(cell[:, None] == numbers[:, :, None, None], (share * inside)[:, None], 0.), -1)
                  for cell, share in ((ends.low, ends.low_weight), (ends.high, ends.high_weight)))
    return tf.clip_by_value(numbers, 0, cells - 1), weights
