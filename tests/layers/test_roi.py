"""RoIAlign, RoIWarp and RoIPool by hand, and the two engines against each other (the reference: tests/parity)."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.layers import roi
from mrcnn_tf.layers.roi import op_engine, xla_engine
from mrcnn_tf.layers.roi.levels import both
from mrcnn_tf.layers.roi.sampling import AVERAGE, MAX
from tests.modes import MODES, with_gradient


@pytest.fixture(scope='module')
def pyramid() -> list[tf.Tensor]:
    """Three levels of two images of 64 x 96 px at strides 4, 8, 16."""
    rng = np.random.default_rng(1)
    return [tf.constant(rng.normal(size=(2, 64 // s, 96 // s, 3)), tf.float32) for s in (4, 8, 16)]


@pytest.fixture(scope='module')
def random_boxes() -> tf.Tensor:
    """[2, 24, 4]: within the canvas, across its edges, outside, without area, and larger than the canvas."""
    rng = np.random.default_rng(2)
    corner = rng.uniform(-30, 90, (2, 24, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 50, (2, 24, 2))], -1)
    boxes[:, 0] = 0.                                                       # the padding of proposals
    boxes[:, 1, 2:] = boxes[:, 1, :2]
    boxes[:, 2, 2] = boxes[:, 2, 0]                                        # width without height
    boxes[:, 3] = [-20.3, -31.7, 90.1, 130.9]
    boxes[:, 4] = [200, 300, 230, 340]
    return tf.constant(boxes, tf.float32)


@pytest.mark.parametrize(('aligned', 'size'), [(True, 5), (False, (3, 5))])
@pytest.mark.parametrize('ratio', [1, 2, 0])
def test_engines_agree_over_levels(pyramid, random_boxes, aligned, size, ratio, monkeypatch) -> None:
    """The same values and gradients from TensorFlow's kernels, in groups, and, compiled, from gathers in 12 buckets."""
    monkeypatch.setattr(xla_engine, 'LARGE_BUCKET', 4 * 5 * 5 * 3)
    monkeypatch.setattr(op_engine, 'GROUP', 4 * 5 * 5 * 3)
    monkeypatch.setattr(op_engine, 'WINDOWS', 3000)
    cotangent = tf.constant(np.random.default_rng(3).normal(size=(2, 24, *both(size), 3)), tf.float32)
    results = []
    for engine, mode in (('op', 'graph'), ('xla', 'jit')):
        layer = roi.RoIAlign(size, (4, 8, 16), ratio, aligned, engine, canonical_size=40., canonical_level=3)
        results.append(MODES[mode](lambda *maps, layer=layer: with_gradient(
            lambda *m: layer(m, random_boxes), *maps, cotangent=cotangent))(*pyramid))
    levels = roi.assign_levels(random_boxes, 3, 40., 3).numpy().tolist()
    assert {level for row in levels for level in row} == {0, 1, 2}
    for by_op, by_xla in zip(*results, strict=True):
        np.testing.assert_allclose(by_xla, by_op, rtol=1e-5, atol=1e-5)
        assert np.abs(by_op).max() > .1


@pytest.mark.parametrize('engine', ['op', 'xla'])
@pytest.mark.parametrize('box', [[8., 5., 6., 30.], [2., 8., 12., 6.], [8., 8., 6., 6.]])
def test_inverted_boxes_have_a_gradient(engine, box) -> None:
    """Of 0, as they have no samples; that of another box stays."""
    feature, layer = tf.zeros([1, 20, 40, 1]), roi.RoIAlign(2, (1,), engine=engine)
    _, gradient = with_gradient(lambda each: layer(each, tf.constant([[box, [1., 1., 9., 9.]]])), feature,
                                cotangent=tf.ones([1, 2, 2, 2, 1]))
    assert float(tf.reduce_sum(gradient)) == pytest.approx(4)


