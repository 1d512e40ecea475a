"""The engine of RoIAlign and RoIWarp that XLA compiles: gathers and scatters of static shape.

One table has a row for each cell of all levels; a pass reads four rows for each bin. Boxes are processed in buckets.

B images, N boxes per image, K = B * N, L levels, P output side, C channels.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from mrcnn_tf.layers.recomputation import zero_after
from mrcnn_tf.layers.roi import levels as cells
from mrcnn_tf.layers.roi.levels import Size
from mrcnn_tf.layers.roi.sampling import AVERAGE, Aggregation, SamplingPlan, State, corners, inside
from mrcnn_tf.ops.tensor_shapes import dimensions

USUAL_BUCKETS = 8
SMALL_BUCKET, LARGE_BUCKET = 3 * 2 ** 20, 2 ** 23     # values of a bucket's result
# At most 4 samples lie within a cell of a place, because they are more than half a cell apart; two more, because
# rounding may move the first.
_NEAR = 6


class Passes:
    """The rows that a pass reads for each bin, and their weights; the gradient adds to the same rows.

    Samples of an adaptive number are at most a cell apart. A bin of n x n samples reads 4 n^2 rows for them, but these
    are (n + 1)^2 cells: an average takes four cells in a pass, with the sum of their weights. A fixed number of samples
    may be far apart, and a maximum needs each one's value: a pass takes one sample, which has four corners.
    """

    def __init__(self, maps: Sequence[tf.Tensor], samples: int, aggregation: Aggregation) -> None:
        self._maps, self._samples = maps, samples
        self._by_cells = not samples and aggregation is AVERAGE

    def number(self, plan: SamplingPlan) -> tf.Tensor:
        """Return the number of passes that each box needs, int32 [K]."""
        if self._by_cells:
            around = tf.reduce_prod(plan.ratio + 1., axis=-1)
            return tf.cast(tf.where(plan.count > 0, tf.math.ceil(around / 4.), 0.), tf.int32)
        return tf.cast(plan.count, tf.int32)

    def over(self, number: tf.Tensor, step: Callable[[tf.Tensor | int, State], State], start: State) -> State:
        """Return the state after step(s, state) for every pass s of boxes that need `number` of them, int32 [K]."""
        count = self._samples or tf.reduce_max(number)
        # One pass at a time: unrolled or parallel iterations would keep the values of all in memory together.
        return tf.while_loop(lambda s, _: s < count, lambda s, state: (s + 1, step(s, state)), (0, start),
                             parallel_iterations=1)[1]

    def rows(self, plan: SamplingPlan, s: tf.Tensor | int, size: Size, present: tf.Tensor
             ) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Return four pairs (row of the table [K, P, P], weight [K, P, P, 1]) of pass s.

        The weights of boxes that do not need the pass are 0; `present` says which do, bool [K, 1, 1, 1].
        """
        height, width, offset = cells.extent(self._maps, plan.level)
        origin = offset + plan.image[:, None] * height * width
        extents = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        down, across = (_cells if self._by_cells else _corners)(plan, s, size, *extents)
        return [((origin + y * width)[:, :, None] + x[:, None, :],
                 tf.where(present, (y_weight[:, :, None] * x_weight[:, None, :])[..., None], 0.))
                for (y, y_weight), (x, x_weight) in zip(down, across, strict=True)]


# Cells of each bin along an axis, int32 [K, P], and their weights, float32 [K, P].
Places = list[tuple[tf.Tensor, tf.Tensor]]


def _corners(plan: SamplingPlan, s: tf.Tensor | int, size: Size, height: tf.Tensor, width: tf.Tensor
             ) -> tuple[Places, Places]:
    """Return the four cells around sample s, in y and in x."""
    y, x = plan.points(s, size)
    rows, columns = corners(y, height), corners(x, width)
    above, below = (rows.low, rows.low_weight), (rows.high, rows.high_weight)
    return [above, above, below, below], 2 * [(columns.low, columns.low_weight), (columns.high, columns.high_weight)]


def _cells(plan: SamplingPlan, s: tf.Tensor | int, size: Size, height: tf.Tensor, width: tf.Tensor
           ) -> tuple[Places, Places]:
    """Return the cells 4 s to 4 s + 3 of those around the samples of a bin, in y and in x."""
    wide = tf.maximum(plan.ratio[:, 1:], 1.) + 1.                                              # [K, 1]
    number = tf.cast(4 * s + tf.range(4), tf.float32)[:, None, None]
    row = tf.floor((number + .5) / wide)                                       # + .5: rounding errors do not matter
    return _cells_of_axis(plan, 0, row, size[0], height), _cells_of_axis(plan, 1, number - row * wide, size[1], width)


