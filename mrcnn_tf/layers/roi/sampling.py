"""Bilinear samples of boxes, averaged or maximized in bins: what RoIAlign and RoIWarp compute, as pure functions.

B images, N boxes per image, K = B * N, L levels, P output side, C channels, s index of a sample within its bin.

A loop runs over the samples: iteration s samples the s-th point of all bins of many boxes and adds it to the average or
maximum of its bin. So memory does not grow with the number of samples (tests/test_memory.py). The adaptive number of
samples differs between boxes but needs no dynamic shape: a box without an s-th sample adds nothing. Boxes are pooled in
groups that have similar numbers of samples. Two engines sample the points: 'op' with tf.image.crop_and_resize, which is
fast on a CPU but not supported by XLA, and 'xla' with gathers.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_tf.layers.recomputation import zero_after
from mrcnn_tf.layers.roi import levels as cells
from mrcnn_tf.layers.roi.levels import Size, rounded
from mrcnn_tf.ops.roi_samples import samples_per_bin
from mrcnn_tf.ops.tensor_shapes import Dimension, dimensions

State = tuple[tf.Tensor, ...]
BUCKET = 2 ** 20     # the least values of a bucket's result; fewer do not occupy a GPU
MAX_BUCKETS = 32
GROUP = 2 ** 20      # the most values that boxes pooled together have: 4 MB, as much as a processor's cache
WINDOWS = 2 ** 24    # the most values that the gradients of boxes computed together have: 67 MB


class SamplingPlan(NamedTuple):
    """The positions of each box's samples, in cells of the level that the box is pooled from."""
    level: tf.Tensor      # int32 [K]
    image: tf.Tensor      # int32 [K]
    start: tf.Tensor      # float32 [K, 2], y and x of the first bin's edge; 0 is the center of the first cell
    bin: tf.Tensor        # float32 [K, 2], sides of a bin in y and x
    ratio: tf.Tensor      # float32 [K, 2], samples per bin in y and x

    def points(self, s: tf.Tensor | int, size: Size) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return samples of every bin: y and x, [..., K, P], in cells, and which boxes have them, bool [..., K].

        Args:
            s: numbers of samples within their bins, [] or [..., 1].
            size: rows and columns of bins.
        """
        s = tf.cast(s, tf.float32)
        columns = tf.maximum(self.ratio[:, 1], 1.)
        row = tf.floor((s + .5) / columns)                                         # + .5: rounding errors do not matter
        within = tf.stack([row, s - row * columns], axis=-1)                       # [..., K, 2]
        first = self.start + self.bin * (within + .5) / tf.maximum(self.ratio, 1.)
        y, x = (first[..., i, None] + self.bin[:, i, None] * tf.range(side, dtype=tf.float32)
                for i, side in enumerate(size))                                    # [..., K, P]
        return y, x, s < self.count

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

    `present` says which boxes have the sample, bool [K, 1, 1, 1]; `values` are 0 for the others. `divisor` is that of
    a SamplingPlan.
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


def roi_align(features: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, engine: str,
              aggregation: Aggregation = AVERAGE) -> tf.Tensor:
    """Return the pooled feature maps [K, P, P, C], differentiable with respect to `features`.

    Args:
        features: L feature maps float32 [B, h, w, C].
        plan: positions of the samples.
        size: rows and columns of bins.
        samples: number of samples in each bin; 0 if it differs between boxes.
        engine: 'op' or 'xla'.
        aggregation: AVERAGE or MAX.
    """
    forward, backward = {'op': (_forward_op, _backward_op), 'xla': (_forward_xla, _backward_xla)}[engine]

    @tf.custom_gradient
    def pool(*maps: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        state = forward(maps, plan, size, samples, aggregation)
        return state[0], lambda upstream: backward(upstream, state, maps, plan, samples, aggregation)

    return pool(*features)


def _most_samples(plan: SamplingPlan, samples: int) -> tf.Tensor | int:
    """Return the largest number of samples in a bin of a box: `samples`, unless that is 0."""
    return samples or tf.cast(tf.reduce_max(plan.count, axis=0), tf.int32)


def _over_samples(start: State, count: tf.Tensor | int, step: Callable[[tf.Tensor | int, State], State]) -> State:
    """Return the state after step(s, state) for each s < count."""
    # One sample at a time: unrolled or parallel iterations would keep all samples in memory together.
    return tf.while_loop(lambda s, _: s < count, lambda s, state: (s + 1, step(s, state)), (0, start),
                         parallel_iterations=1)[1]


# Engine 'op'. A sample up to one cell outside the feature map takes the value at its border, so each level is padded by
# one repeated cell. Farther outside, crop_and_resize gives 0, as RoIAlign does. Boxes are grouped by level and
# size, so the shapes inside are dynamic.

def _all_crops(plan: SamplingPlan, samples: int, size: Size, height: Dimension, width: Dimension
               ) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the boxes for crop_and_resize of all samples, [S, k, 4], and bool [S, k], which of them exist.

    A box reaches from the first to the last sample, in the padded level's cells, normalized to 0..1.
    """
    s = tf.range(tf.maximum(_most_samples(plan, samples), 0))[:, None]
    y, x, present = plan.points(s, size)
    corners = tf.stack([y[..., 0], x[..., 0], y[..., -1], x[..., -1]], axis=-1)
    corners = tf.where(present[..., None], corners, -9.)      # far outside, where the kernel reads nothing
    last = tf.cast(tf.stack([height, width] * 2), tf.float32) + 1.
    return (corners + 1.) / last, present