def test_gradients_of_long_boxes_are_computed_together(monkeypatch) -> None:
    """60 boxes of 2 x 40 cells have windows of 4 x 42 cells at most; in squares of 42 x 42, one would fill a group."""
    monkeypatch.setattr(op_engine, 'WINDOWS', 30 * 4 * 42 * 3)
    groups = []
    monkeypatch.setattr(op_engine, '_axis_weights', lambda *args, made=op_engine._axis_weights: groups.append(1) or
                        made(*args))
    boxes, feature = tf.tile(tf.constant([[[8., 0., 10., 40.]]]), [1, 60, 1]), tf.zeros([1, 20, 40, 3])
    layer = roi.RoIAlign(2, (1,))
    _, gradient = with_gradient(lambda each: layer(each, boxes), feature, cotangent=tf.ones([1, 60, 2, 2, 3]))
    assert len(groups) == 2 * 2                                               # two groups, two axes each
    assert float(tf.reduce_sum(gradient)) == pytest.approx(60 * 2 * 2 * 3)    # the weights of a sample add up to 1


@pytest.mark.parametrize('engine', ['op', 'xla'])
@pytest.mark.parametrize('ratio', [1, 2, 0])
def test_a_plane_is_sampled_exactly(engine, ratio) -> None:
    """Bilinear samples of a plane are exact, so a bin's average is the plane at the bin's center. Aligned, cell i is at
    pixel stride * (i + 1/2), else at stride * i."""
    y, x = np.meshgrid(np.arange(16.), np.arange(24.), indexing='ij')
    plane = tf.constant((3 * y - 2 * x + 5)[None, :, :, None], tf.float32)
    box = tf.constant([[[12., 20., 40., 68.]]])
    centers = np.arange(4) + .5
    for aligned, shift in ((True, .5), (False, 0.)):
        out = roi.RoIAlign(4, (4,), ratio, aligned, engine)([plane], box)
        rows, columns = (12 + 28 / 4 * centers) / 4 - shift, (20 + 48 / 4 * centers) / 4 - shift
        np.testing.assert_allclose(out[0, 0, :, :, 0], 3 * rows[:, None] - 2 * columns + 5, atol=1e-4)


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_each_box_is_pooled_from_its_image_and_level(engine) -> None:
    """Feature maps of 10 * image + level; sides of 56, 112, 224 and 448 px begin at P2, P3, P4, P5 (FPN eq. 1)."""
    maps = [tf.constant([[[[float(level)]]], [[[10. + level]]]]) * tf.ones([1, 512 // s, 512 // s, 1])
            for level, s in enumerate((4, 8, 16, 32))]
    sides = [[20., 56., 112., 111.9, 224., 448.], [448., 300., 223.9, 112., 60., 0.]]
    boxes = tf.constant([[[0., 0., s, s] for s in row] for row in sides])
    out = roi.RoIAlign(2, (4, 8, 16, 32), 2, True, engine)(maps, boxes)
    assert out.shape == [2, 6, 2, 2, 1]
    expected = np.array([[0, 0, 1, 0, 2, 3], [13, 12, 11, 11, 10, 10]], np.float32)
    np.testing.assert_allclose(out, np.broadcast_to(expected[..., None, None, None], out.shape), rtol=1e-6)


def test_levels_by_another_canonical_box() -> None:
    """Boxes of side 50 on P3: twice as large on P4, half as large on P2, and never beyond the levels there are."""
    boxes = tf.constant([[0., 0., s, s] for s in (3., 25., 50., 99., 100., 900.)] + [[0., 0., 25., 100.]])
    assert roi.assign_levels(boxes, 3, 50., 3).numpy().tolist() == [0, 0, 1, 1, 2, 2, 1]


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_a_larger_canvas_does_not_change_the_result(pyramid, engine) -> None:
    """A canvas that is larger at the right and bottom changes no box inside the smaller one."""
    boxes = tf.constant([[[3., 5., 50., 60.], [8., 30., 20., 41.]]] * 2)
    grown = [tf.pad(m, [[0, 0], [0, 4], [0, 4], [0, 0]], constant_values=9.) for m in pyramid]
    layer = roi.RoIAlign(4, (4, 8, 16), 0, True, engine, 40., 3)
    np.testing.assert_allclose(layer(grown, boxes), layer(pyramid, boxes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_no_gradient_flows_into_the_boxes(pyramid, random_boxes, engine) -> None:
    layer = roi.RoIAlign(2, (4, 8, 16), 1, True, engine)
    with tf.GradientTape() as tape:
        tape.watch(random_boxes)
        out = layer(pyramid, random_boxes)
    assert tape.gradient(out, random_boxes) is None


@pytest.mark.parametrize('boxes', [np.zeros([1, 3, 4]), np.full([1, 3, 4], 400.)], ids=['no area', 'outside'])
def test_boxes_without_a_cell_have_no_gradient(boxes) -> None:
    _, gradient = with_gradient(lambda map_: roi.RoIAlign(2, [4])([map_], tf.constant(boxes, tf.float32)),
                                tf.ones([1, 8, 8, 2]), cotangent=np.ones([1, 3, 2, 2, 2], np.float32))
    np.testing.assert_array_equal(gradient, np.zeros([1, 8, 8, 2]))


def test_threads_lose_no_gradient() -> None:
    """The weights of a sample sum to 1, so the gradients of all cells sum to those of the bins.

    TensorFlow's gradient of crop_and_resize passes if its threads happen to meet nowhere; so its absence is checked.
    """
    boxes = np.random.default_rng(0).uniform([40, 40, 130, 130], [120, 120, 220, 220], [1, 256, 4])
    layer = roi.RoIAlign(7, [4], sampling_ratio=0)
    function = tf.function(lambda feature: with_gradient(lambda map_: layer([map_], tf.constant(boxes, tf.float32)),
                                                         feature, cotangent=np.ones([1, 256, 7, 7, 32], np.float32))[1])
    feature = tf.zeros([1, 64, 64, 32])
    np.testing.assert_allclose(tf.reduce_sum(function(feature), [0, 1, 2]), np.full(32, 256 * 49.), rtol=2e-6)
    graph = function.get_concrete_function(feature).graph.as_graph_def()
    used = {node.op for nodes in (graph.node, *(f.node_def for f in graph.library.function)) for node in nodes}
    assert 'CropAndResize' in used and 'CropAndResizeGradImage' not in used


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kinds', [['bfloat16'] * 3, ['float16'] * 3, ['bfloat16', 'float32', 'float16']])
@pytest.mark.parametrize(('layer', 'engine'), [(roi.RoIAlign, 'op'), (roi.RoIAlign, 'xla'), (roi.RoIPool, None)])
def test_feature_maps_in_half_precision(pyramid, random_boxes, layer, engine, kinds, mode) -> None:
    """Result and gradients are those of the same values in float32, rounded to the type of the feature maps."""
    if engine == 'op' and mode == 'jit':
        pytest.skip('XLA cannot compile the engine op')
    pool = layer(3, (4, 8, 16), **({'engine': engine} if engine else {}))
    maps = [tf.cast(m, kind) for m, kind in zip(pyramid, kinds, strict=True)]

    def run(*maps: tf.Tensor) -> tuple:
        return with_gradient(lambda *m: pool(m, random_boxes), *maps, cotangent=np.ones([2, 24, 3, 3, 3], np.float32))

    found = MODES[mode](run)(*maps)
    kinds = [kinds[0] if len({*kinds}) == 1 else 'float32', *kinds]
    assert [each.dtype for each in found] == kinds
    for each, exact, kind in zip(found, run(*(tf.cast(m, tf.float32) for m in maps)), kinds, strict=True):
        limit = 1e-5 if kind == 'float32' else 2. ** -8       # at most a step of bfloat16
        np.testing.assert_allclose(tf.cast(each, tf.float32), exact, rtol=limit, atol=1e-5)


@pytest.mark.parametrize(('layer', 'arguments', 'message'), [
    (roi.RoIAlign, {'engine': 'cuda'}, r"^RoIAlign: engine is 'cuda'; expected one of 'op', 'xla'$"),
    (roi.RoIWarp, {'aggregate': 'sum'}, r"^RoIWarp: aggregate is 'sum'; expected one of 'average', 'max'$"),
    (roi.RoIAlign, {'sampling_ratio': -1}, '^RoIAlign: sampling_ratio is -1; expected a whole number of at least 0$'),
    (roi.RoIPool, {'size': 0}, '^RoIPool: size is 0; expected a whole number of at least 1$'),
    (roi.RoIPool, {'size': (7, 7, 7)}, r'^RoIPool: size is \(7, 7, 7\); expected a list of 2 numbers above 0$'),
    (roi.RoIAlign, {'strides': []}, r'^RoIAlign: strides is \[\]; expected a list of one or more numbers above 0$'),
    (roi.RoIAlign, {'strides': 16}, '^RoIAlign: strides is 16; expected a list of one or more numbers above 0$'),
    (roi.RoIAlign, {'canonical_size': 0}, '^RoIAlign: canonical_size is 0; expected a number above 0$')],
    ids=['engine', 'aggregate', 'sampling_ratio', 'size', 'sizes', 'no_strides', 'one_stride', 'canonical_size'])
def test_wrong_arguments_are_named(layer, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**arguments)


def test_wrong_inputs_are_named(pyramid, random_boxes) -> None:
    with pytest.raises(ValueError, match='RoIAlign: got 3 feature maps; expected 4, one for each level'):
        roi.RoIAlign()(pyramid, random_boxes)
    with pytest.raises(ValueError, match=r'RoIAlign: boxes has the shape \(24, 4\); expected \[B, N, 4\]'):
        roi.RoIAlign(7, (4, 8, 16))(pyramid, random_boxes[0])
    with pytest.raises(ValueError, match=r'RoIPool: a feature map has the shape \(8, 9, 3\); expected \[B, h, w, C\]'):
        roi.RoIPool(7, [4])(tf.zeros([8, 9, 3]), random_boxes)


def test_a_pyramid_that_starts_at_a_coarser_level() -> None:
    """224 px belong to P4 (FPN eq. 1), which is the second map of P3 to P5; 112 px to P3."""
    maps = [tf.fill([1, 256 // stride, 256 // stride, 1], float(stride)) for stride in (8, 16, 32)]
    boxes = tf.constant([[[0., 0., 224., 224.], [0., 0., 112., 112.]]])
    np.testing.assert_allclose(roi.RoIAlign(1, (8, 16, 32))(maps, boxes).numpy().ravel(), [16, 8], rtol=1e-6)


def bilinear(feature: np.ndarray, y: float, x: float) -> np.ndarray:
    """A map [h, w, C] at a point; cells lie at whole numbers, the border reaches one cell beyond, then all is 0."""
    height, width, _ = feature.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(feature.shape[-1])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    v, u = y - top, x - left
    rows, columns = (top, min(top + 1, height - 1)), (left, min(left + 1, width - 1))
    return ((1 - v) * (1 - u) * feature[rows[0], columns[0]] + (1 - v) * u * feature[rows[0], columns[1]]
            + v * (1 - u) * feature[rows[1], columns[0]] + v * u * feature[rows[1], columns[1]])


def naive(maps: list[np.ndarray], levels: np.ndarray, boxes: np.ndarray, quantized: bool, aggregate: str, side: int,
          ratio: int) -> np.ndarray:
    """A sample at a time: [B, N, P, P, C] of aligned RoIAlign, or of RoIWarp, on strides 4, 8, 16."""
    out = np.zeros([*boxes.shape[:2], side, side, maps[0].shape[-1]])
    for image, number in np.ndindex(*boxes.shape[:2]):
        level = levels[image, number]
        edges = boxes[image, number].astype(np.float64) / (4, 8, 16)[level]
        if quantized:
            edges = np.sign(edges) * np.floor(np.abs(edges) + .5)
            edges[2:] = np.maximum(edges[2:] + 1, edges[:2] + 1)
        start, bins = edges[:2] - .5, (edges[2:] - edges[:2]) / side
        counts = [ratio] * 2 if ratio else np.maximum(np.ceil(bins), 0).astype(int)
        for i, j in np.ndindex(side, side):
            values = [bilinear(maps[level][image], start[0] + bins[0] * (i + (a + .5) / counts[0]),
                               start[1] + bins[1] * (j + (b + .5) / counts[1])) for a, b in np.ndindex(*counts)]
            if values:
                out[image, number, i, j] = np.max(values, 0) if aggregate == 'max' else np.mean(values, 0)
    return out


@pytest.mark.parametrize(('engine', 'mode'), [('op', 'graph'), ('xla', 'jit')])
@pytest.mark.parametrize(('quantized', 'aggregate', 'ratio'), [
    (True, 'average', 2), (True, 'average', 0), (True, 'max', 2), (False, 'max', 2), (False, 'max', 0)])
def test_warp_and_the_largest_sample(pyramid, random_boxes, engine, mode, quantized, aggregate, ratio,
                                     monkeypatch) -> None:
    """Table 2c of Mask R-CNN: values by the naive rule, and a small step along the gradient raises them as it says."""
    monkeypatch.setattr(xla_engine, 'LARGE_BUCKET', 4 * 3 * 3 * 3)      # 6 buckets
    boxes = random_boxes[:, :12]
    layer = roi.RoIWarp(3, (4, 8, 16), ratio, engine, 40., 3, aggregate) if quantized else (
        roi.RoIAlign(3, (4, 8, 16), ratio, True, engine, 40., 3, aggregate))
    cotangent = np.random.default_rng(3).normal(size=(2, 12, 3, 3, 3)).astype(np.float32)
    out, *gradients = MODES[mode](lambda *maps: with_gradient(
        lambda *m: layer(m, boxes), *maps, cotangent=cotangent))(*pyramid)
    levels, maps = roi.assign_levels(boxes, 3, 40., 3).numpy(), [m.numpy().astype(np.float64) for m in pyramid]
    settings = (levels, boxes.numpy(), quantized, aggregate, 3, ratio)
    expected = naive(maps, *settings)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert np.abs(expected).max() > 1
    direction = [np.random.default_rng(4).choice([-1., 1.], m.shape) for m in maps]
    moved = naive([m + 1e-6 * d for m, d in zip(maps, direction, strict=True)], *settings)
    slope = sum((g.numpy() * d).sum() for g, d in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(((moved - expected) * cotangent).sum() / 1e-6, slope, rtol=1e-3)


@pytest.mark.parametrize(('engine', 'mode'), [('op', 'graph'), ('xla', 'graph'), ('xla', 'jit')])
@pytest.mark.parametrize(('ratio', 'cells'), [
    (0, [23, 20, 50, 33]), (0, [16, 20, 50, 33]), (0, [9, 20, 50, 33]), (0, [2, 20, 50, 33]), (2, [37, 20, 50, 33]),
    (0, [6, 0, 18, 76])])
def test_samples_on_the_border_are_inside(engine, mode, ratio, cells) -> None:
    """RoIWarp of a map of 50 x 76 cells: the last sample lies at 50, or at 76. It counts, and its gradient too."""
    layer, boxes = roi.RoIWarp(7, (16,), ratio, engine), tf.constant([[cells]], tf.float32) * 16
    pooled, gradient = MODES[mode](lambda feature: with_gradient(
        lambda each: layer(each, boxes), feature, cotangent=tf.ones([1, 1, 7, 7, 1])))(tf.ones([1, 50, 76, 1]))
    np.testing.assert_allclose(pooled, np.ones([1, 1, 7, 7, 1]), rtol=1e-6)
    assert np.sum(gradient) == pytest.approx(49)


@pytest.mark.parametrize('engine', ['op', 'xla'])
def test_no_box_at_all(engine) -> None:
    feature = tf.zeros([2, 8, 8, 3], tf.bfloat16)
    layer, boxes = roi.RoIAlign(2, (4,), engine=engine), tf.zeros([2, 0, 4])
    pooled, gradient = with_gradient(lambda each: layer(each, boxes), feature, cotangent=tf.zeros([2, 0, 2, 2, 3]))
    assert pooled.shape == (2, 0, 2, 2, 3) and pooled.dtype == gradient.dtype == tf.bfloat16
    assert not np.any(tf.cast(gradient, tf.float32))


def test_warp_by_hand() -> None:
    """Edges of 2, 2, 9, 9 px at stride 4 are cells 1 to 2: the middle, half-way between the two, is 1.5 on a ramp.
    Aligned, the middle of the box is at 5.5 / 4 - 0.5 = 0.875."""
    ramp = tf.reshape(tf.range(4.), [1, 4, 1, 1]) * tf.ones([1, 4, 4, 1])
    box = tf.constant([[[2., 2., 9., 9.]]])
    for layer, expected in ((roi.RoIWarp(1, (4,), 1), 1.5), (roi.RoIAlign(1, (4,), 1), .875)):
        assert float(layer([ramp], box)[0, 0, 0, 0, 0]) == expected


def naive_roi_pool(maps: list[np.ndarray], levels: np.ndarray, boxes: np.ndarray, strides: tuple[int, ...],
                   size: tuple[int, int]) -> np.ndarray:
    """The definition (Fast 2.1), a bin at a time: [B, N, P, P, C]."""
    out = np.zeros([*boxes.shape[:2], *size, maps[0].shape[-1]])
    for image, number in np.ndindex(*boxes.shape[:2]):
        level = levels[image, number]
        cells = boxes[image, number].astype(np.float64) / strides[level]
        y1, x1, y2, x2 = (int(np.sign(c) * np.floor(abs(c) + .5)) for c in cells)
        rows, columns = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i, j in np.ndindex(*size):
            top, left = y1 + i * rows // size[0], x1 + j * columns // size[1]
            low, right = y1 + -(-(i + 1) * rows // size[0]), x1 + -(-(j + 1) * columns // size[1])
            part = maps[level][image, max(top, 0):max(low, 0), max(left, 0):max(right, 0)]
            if part.size:
                out[image, number, i, j] = part.max((0, 1))
    return out


@pytest.mark.parametrize('size', [4, (2, 5)])
@pytest.mark.parametrize('mode', ['graph', 'jit'])
def test_roi_pool_over_levels(pyramid, random_boxes, mode, size) -> None:
    """The naive rule on every box; a step along the gradient raises what was pooled as it says."""
    layer = roi.RoIPool(size, (4, 8, 16), canonical_size=40., canonical_level=3)
    shape = (size, size) if isinstance(size, int) else size
    cotangent = np.random.default_rng(3).normal(size=(2, 24, *shape, 3)).astype(np.float32)
    out, *gradients = MODES[mode](lambda *maps: with_gradient(
        lambda *m: layer(m, random_boxes), *maps, cotangent=cotangent))(*pyramid)
    levels = roi.assign_levels(random_boxes, 3, 40., 3).numpy()
    maps = [m.numpy() for m in pyramid]
    expected = naive_roi_pool(maps, levels, random_boxes.numpy(), (4, 8, 16), shape)
    np.testing.assert_array_equal(out, expected)
    # Values lie further apart than the step, so that every bin keeps its largest cell: the change is linear.
    direction = [np.random.default_rng(4).choice([-1., 1.], m.shape) for m in maps]
    moved = naive_roi_pool([m + 1e-6 * d for m, d in zip(maps, direction, strict=True)], levels, random_boxes.numpy(),
                           (4, 8, 16), shape)
    slope = sum((g.numpy() * d).sum() for g, d in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(((moved - expected) * cotangent).sum() / 1e-6, slope, rtol=1e-4)


def test_roi_pool_by_hand() -> None:
    """Cells -20 .. -9 in 3 x 4, 4 px each. The first box takes rows -1 .. 2 (1.5 goes to 2) and columns 0 .. 3: row -1
    is outside. Beyond the map a bin is empty: 0. A box of no side still has a cell."""
    cells = tf.reshape(tf.range(12.), [1, 3, 4, 1]) - 20.
    boxes = tf.constant([[[-4., 0., 6., 12.], [400., 400., 500., 500.], [4., 4., 4., 4.]]])
    out = roi.RoIPool(2, (4,))([cells], boxes)[0, :, :, :, 0]
    assert out.numpy().tolist() == [[[-19, -17], [-11, -9]], [[0, 0], [0, 0]], [[-15, -15], [-15, -15]]]


def test_the_first_of_equal_cells_gets_the_gradient() -> None:
    """By rows; bins that share a cell add up in it."""
    maps = tf.ones([1, 2, 3, 1])
    _, gradient = with_gradient(lambda m: roi.RoIPool(1, (4,))([m], tf.constant([[[0., 0., 4., 8.]] * 2])), maps,
                                cotangent=tf.fill([1, 2, 1, 1, 1], 3.))
    assert gradient[0, :, :, 0].numpy().tolist() == [[6, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize('mode', MODES)
def test_a_box_of_whole_bins(mode) -> None:
    """21 cells in 7 bins: 3 samples a bin, so that a map of x^2 has the mean of 3 squares between the cells."""
    columns = tf.range(24, dtype=tf.float32)
    feature = tf.tile((columns ** 2)[None, None, :, None], [1, 24, 1, 1])
    box = tf.constant([[[0., 0., 21., 21.]]])
    found = MODES[mode](lambda feature: roi.RoIAlign(7, (1,), 0, True, 'xla')([feature], box))(feature)
    # Bin 1 spans 3 to 6 with aligned samples at 3.0, 4.0 and 5.0, which are cells: (9 + 16 + 25) / 3.
    np.testing.assert_allclose(found[0, 0, 3, 1, 0], 50 / 3, rtol=1e-6)


def test_boxes_are_pooled_in_buckets_by_their_numbers_of_passes(monkeypatch) -> None:
    """Sides of 1, 3, 1, 2 cells in one bin: 4, 16, 4, 9 cells around 1, 9, 1, 4 samples, four cells in a pass.

    2.7 buckets are asked for; the nearest divisor is 2.
    """
    monkeypatch.setattr(xla_engine, 'LARGE_BUCKET', 12)
    boxes = tf.constant([[[0., 0., s, s] for s in (1., 3., 1., 2.)]])
    plan = roi.sampling_plan(boxes, tf.zeros([1, 4], tf.int32), (1,), (1, 1), 0, True)
    passes = xla_engine.Passes([], 0, AVERAGE).number(plan)
    assert passes.numpy().tolist() == [1, 4, 1, 3]
    assert xla_engine.Passes([], 0, MAX).number(plan).numpy().tolist() == [1, 9, 1, 4]
    for row, expected in ((8, [[0, 2], [3, 1]]), (100, [[0], [2], [3], [1]]), (1, [[0, 2, 3, 1]])):
        assert xla_engine.buckets(passes, row).numpy().tolist() == expected


@pytest.mark.parametrize(('number', 'row', 'count'), [
    (1024, 7 * 7 * 256, 4),         # 12.8 million values: at least 3.1 in a bucket
    (6144, 7 * 7 * 256, 8),         # 77 million
    (1024, 14 * 14 * 1024, 32),     # 206 million: about 8.4 in a bucket
    (997, 14 * 14 * 1024, 1),       # a prime number
    (0, 9, 1)])
def test_the_number_of_buckets(number: int, row: int, count: int) -> None:
    assert xla_engine.buckets(tf.ones([number], tf.int32), row).shape == (count, number // count)
