"""The engine of RoIAlign and RoIWarp that XLA compiles: gathers and scatters of static shape.

One table has a row for each cell of all levels; a sample reads four rows. Boxes are processed in buckets.

B images, N boxes per image, K = B * N, L levels, P output side, C channels.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from mrcnn_tf.layers.recomputation import zero_after
from mrcnn_tf.layers.roi import levels as cells
from mrcnn_tf.layers.roi.levels import Size
from mrcnn_tf.layers.roi.sampling import Aggregation, SamplingPlan, State, corners, most_samples, over_samples
from mrcnn_tf.ops.tensor_shapes import dimensions

BUCKET = 2 ** 20     # the least values of a bucket's result; fewer do not occupy a GPU
MAX_BUCKETS = 32


def _rows(maps: Sequence[tf.Tensor], plan: SamplingPlan, s: tf.Tensor | int, size: Size
          ) -> tuple[list[tuple[tf.Tensor, tf.Tensor]], tf.Tensor]:
    """Return four pairs (row of the table [K, P, P], weight [K, P, P, 1]) for the s-th sample, and which boxes have it.

    The weights of a box without the sample are 0. The second result is bool [K, 1, 1, 1].
    """
    height, width, offset = cells.extent(maps, plan.level)
    y, x, present = plan.points(s, size)
    rows, columns = corners(y, tf.cast(height, tf.float32)), corners(x, tf.cast(width, tf.float32))
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


def forward(maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, aggregation: Aggregation
            ) -> State:
    """Return the state of the boxes after their last sample; its first part is the pooled maps, float32 [K, P, P, C].

    Args:
        maps: feature maps float32 [B, h, w, C] of all levels.
        plan: positions of the samples.
        size: rows and columns of bins.
        samples: number of samples in each bin; 0 if it differs between boxes.
        aggregation: AVERAGE or MAX.
    """
    table = cells.table(maps)
    shape = [*size, table.shape[1]]

    def pool(index: tf.Tensor, part: SamplingPlan, whole: State) -> State:
        def step(s: tf.Tensor | int, state: State) -> State:
            pairs, present = _rows(maps, part, s, size)
            values = tf.add_n([share * tf.gather(table, row) for row, share in pairs])
            return aggregation.add(state, s, values, present)

        start = aggregation.begin([dimensions(index)[0], *shape])
        state = aggregation.end(over_samples(start, most_samples(part, samples), step), part)
        return tuple(tf.tensor_scatter_nd_update(all_, index[:, None], some)
                     for all_, some in zip(whole, state, strict=True))

    return _over_buckets(aggregation.begin([dimensions(plan.level)[0], *shape]), plan, math.prod(shape), pool)


def backward(upstream: tf.Tensor, state: State, maps: Sequence[tf.Tensor], plan: SamplingPlan, samples: int,
             aggregation: Aggregation) -> list[tf.Tensor]:
    """Return the gradients of the feature maps.

    Args:
        upstream: gradient of the pooled maps, float32 [K, P, P, C].
        state: what `forward` returned.
        maps, plan, samples, aggregation: as in `forward`.

    Returns:
        Of each map, float32 [B, h, w, C].
    """
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

        return over_samples(totals, most_samples(part, samples), step)

    start = tf.fill(tf.shape(cells.table(maps)), zero_after(upstream))
    return cells.split(_over_buckets((start,), plan, math.prod(upstream.shape[1:]), spread)[0], maps)
