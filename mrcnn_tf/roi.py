"""RoIAlign (Mask R-CNN 3) and RoIPool (Fast R-CNN 2.1) over the levels of a feature pyramid (FPN eq. 1).

B images, N boxes an image, K = B * N, L levels, P output side, C channels, s a sample, or a cell, within each bin.

The average over the samples of a bin is taken one sample at a time: for each s, all bins of all boxes are read at
their s-th point and added up, forward and in the gradient. So memory does not grow with the number of samples, and
the adaptive number of samples (which differs from box to box) needs no dynamic shape: a box that has had all its
samples adds nothing more. Two engines read the points: 'op' by tf.image.crop_and_resize, fast on a CPU but unknown to
XLA, and 'xla' by gathers. RoIPool goes over the cells of its bins in the same way, by gathers, which compile.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mrcnn_tf import boxes as box_ops


def assign_levels(boxes: tf.Tensor, count: int, canonical_size: float = 224., canonical_level: int = 4) -> tf.Tensor:
    """FPN eq. 1 for levels P2..: [..., 4] px -> int32 [...], 0 for P2 up to count - 1."""
    # 1e-6 keeps a box of exactly 112, 224, ... px on the level that real arithmetic gives it.
    root = tf.sqrt(tf.maximum(box_ops.area(boxes), 1e-12))
    level = tf.floor(canonical_level + tf.math.log(root / canonical_size) / tf.math.log(2.) + 1e-6)
    return tf.cast(tf.clip_by_value(level - 2, 0, count - 1), tf.int32)


Size = tuple[int, int]     # rows and columns of bins; P stands for either


def _both(size: int | Sequence[int]) -> Size:
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


class SamplingPlan(NamedTuple):
    """Where the samples of each box lie, in cells of the level that it is pooled from."""
    level: tf.Tensor      # int32 [K]
    image: tf.Tensor      # int32 [K]
    start: tf.Tensor      # float32 [K, 2], y and x of the first bin's edge; 0 is the centre of the first cell
    bin: tf.Tensor        # float32 [K, 2], sides of a bin
    ratio: tf.Tensor      # float32 [K, 2], samples of a bin in y and x

    def points(self, s: tf.Tensor | int, size: Size) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The s-th sample of every bin: y [K, P], x [K, P] and its weight [K] in the bin's average."""
        s = tf.cast(s, tf.float32)
        columns = tf.maximum(self.ratio[:, 1], 1.)
        row = tf.floor((s + .5) / columns)                                         # half a step from any integer
        within = tf.stack([row, s - row * columns], axis=-1)                       # [K, 2]
        first = self.start + self.bin * (within + .5) / tf.maximum(self.ratio, 1.)
        y, x = (first[:, i, None] + self.bin[:, i, None] * tf.range(side, dtype=tf.float32)
                for i, side in enumerate(size))                                    # [K, P]
        count = tf.reduce_prod(self.ratio, axis=-1)
        return y, x, tf.where(s < count, 1. / tf.maximum(count, 1.), 0.)

    def take(self, index: tf.Tensor) -> SamplingPlan:
        """The plan of some of the boxes."""
        return SamplingPlan(*(tf.gather(field, index) for field in self))


def sampling_plan(boxes: tf.Tensor, levels: tf.Tensor, strides: Sequence[int], size: Size, sampling_ratio: int,
                  aligned: bool) -> SamplingPlan:
    """boxes float32 [B, N, 4] px, levels int32 [B, N] -> the plan of the K boxes. See RoIAlign for the settings."""
    batch, number = boxes.shape[0], boxes.shape[1]
    flat, level = tf.reshape(boxes, [-1, 4]), tf.reshape(levels, [-1])
    scale = tf.gather(tf.constant([1. / s for s in strides], tf.float32), level)[:, None]   # [K, 1]
    start = flat[:, :2] * scale - (.5 if aligned else 0.)
    sides = (flat[:, 2:] - flat[:, :2]) * scale
    if not aligned:
        sides = tf.maximum(sides, 1.)
    bins = sides / tf.constant(size, tf.float32)
    ratio = tf.fill(tf.shape(bins), float(sampling_ratio)) if sampling_ratio else tf.nn.relu(tf.math.ceil(bins))
    return SamplingPlan(level, tf.repeat(tf.range(batch), number), start, bins, ratio)