def _with_border(feature: tf.Tensor) -> tf.Tensor:
    """Return a feature map [B, h, w, C] with its outermost cells repeated: [B, h + 2, w + 2, C].

    As tf.pad with the mode SYMMETRIC, which takes 3.5 times as long.
    """
    batch, height, width, channels = dimensions(feature)
    rows, columns = (tf.clip_by_value(tf.range(-1, side + 1), 0, side - 1) for side in (height, width))
    images = tf.range(batch)[:, None, None] * (height * width)
    return tf.gather(tf.reshape(feature, [-1, channels]), images + rows[:, None] * width + columns)


def _on_level(plan: SamplingPlan, level: int) -> tf.Tensor:
    """Return the boxes of a level, int64 [k], those with few samples first."""
    index = tf.where(plan.level == level)[:, 0]
    return tf.gather(index, tf.argsort(tf.gather(plan.count, index), stable=True))


def _forward_op(maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, aggregation: Aggregation
                ) -> State:
    arrays = [tf.TensorArray(part.dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None, *part.shape[1:]])
              for part in aggregation.begin([1, *size, maps[0].shape[-1]])]
    indices = [_on_level(plan, level) for level in range(len(maps))]
    for feature, index in zip(maps, indices, strict=True):
        arrays = _pool_level(feature, plan.take(index), size, samples, aggregation, arrays)
    places = tf.argsort(tf.concat(indices, axis=0))
    return tuple(tf.gather(array.concat(), places) for array in arrays)