def _cells_of_axis(plan: SamplingPlan, axis: int, number: tf.Tensor, side: int, extent: tf.Tensor) -> Places:
    """Return four cells around the samples of each bin along an axis, and the sum of the weights that they give each.

    Args:
        plan: of the boxes.
        axis: 0 for y, 1 for x.
        number: of the cells, from 0 for the one before the first sample; float32 [4, K, 1].
        side: P.
        extent: cells of the feature map along this axis, float32 [K, 1].
    """
    ratio = tf.maximum(plan.ratio[:, axis, None], 1.)                                          # [K, 1]
    first = plan.position(axis, tf.zeros_like(ratio), side)                                    # [K, P]
    before = tf.floor(tf.clip_by_value(first, 0., extent - 1.))
    cell = before + number                                                                     # [4, K, P]
    # From the first sample that may be near; two samples are more than half a cell apart.
    start = tf.maximum(tf.floor((cell - 1. - first) / tf.maximum(plan.bin[:, axis, None] / ratio, .5)), 0.)
    i = start + tf.range(_NEAR, dtype=tf.float32)[:, None, None, None]                         # [_NEAR, 4, K, P]
    y = plan.position(axis, i, side)
    present = (i < ratio) & inside(y, extent)
    # Rounding must not move the last sample beyond the last cell.
    y = tf.clip_by_value(y, 0., tf.minimum(extent - 1., before + ratio))
    weight = tf.reduce_sum(tf.where(present, tf.nn.relu(1. - tf.abs(y - cell)), 0.), axis=0)
    cell = tf.cast(tf.minimum(cell, extent - 1.), tf.int32)
    return list(zip(tf.unstack(cell), tf.unstack(weight), strict=True))


def buckets(passes: tf.Tensor, row: int) -> tf.Tensor:
    """Return the boxes sorted by their numbers of passes, in n buckets of equal size: int32 [n, K / n].

    A bucket takes as many passes as its box with the most. In a single bucket, the few boxes with many would make all
    others wait. But before a pass, a GPU waits 20 us for the host, so there are USUAL_BUCKETS: fewer if one would have
    fewer values of the result than SMALL_BUCKET, more if one would have more than LARGE_BUCKET, for the memory. n is
    the divisor of K that is nearest to this number.

    Args:
        passes: int32 [K].
        row: the number of values of a box in the result.
    """
    number, order = passes.shape[0] or 0, tf.argsort(passes, stable=True)
    values = number * row
    wanted = max(1., min(USUAL_BUCKETS, values / SMALL_BUCKET), values / LARGE_BUCKET)
    divisors = [n for n in range(1, number + 1) if number % n == 0] or [1]
    count = min(divisors, key=lambda n: abs(math.log(n / wanted)))
    return tf.reshape(order, [count, number // count or -1])


def _over_buckets(start: State, plan: SamplingPlan, passes: Passes, row: int,
                  step: Callable[[tf.Tensor, SamplingPlan, tf.Tensor, State], State]) -> State:
    """Return the state after step(boxes, their plan, passes of each, state) for every bucket; `row` as in `buckets`."""
    needed = passes.number(plan)
    all_boxes = buckets(needed, row)

    def once(number: tf.Tensor | int, state: State) -> tuple[tf.Tensor | int, State]:
        boxes = all_boxes[number]
        return number + 1, step(boxes, plan.take(boxes), tf.gather(needed, boxes), state)

    return tf.while_loop(lambda number, _: number < all_boxes.shape[0], once, (0, start), parallel_iterations=1)[1]


def forward(maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, aggregation: Aggregation
            ) -> State:
    """Return the state of the boxes after their last pass; its first part is the pooled maps, float32 [K, P, P, C].

    Args:
        maps: feature maps [B, h, w, C] of all levels, of one type.
        plan: positions of the samples.
        size: rows and columns of bins.
        samples: number of samples in each bin; 0 if it differs between boxes.
        aggregation: AVERAGE or MAX.
    """
    table, passes = cells.table(maps), Passes(maps, samples, aggregation)
    shape = [*size, table.shape[1]]

    def pool(index: tf.Tensor, part: SamplingPlan, needed: tf.Tensor, whole: State) -> State:
        def step(s: tf.Tensor | int, state: State) -> State:
            present = (s < needed)[:, None, None, None]
            values = tf.add_n([share * tf.cast(tf.gather(table, row), tf.float32)
                               for row, share in passes.rows(part, s, size, present)])
            return aggregation.add(state, s, values, present)

        start = aggregation.begin([dimensions(index)[0], *shape])
        state = aggregation.end(passes.over(needed, step, start), part)
        return tuple(tf.tensor_scatter_nd_update(all_, index[:, None], some)
                     for all_, some in zip(whole, state, strict=True))

    return _over_buckets(aggregation.begin([dimensions(plan.level)[0], *shape]), plan, passes, math.prod(shape), pool)


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
    size, passes = (upstream.shape[1], upstream.shape[2]), Passes(maps, samples, aggregation)

    def spread(index: tf.Tensor, part: SamplingPlan, needed: tf.Tensor, totals: State) -> State:
        cotangent = aggregation.scale(tf.gather(upstream, index), part.divisor)
        last = tuple(tf.gather(each, index) for each in state)

        def step(s: tf.Tensor | int, totals: State) -> State:
            present = (s < needed)[:, None, None, None]
            gradient = aggregation.gradient(cotangent, last, s)
            total = totals[0]
            for row, share in passes.rows(part, s, size, present):
                total = tf.tensor_scatter_nd_add(total, row[..., None], share * gradient)
            return (total,)

        return passes.over(needed, step, totals)

    start = tf.fill(tf.shape(cells.table(maps)), zero_after(upstream))
    return cells.split(_over_buckets((start,), plan, passes, math.prod(upstream.shape[1:]), spread)[0], maps)