class RoIAlign(keras.layers.Layer):
    """Feature levels [B, h, w, C] and boxes float32 [B, N, 4] in px -> float32 [B, N, P, P, C].

    No gradient flows into the boxes.

    Args:
        size: P, or its rows and columns.
        strides: px a cell of each level given to `call`, the finest first.
        sampling_ratio: samples of a bin in each axis; 0: the bin's side in cells, rounded up.
        aligned: shift by half a cell, so that cell centres lie at half-integers; False, the dialect of the first
            implementations, leaves the shift out and takes boxes to be at least one cell wide.
        engine: 'op' or 'xla'.
        canonical_size, canonical_level: of FPN eq. 1.
    """

    def __init__(self, size: int | Sequence[int], strides: Sequence[int], sampling_ratio: int, aligned: bool,
                 engine: str = 'op', canonical_size: float = 224., canonical_level: int = 4, **kwargs: Any) -> None:
        super().__init__(**{'autocast': False, 'dtype': 'float32', **kwargs})
        self.size: Any = size
        self.strides = tuple(strides)
        self.sampling_ratio, self.aligned, self.engine = sampling_ratio, aligned, engine
        self.canonical_size, self.canonical_level = canonical_size, canonical_level

    def call(self, features: Sequence[tf.Tensor], boxes: tf.Tensor) -> tf.Tensor:
        features = [tf.cast(f, tf.float32) for f in features]
        boxes = tf.stop_gradient(boxes)
        levels = assign_levels(boxes, len(features), self.canonical_size, self.canonical_level)
        size = _both(self.size)
        plan = sampling_plan(boxes, levels, self.strides, size, self.sampling_ratio, self.aligned)
        pooled = roi_align(features, plan, size, self.sampling_ratio ** 2, self.engine)
        return tf.reshape(pooled, [*boxes.shape[:2], *size, features[0].shape[-1]])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'size': self.size, 'strides': self.strides,
                'sampling_ratio': self.sampling_ratio, 'aligned': self.aligned, 'engine': self.engine,
                'canonical_size': self.canonical_size, 'canonical_level': self.canonical_level}