def _pool_level(feature: tf.Tensor, plan: SamplingPlan, size: Size, samples: int, aggregation: Aggregation,
                arrays: list[tf.TensorArray]) -> list[tf.TensorArray]:
    """Pool boxes that are on one level, in groups that fit into a processor's cache; append the states to `arrays`."""
    _, height, width, channels = dimensions(feature)
    padded, number = _with_border(feature), tf.shape(plan.level)[0]
    group = max(1, GROUP // math.prod([*size, channels]))
    crops, present = _all_crops(plan, samples, size, height, width)

    def pool(first: tf.Tensor) -> State:
        part = plan.take(tf.range(first, tf.minimum(first + group, number)))
        start = aggregation.begin([tf.shape(part.level)[0], *size, channels])

        def step(s: tf.Tensor | int, state: State) -> State:
            some = crops[s, first:first + group]
            values = tf.image.crop_and_resize(padded, some, part.image, size)
            state = aggregation.add(state, s, values, present[s, first:first + group, None, None, None])
            # Loop variables must keep their static shapes.
            return tuple(tf.ensure_shape(each, begun.shape) for each, begun in zip(state, start, strict=True))

        return aggregation.end(_over_samples(start, _most_samples(part, samples), step), part)

    def once(first: tf.Tensor, arrays: list[tf.TensorArray]) -> tuple[tf.Tensor, list[tf.TensorArray]]:
        return first + group, [array.write(array.size(), part) for array, part in zip(arrays, pool(first), strict=True)]

    # At least once, also for a level without boxes: TensorFlow cannot concatenate nothing.
    return tf.while_loop(lambda first, _: (first < number) | (first == 0), once, (0, arrays), parallel_iterations=1)[1]


def _backward_op(upstream: tf.Tensor, state: State, maps: Sequence[tf.Tensor], plan: SamplingPlan, samples: int,
                 aggregation: Aggregation) -> list[tf.Tensor]:
    """Return the gradients of the feature maps. An average is separable: its gradient is two small matrix products.

    TensorFlow's gradient of crop_and_resize is wrong on a CPU: its threads add to the same cell without a lock.
    """
    if aggregation is not AVERAGE:
        return _backward_xla(upstream, state, maps, plan, samples, aggregation)
    table, channels = cells.table(maps), upstream.shape[-1]
    extent, size = cells.extent(maps, plan.level), (upstream.shape[1], upstream.shape[2])
    sides = tf.reduce_max(tf.math.ceil(plan.bin * tf.constant(size, tf.float32)), axis=1)
    order = tf.argsort(sides, direction='DESCENDING')                              # so windows in a group are similar

    def spread(first: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        window = tf.cast(sides[order[first]] + 2., tf.int32) ** 2 * channels       # the most values of a box
        box = order[first:first + tf.maximum(WINDOWS // window, 1)]
        part, (height, width, offset) = plan.take(box), [tf.gather(each, box) for each in extent]
        rows, down = _axis_weights(part, 0, size[0], height)
        columns, across = _axis_weights(part, 1, size[1], width)
        values = aggregation.scale(tf.gather(upstream, box), part.divisor)         # [k, P, P, C]
        values = tf.matmul(down, tf.reshape(values, [-1, size[0], size[1] * channels]))
        values = tf.matmul(across[:, None], tf.reshape(values, [tf.shape(box)[0], -1, size[1], channels]))
        origin = offset + part.image[:, None] * height * width
        place = (origin + rows * width)[:, :, None] + columns[:, None, :]          # [k, window rows, window columns]
        return first + tf.shape(box)[0], tf.tensor_scatter_nd_add(total, place[..., None], values)

    start = (tf.constant(0), tf.zeros_like(table))
    total = tf.while_loop(lambda first, _: first < tf.shape(order)[0], spread, start, parallel_iterations=1)[1]
    return cells.split(total, maps)


def _axis_weights(plan: SamplingPlan, axis: int, side: int, cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the cells of each box along one axis, int32 [k, w], and the sum of each one's weights in each bin.

    The weights are float32 [k, w, P]. w is that of the largest box; for others there are cells of weight 0.

    Args:
        plan: of the boxes.
        axis: 0 for y, 1 for x.
        side: P.
        cells: of the feature maps along this axis, int32 [k, 1].
    """
    ratio = plan.ratio[:, axis, None, None]                                                         # [k, 1, 1]
    s = tf.range(tf.reduce_max(ratio))
    bin_ = plan.bin[:, axis, None, None]
    position = plan.start[:, axis, None, None] + bin_ * (s + .5) / tf.maximum(ratio, 1.) + (
        bin_ * tf.range(side, dtype=tf.float32)[:, None])                                           # [k, P, s]
    corners = _corners(position, tf.cast(cells, tf.float32)[..., None])
    first = tf.reduce_min(corners.low, axis=[1, 2])[:, None]                                        # [k, 1]
    inside = tf.cast(s < ratio, tf.float32)
    last = tf.reduce_max(tf.where(s < ratio, corners.high, 0), axis=[1, 2])[:, None]
    window = tf.range(tf.reduce_max(last - first) + 1)
    numbers = first + window                                                                        # [k, w]
    weights = sum(tf.reduce_sum(tf.where(cell[:, None] == numbers[:, :, None, None], (share * inside)[:, None], 0.), -1)
                  for cell, share in ((corners.low, corners.low_weight), (corners.high, corners.high_weight)))
    return tf.minimum(numbers, cells - 1), weights


# Engine 'xla'. One table has a row for each cell of all levels; a sample reads four rows.

class _Corners(NamedTuple):
    """The two cells around a coordinate, and their weights (0 outside the feature map): each [K, P]."""
    low: tf.Tensor
    high: tf.Tensor
    low_weight: tf.Tensor
    high_weight: tf.Tensor


def _corners(position: tf.Tensor, cells: tf.Tensor) -> _Corners:
    """Return the cells around `position` [K, P] on an axis of `cells` cells, float32 [K, 1]."""
    inside = tf.cast((position >= -1.) & (position <= cells), tf.float32)
    position = tf.clip_by_value(position, 0., cells - 1.)
    low = tf.floor(position)
    high = tf.minimum(low + 1., cells - 1.)
    fraction = position - low
    return _Corners(tf.cast(low, tf.int32), tf.cast(high, tf.int32), (1. - fraction) * inside, fraction * inside)


def _rows(maps: Sequence[tf.Tensor], plan: SamplingPlan, s: tf.Tensor | int, size: Size
          ) -> tuple[list[tuple[tf.Tensor, tf.Tensor]], tf.Tensor]:
    """Return four pairs (row of the table [K, P, P], weight [K, P, P, 1]) for the s-th sample, and which boxes have it.

    The weights of a box without the sample are 0. The second result is bool [K, 1, 1, 1].
    """
    height, width, offset = cells.extent(maps, plan.level)
    y, x, present = plan.points(s, size)
    rows, columns = _corners(y, tf.cast(height, tf.float32)), _corners(x, tf.cast(width, tf.float32))
    origin = offset + plan.image[:, None] * height * width
    pairs = []
    for row, row_weight in ((rows.low, rows.low_weight), (rows.high, rows.high_weight)):
        for column, column_weight in ((columns.low, columns.low_weight), (columns.high, columns.high_weight)):
            index = (origin + row * width)[:, :, None] + column[:, None, :]
            pairs.append((index, (row_weight[:, :, None] * column_weight[:, None, :])[..., None]))
    present = present[:, None, None, None]
    return [(index, tf.where(present, weight, 0.)) for index, weight in pairs], present


def buckets(plan: SamplingPlan, row: int) -> tf.Tensor:
    """Return the boxes sorted by their numbers of samples, in n buckets of equal size: int32 [n, K / n].

    A bucket takes as many passes as its box with the most samples needs. In a single bucket, the few boxes with many
    samples would make all others wait. A bucket has at least BUCKET values of the result, so that a pass occupies a
    GPU.

    Args:
        plan: positions of the samples.
        row: the number of values of a box in the result.
    """
    number, order = plan.level.shape[0] or 0, tf.argsort(plan.count, stable=True)
    most = max(1, min(MAX_BUCKETS, number * row // BUCKET))
    count = next(n for n in range(most, 0, -1) if number % n == 0)
    return tf.reshape(order, [count, number // count or -1])


def _over_buckets(start: State, plan: SamplingPlan, row: int,
                  step: Callable[[tf.Tensor, SamplingPlan, State], State]) -> State:
    """Return the state after step(boxes, their plan, state) for every bucket; `row` as in `buckets`."""
    all_boxes = buckets(plan, row)

    def once(number: tf.Tensor | int, state: State) -> tuple[tf.Tensor | int, State]:
        boxes = all_boxes[number]
        return number + 1, step(boxes, plan.take(boxes), state)

    return tf.while_loop(lambda number, _: number < all_boxes.shape[0], once, (0, start), parallel_iterations=1)[1]


def _forward_xla(maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, aggregation: Aggregation
                 ) -> State:
    table = cells.table(maps)
    shape = [*size, table.shape[1]]

    def pool(index: tf.Tensor, part: SamplingPlan, whole: State) -> State:
        def step(s: tf.Tensor | int, state: State) -> State:
            pairs, present = _rows(maps, part, s, size)
            values = tf.add_n([share * tf.gather(table, row) for row, share in pairs])
            return aggregation.add(state, s, values, present)

        start = aggregation.begin([dimensions(index)[0], *shape])
        state = aggregation.end(_over_samples(start, _most_samples(part, samples), step), part)
        return tuple(tf.tensor_scatter_nd_update(all_, index[:, None], some)
                     for all_, some in zip(whole, state, strict=True))

    return _over_buckets(aggregation.begin([dimensions(plan.level)[0], *shape]), plan, math.prod(shape), pool)


def _backward_xla(upstream: tf.Tensor, state: State, maps: Sequence[tf.Tensor], plan: SamplingPlan, samples: int,
                  aggregation: Aggregation) -> list[tf.Tensor]:
    size = (upstream.shape[1], upstream.shape[2])

    def spread(index: tf.Tensor, part: SamplingPlan, totals: State) -> State:
        cotangent = aggregation.scale(tf.gather(upstream, index), part.divisor)
        last = tuple(tf.gather(each, index) for each in state)

        def step(s: tf.Tensor | int, totals: State) -> State:
            pairs, _ = _rows(maps, part, s, size)
            gradient = aggregation.gradient(cotangent, last, s)
            total = totals[0]
            for row, share in pairs:
                total = tf.tensor_scatter_nd_add(total, row[..., None], share * gradient)
            return (total,)

        return _over_samples(totals, _most_samples(part, samples), step)

    start = tf.fill(tf.shape(cells.table(maps)), zero_after(upstream))
    return cells.split(_over_buckets((start,), plan, math.prod(upstream.shape[1:]), spread)[0], maps)