def roi_align(features: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, engine: str) -> tf.Tensor:
    """Averages the plan's samples: L maps float32 [B, h, w, C] -> [K, P, P, C], differentiable in the maps.

    samples: of each bin; 0 where the plan's boxes differ in it.
    """
    read, spread = {'op': (_read_op, _spread_op), 'xla': (_read_xla, _spread_xla)}[engine]

    @tf.custom_gradient
    def pool(*maps: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        return read(maps, plan, size, samples), lambda upstream: spread(upstream, maps, plan, size, samples)

    return pool(*features)


def _sum_over_samples(start: tf.Tensor, plan: SamplingPlan, samples: int,
                      step: Callable[[tf.Tensor | int, tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """step(s, total) for every sample; as many as the neediest box has where `samples` is 0."""
    if samples:
        for s in range(samples):
            start = step(s, start)
        return start
    most = tf.cast(tf.reduce_max(tf.reduce_prod(plan.ratio, axis=-1)), tf.int32)
    return tf.while_loop(lambda s, _: s < most, lambda s, total: (s + 1, step(s, total)), (0, start))[1]


# Engine 'op'. A level is padded by one repeated cell, since a sample up to one cell outside takes the border's value;
# beyond that crop_and_resize gives 0, as RoIAlign does. Boxes are grouped by level: shapes inside are dynamic.

def _crop_boxes(plan: SamplingPlan, s: tf.Tensor | int, size: Size, height: int, width: int
                ) -> tuple[tf.Tensor, tf.Tensor]:
    """crop_and_resize reads from the first to the last sample; its coordinates run over the padded level's cells."""
    y, x, weight = plan.points(s, size)
    corners = tf.stack([y[:, 0], x[:, 0], y[:, -1], x[:, -1]], axis=-1)
    corners = tf.where(weight[:, None] > 0., corners, -9.)    # far outside, the kernel has nothing to read
    return (corners + 1.) / tf.constant([height + 1., width + 1.] * 2), weight[:, None, None, None]


def _on_level(plan: SamplingPlan, level: int) -> tuple[tf.Tensor, SamplingPlan]:
    index = tf.where(plan.level == level)                                          # [k, 1]
    return index, plan.take(index[:, 0])


def _read_op(maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int) -> tf.Tensor:
    channels = maps[0].shape[-1]
    pooled = tf.zeros([plan.level.shape[0], *size, channels])
    for level, feature in enumerate(maps):
        index, part = _on_level(plan, level)
        padded = tf.pad(feature, [[0, 0], [1, 1], [1, 1], [0, 0]], 'SYMMETRIC')

        def step(s: tf.Tensor | int, total: tf.Tensor, padded: tf.Tensor = padded, part: SamplingPlan = part,
                 feature: tf.Tensor = feature) -> tf.Tensor:
            crops, weight = _crop_boxes(part, s, size, *feature.shape[1:3])
            total += weight * tf.image.crop_and_resize(padded, crops, part.image, size)
            return tf.ensure_shape(total, [None, *size, channels])

        start = tf.zeros([tf.shape(index)[0], *size, channels])
        pooled = tf.tensor_scatter_nd_update(pooled, index, _sum_over_samples(start, part, samples, step))
    return pooled


def _spread_op(upstream: tf.Tensor, maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size,
               samples: int) -> list[tf.Tensor]:
    gradients = []
    for level, feature in enumerate(maps):
        batch, height, width, channels = feature.shape
        index, part = _on_level(plan, level)
        cotangent = tf.gather_nd(upstream, index)
        shape = [batch, height + 2, width + 2, channels]

        def step(s: tf.Tensor | int, total: tf.Tensor, part: SamplingPlan = part, cotangent: tf.Tensor = cotangent,
                 shape: list[int] = shape) -> tf.Tensor:
            crops, weight = _crop_boxes(part, s, size, shape[1] - 2, shape[2] - 2)
            return total + tf.ensure_shape(tf.raw_ops.CropAndResizeGradImage(
                grads=weight * cotangent, boxes=crops, box_ind=part.image, image_size=shape, T=tf.float32), shape)

        gradients.append(_unpad(_sum_over_samples(tf.zeros(shape), part, samples, step)))
    return gradients


def _unpad(padded: tf.Tensor) -> tf.Tensor:
    """Gradient of the padding: the border's share goes to the cells that it repeats."""
    for axis in (1, 2):
        if padded.shape[axis] == 3:                                                # one cell, repeated on both sides
            padded = tf.reduce_sum(padded, axis, keepdims=True)
            continue
        outer, first, inner, last, beyond = tf.split(padded, [1, 1, padded.shape[axis] - 4, 1, 1], axis)
        padded = tf.concat([first + outer, inner, last + beyond], axis)
    return padded


# Engine 'xla'. The cells of all levels form the rows of one table; a sample reads four of them.

class _Corners(NamedTuple):
    """The two cells that surround a coordinate, and their weights (0 outside): each [K, P]."""
    low: tf.Tensor
    high: tf.Tensor
    low_weight: tf.Tensor
    high_weight: tf.Tensor


def _corners(position: tf.Tensor, cells: tf.Tensor) -> _Corners:
    """position [K, P], cells float32 [K, 1]: how many there are along the axis."""
    inside = tf.cast((position >= -1.) & (position <= cells), tf.float32)
    position = tf.clip_by_value(position, 0., cells - 1.)
    low = tf.floor(position)
    high = tf.minimum(low + 1., cells - 1.)
    fraction = position - low
    return _Corners(tf.cast(low, tf.int32), tf.cast(high, tf.int32), (1. - fraction) * inside, fraction * inside)


def _extent(maps: Sequence[tf.Tensor], level: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Rows and columns of each box's map and its first row in the table: level int32 [K] -> int32 [K, 1] each."""
    shapes = [m.shape for m in maps]
    offsets = [sum(b * h * w for b, h, w, _ in shapes[:i]) for i in range(len(shapes))]
    height, width, offset = (tf.gather(tf.constant(values), level)[:, None] for values in (
        [h for _, h, _, _ in shapes], [w for _, _, w, _ in shapes], offsets))
    return height, width, offset


def _table(maps: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(m, [-1, m.shape[-1]]) for m in maps], axis=0)


def _split(table: tf.Tensor, maps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    counts = [m.shape[0] * m.shape[1] * m.shape[2] for m in maps]
    return [tf.reshape(part, m.shape) for part, m in zip(tf.split(table, counts), maps, strict=True)]


def _rows(maps: Sequence[tf.Tensor], plan: SamplingPlan, s: tf.Tensor | int, size: Size
          ) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Four pairs of rows of the table int32 [K, P, P] and their weights [K, P, P]."""
    height, width, offset = _extent(maps, plan.level)
    y, x, weight = plan.points(s, size)
    rows, columns = _corners(y, tf.cast(height, tf.float32)), _corners(x, tf.cast(width, tf.float32))
    origin = offset + plan.image[:, None] * height * width
    pairs = []
    for row, row_weight in ((rows.low, rows.low_weight), (rows.high, rows.high_weight)):
        for column, column_weight in ((columns.low, columns.low_weight), (columns.high, columns.high_weight)):
            index = (origin + row * width)[:, :, None] + column[:, None, :]
            pairs.append((index, (row_weight * weight[:, None])[:, :, None] * column_weight[:, None, :]))
    return pairs


def _read_xla(maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int) -> tf.Tensor:
    channels = maps[0].shape[-1]
    table = _table(maps)

    def step(s: tf.Tensor | int, total: tf.Tensor) -> tf.Tensor:
        for index, weight in _rows(maps, plan, s, size):
            total += weight[..., None] * tf.gather(table, index)
        return total

    return _sum_over_samples(tf.zeros([plan.level.shape[0], *size, channels]), plan, samples, step)


def _spread_xla(upstream: tf.Tensor, maps: Sequence[tf.Tensor], plan: SamplingPlan, size: Size,
                samples: int) -> list[tf.Tensor]:
    def step(s: tf.Tensor | int, total: tf.Tensor) -> tf.Tensor:
        for index, weight in _rows(maps, plan, s, size):
            total = tf.tensor_scatter_nd_add(total, index[..., None], weight[..., None] * upstream)
        return total

    return _split(_sum_over_samples(tf.zeros_like(_table(maps)), plan, samples, step), maps)


# RoIPool.

class PoolingPlan(NamedTuple):
    """The cells of each bin: rows first[0] .. last[0] - 1 and columns first[1] .. last[1] - 1 of its level."""
    level: tf.Tensor                       # int32 [K]
    image: tf.Tensor                       # int32 [K]
    first: tuple[tf.Tensor, tf.Tensor]     # of rows and of columns, int32 [K, P] each
    last: tuple[tf.Tensor, tf.Tensor]      # no more than first: the bin is empty


def pooling_plan(boxes: tf.Tensor, levels: tf.Tensor, strides: Sequence[int], maps: Sequence[tf.Tensor],
                 size: Size) -> PoolingPlan:
    """boxes float32 [B, N, 4] px, levels int32 [B, N] -> the bins of the K boxes (Fast 2.1).

    A box takes the cells from round(first edge / stride) to round(last edge / stride), both included, halves away from
    zero. Bin p of P covers floor(p * cells / P) up to ceil((p + 1) * cells / P), so that bins may share cells.
    """
    flat, level = tf.reshape(boxes, [-1, 4]), tf.reshape(levels, [-1])
    # Times the inverse, since a division may be inexact in a graph, and a half must come out as a half.
    edges = flat * tf.gather(tf.constant([1. / s for s in strides], tf.float32), level)[:, None]    # [K, 4], in cells
    edges = tf.cast(tf.sign(edges) * tf.floor(tf.abs(edges) + .5), tf.int32)
    height, width, _ = _extent(maps, level)
    down, across = (_bins(edges[:, axis::2], limit, size[axis]) for axis, limit in ((0, height), (1, width)))
    image = tf.repeat(tf.range(boxes.shape[0]), boxes.shape[1])
    return PoolingPlan(level, image, (down[0], across[0]), (down[1], across[1]))


def _bins(edges: tf.Tensor, limit: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """First and last cell (excluded) of each bin along one axis: int32 [K, 2], [K, 1] -> [K, P] each."""
    start = edges[:, :1]
    cells = tf.maximum(edges[:, 1:] - start + 1, 1)                                           # [K, 1]
    bins = tf.range(count)
    low, high = start + bins * cells // count, start + ((bins + 1) * cells + count - 1) // count
    return tf.clip_by_value(low, 0, limit), tf.clip_by_value(high, 0, limit)


class RoIPool(keras.layers.Layer):
    """The largest value of each bin (Fast 2.1): levels [B, h, w, C], boxes float32 [B, N, 4] px -> [B, N, P, P, C].

    A bin without cells, outside the map, gives 0. The gradient goes to the cell that held the largest value, of equals
    to the first by rows; none flows into the boxes.

    Args:
        size: P, or its rows and columns.
        strides: px a cell of each level given to `call`, the finest first.
        canonical_size, canonical_level: of FPN eq. 1.
    """

    def __init__(self, size: int | Sequence[int], strides: Sequence[int], canonical_size: float = 224.,
                 canonical_level: int = 4, **kwargs: Any) -> None:
        super().__init__(**{'autocast': False, 'dtype': 'float32', **kwargs})
        self.size: Any = size
        self.strides = tuple(strides)
        self.canonical_size, self.canonical_level = canonical_size, canonical_level

    def call(self, features: Sequence[tf.Tensor], boxes: tf.Tensor) -> tf.Tensor:
        features = [tf.cast(f, tf.float32) for f in features]
        boxes = tf.stop_gradient(boxes)
        levels = assign_levels(boxes, len(features), self.canonical_size, self.canonical_level)
        size = _both(self.size)
        pooled = roi_pool(features, pooling_plan(boxes, levels, self.strides, features, size))
        return tf.reshape(pooled, [*boxes.shape[:2], *size, features[0].shape[-1]])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'size': self.size, 'strides': self.strides,
                'canonical_size': self.canonical_size, 'canonical_level': self.canonical_level}


def roi_pool(features: Sequence[tf.Tensor], plan: PoolingPlan) -> tf.Tensor:
    """Largest value of each bin: L maps float32 [B, h, w, C] -> [K, P, P, C], differentiable in the maps."""

    @tf.custom_gradient
    def pool(*maps: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        largest, row = _largest(maps, plan)
        return largest, lambda upstream: _to_rows(upstream, row, maps)

    return pool(*features)


def _largest(maps: Sequence[tf.Tensor], plan: PoolingPlan) -> tuple[tf.Tensor, tf.Tensor]:
    """The value [K, P, P, C] and the row of the table that held it, int32, -1 where the bin is empty."""
    table = _table(maps)
    height, width, offset = _extent(maps, plan.level)
    origin = (offset + plan.image[:, None] * height * width)[..., None]                       # [K, 1, 1]
    rows, columns = (tf.reduce_max(last - first, axis=1) for first, last in zip(plan.first, plan.last, strict=True))
    columns = tf.maximum(columns, 1)                                                          # [K], of the widest bin

    def step(s: tf.Tensor, best: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        down = s // columns
        y = plan.first[0] + down[:, None]                                                     # [K, P]
        x = plan.first[1] + (s - down * columns)[:, None]
        inside = (y < plan.last[0])[:, :, None] & (x < plan.last[1])[:, None, :]              # [K, P, P]
        row = tf.where(inside, origin + (y * width)[:, :, None] + x[:, None, :], 0)
        value = tf.gather(table, row)
        larger = inside[..., None] & ((found < 0) | (value > best))
        return s + 1, tf.where(larger, value, best), tf.where(larger, row[..., None], found)

    most = tf.reduce_max(rows * columns)
    shape = [plan.level.shape[0], plan.first[0].shape[1], plan.first[1].shape[1], table.shape[1]]
    _, best, found = tf.while_loop(lambda s, *_: s < most, step, (0, tf.zeros(shape), tf.fill(shape, -1)))
    return best, found


def _to_rows(upstream: tf.Tensor, row: tf.Tensor, maps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Adds upstream [K, P, P, C] to the rows of the table that it belongs to, one for each channel."""
    table = _table(maps)
    channels = table.shape[1]
    place = tf.reshape(tf.maximum(row, 0) * channels + tf.range(channels), [-1, 1])
    values = tf.reshape(tf.where(row >= 0, upstream, 0.), [-1])
    return _split(tf.reshape(tf.tensor_scatter_nd_add(tf.zeros([tf.size(table)]), place, values), table.shape), maps)
