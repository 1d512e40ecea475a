"""Winograd's convolutions; the references are TensorFlow's convolution and its gradients in float64."""
from __future__ import annotations

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.files import cores
from mrcnn_tf.layers import winograd as under_test
from mrcnn_tf.layers.heads import RPNHead
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm, Norm, folded_normalization, folded_weights
from mrcnn_tf.layers.precision import precision_policy
from mrcnn_tf.layers.recomputation import SEGMENT, recomputation, run_stage
from mrcnn_tf.layers.roi import RoIAlign
from tests.modes import MODES, recorded, with_gradient

C, D = 3, 4
# Values of a piece: all tiles together; two sizes that cut C and D channels differently; one row of tiles in each.
PIECES = [2 ** 18, 40, 30, 1]


def plain(x: tf.Tensor, kernel: tf.Tensor, *bias: tf.Tensor) -> tf.Tensor:
    y = tf.nn.conv2d(x, kernel, 1, 'SAME')
    return y + bias[0] if bias else y


def unknown(function):
    """In a graph that does not know how many images there are, nor their size."""
    signature = [tf.TensorSpec([None, None, None, C]), tf.TensorSpec([3, 3, C, D]), tf.TensorSpec([D])]
    return lambda *values: tf.function(function, signature[:len(values)], autograph=False)(*values)


WAYS = {'eager': MODES['eager'], 'graph': MODES['graph'], 'unknown': unknown}


@pytest.fixture
def small(monkeypatch):
    """Winograd's convolutions of few cells and channels too."""
    monkeypatch.setattr(under_test, 'CELLS', 1)
    monkeypatch.setattr(under_test, 'CHANNELS', 1)
    change(monkeypatch, inside=.1)


def change(monkeypatch, **fields) -> None:
    """Change fields of all algorithms."""
    for name in ('RESULTS', 'KERNELS'):
        monkeypatch.setattr(under_test, name, {
            dtype: each._replace(**fields) for dtype, each in getattr(under_test, name).items()})


def test_the_matrices_of_2_x_2_tiles_are_the_published_ones() -> None:
    """1509.09308, section 4.1, where the sign and the scale of a point may change places."""
    algorithm = under_test.KERNELS[tf.bfloat16]
    window = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    kernel = np.array([[1, 0, 0], [.5, .5, .5], [.5, -.5, .5], [0, 0, 1]])
    output = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

    def products(window, kernel, output):    # of a cell of the window and one of the kernel, in each output
        return np.einsum('op,pk,pw->okw', output, kernel, window)

    found = products(algorithm.window, algorithm.kernel, algorithm.output)
    np.testing.assert_allclose(found, products(*(np.kron(each, each) for each in (window, kernel, output))), atol=1e-15)
    for each in (algorithm.window, algorithm.kernel, algorithm.output):    # exact in bfloat16
        np.testing.assert_array_equal(np.asarray(tf.cast(each, tf.bfloat16), np.float64), each)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('piece', PIECES)
@pytest.mark.parametrize('size', [(1, 9, 6), (3, 8, 4), (5, 2, 3), (1, 1, 1), (2, 13, 17)], ids=str)
def test_result_and_gradients_in_float32(monkeypatch, way, piece, size) -> None:
    change(monkeypatch, piece=piece)
    rng = np.random.default_rng(0)
    values = [rng.normal(size=each) for each in ([*size, C], [3, 3, C, D], [D])]
    cotangent = rng.normal(size=[*size, D])
    found = WAYS[way](lambda *inputs: with_gradient(under_test.convolution, *inputs, cotangent=cotangent))(
        *(tf.constant(each, tf.float32) for each in values))
    expected = with_gradient(plain, *map(tf.constant, values), cotangent=cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize('way', WAYS)
def test_no_images(way) -> None:
    values = [tf.zeros([0, 14, 14, C]), tf.ones([3, 3, C, D])]
    y, of_x, of_kernel = WAYS[way](
        lambda *inputs: with_gradient(under_test.convolution, *inputs, cotangent=np.zeros([0, 14, 14, D])))(*values)
    assert (y.shape, of_x.shape) == ((0, 14, 14, D), (0, 14, 14, C))
    np.testing.assert_array_equal(of_kernel, np.zeros([3, 3, C, D]))


@pytest.mark.parametrize('piece', PIECES)
@pytest.mark.parametrize('way', ['eager', 'graph'])
def test_in_training_in_bfloat16_the_gradient_of_the_kernel_alone_is_another(monkeypatch, piece, way) -> None:
    change(monkeypatch, piece=piece)
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.normal(size=each), tf.bfloat16) for each in ([2, 7, 9, C], [3, 3, C, D], [D])]
    cotangent = tf.constant(rng.normal(size=[2, 7, 9, D]), tf.bfloat16)

    def convolution(*inputs: tf.Tensor) -> tf.Tensor:    # its gradient is taken outside of the context
        with under_test.winograd_convolutions('op', training=True):
            return under_test.convolution(*inputs)

    found = WAYS[way](lambda *inputs: with_gradient(convolution, *inputs, cotangent=cotangent))(*values)
    expected = with_gradient(plain, *values, cotangent=cotangent)
    exact = with_gradient(plain, *(tf.cast(each, tf.float64) for each in values), cotangent=cotangent)
    for name, one, other in zip(['y', 'x', 'bias'], (*found[:2], found[3]), (*expected[:2], expected[3]), strict=True):
        np.testing.assert_allclose(tf.cast(one, tf.float32), tf.cast(other, tf.float32), rtol=0,
                                   atol=2 ** -7 * np.abs(np.asarray(other, np.float32)).max(), err_msg=name)
    assert found[2].dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(found[2], tf.float64), exact[2], rtol=0, atol=.02 * np.abs(exact[2]).max())


def test_the_error_of_float32_stays_near_that_of_a_sum_in_order() -> None:
    """256 channels after a ReLU: oneDNN's convolution is off by 2e-7 of the standard deviation, this one by 1.2e-6."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=[1, 32, 32, 256]), 0).astype(np.float32)
    kernel = (rng.normal(size=[3, 3, 256, 8]) / 48).astype(np.float32)
    exact = plain(tf.constant(x, tf.float64), tf.constant(kernel, tf.float64)).numpy()
    error = under_test.convolution(tf.constant(x), tf.constant(kernel)).numpy() - exact
    assert error.std() < 2e-6 * exact.std() and np.abs(error).max() < 5e-6 * np.abs(exact).max()


@pytest.mark.parametrize('piece', PIECES)
@pytest.mark.parametrize('way', WAYS)
def test_in_inference_in_bfloat16(monkeypatch, piece, way) -> None:
    """64 channels after a ReLU: off by 1.3e-2 of the standard deviation; TensorFlow's convolution, by 1.7e-3."""
    change(monkeypatch, piece=16 * piece)
    rng = np.random.default_rng(0)
    x = tf.constant(np.maximum(rng.normal(size=[2, 13, 10, 64]), 0), tf.bfloat16)
    kernel = tf.constant(rng.normal(size=[3, 3, 64, 32]) / 24, tf.bfloat16)
    exact = plain(tf.cast(x, tf.float64), tf.cast(kernel, tf.float64)).numpy()
    with under_test.winograd_convolutions('op', training=False):
        signature = [tf.TensorSpec([None, None, None, 64] if way == 'unknown' else x.shape, tf.bfloat16),
                     tf.TensorSpec(kernel.shape, tf.bfloat16)]
        found = (under_test.convolution if way == 'eager' else
                 tf.function(under_test.convolution, signature, autograph=False))(x, kernel)
    assert found.dtype == tf.bfloat16
    error = tf.cast(found, tf.float64).numpy() - exact
    assert .005 * exact.std() < error.std() < .02 * exact.std() and np.abs(error).max() < .1 * exact.std()


def before(tensor: tf.Tensor) -> set[str]:
    """The names of the operations that run before a tensor is there."""
    names, more = set(), [tensor.op]
    while more:
        op = more.pop()
        if op.name not in names:
            names.add(op.name)
            more += [*op.control_inputs, *(each.op for each in op.inputs)]
    return names


@pytest.mark.parametrize('few', [True, False])
def test_convolutions_and_gradients_take_turns_on_few_cores(monkeypatch, few) -> None:
    """Results wait for results and gradients for gradients, those of RoIAlign too; no gradient waits for results."""
    monkeypatch.setattr(cores, 'few', lambda: few)
    maps = [tf.TensorSpec([1, 8, 8, C])] * 2

    def check(a: tf.Tensor, b: tf.Tensor, kernel: tf.Tensor) -> None:
        with under_test.winograd_convolutions('op', training=True):
            pooled = RoIAlign(2, [4])([a], tf.constant([[[0., 0., 16., 16.]]]))
            of_a, of_b = under_test.convolution(a, kernel), under_test.convolution(b, kernel)
        made_a, made_b = (each.op.inputs[0].op.name for each in (of_a, of_b))    # a custom gradient adds an identity
        (last,), (first,), (of_pooled,) = tf.gradients(of_b, b), tf.gradients(of_a, a), tf.gradients(pooled, a)
        assert (made_a in before(of_b)) == few and made_b not in before(of_a)
        assert (last.op.name in before(first)) == few and (first.op.name in before(of_pooled)) == few
        assert not {made_a, made_b} & before(of_pooled)

    tf.function(check, autograph=False).get_concrete_function(*maps, tf.TensorSpec([3, 3, C, D]))


def test_a_sum_of_many_pieces_in_bfloat16(monkeypatch) -> None:
    """500 pieces of equal products: a sum in bfloat16 would stand still at 256 of them."""
    change(monkeypatch, piece=1)
    x, kernel = tf.ones([1, 1000, 2, 1], tf.bfloat16), tf.zeros([3, 3, 1, 1], tf.bfloat16)
    gradient = with_gradient(under_test.convolution, x, kernel, cotangent=np.ones([1, 1000, 2, 1]))[2]
    assert float(gradient[1, 1, 0, 0]) == pytest.approx(2000, rel=.01)


def test_a_gradient_of_some_images() -> None:
    """The gradient of a gather names the images."""
    values = [tf.random.stateless_normal(size, [1, 2]) for size in ([3, 5, 6, C], [3, 3, C, D])]

    def of(convolution):
        return with_gradient(lambda *inputs: tf.gather(convolution(*inputs), [2, 0]), *values,
                             cotangent=np.ones([2, 5, 6, D]))

    for one, other in zip(of(under_test.convolution), of(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_the_static_shape_is_kept() -> None:
    kernel = tf.ones([3, 3, C, D])

    def result_and_gradient(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = under_test.convolution(x, kernel)
        return y, tape.gradient(y, x)

    for size in ([None, 5, None], [5, None, 3], [None, 9, 9]):
        function = tf.function(result_and_gradient, autograph=False)
        shapes = function.get_concrete_function(tf.TensorSpec([*size, C])).output_shapes
        assert [each.as_list() for each in shapes] == [[*size, D], [*size, C]]


def test_where_it_pays() -> None:
    channels = under_test.CHANNELS

    def pays(*size: int | None, dtype: str = 'float32', depth: int = channels, **given) -> bool:
        layer = keras.layers.Conv2D(depth, **{'kernel_size': 3, 'padding': 'same', **given})
        layer.build([None, None, None, size[-1]])
        with tf.Graph().as_default():
            return under_test.pays(layer, tf.compat.v1.placeholder(dtype, size))

    assert not pays(1, 32, 32, channels)
    with under_test.winograd_convolutions('op', training=True):
        assert pays(1, 32, 32, channels) and pays(2, 16, 16, channels) and pays(None, 14, 14, channels)
        assert pays(None, None, None, channels) and pays(64, 7, 7, channels) and not pays(64, 5, 5, channels)
        assert not pays(1, 1, 600, channels) and not pays(1, 16, 31, channels)
        assert not pays(1, 32, 32, channels - 1) and not pays(1, 32, 32, channels, depth=channels - 1)
        assert pays(1, 32, 32, channels, dtype='bfloat16') and not pays(1, 32, 32, channels, dtype='float16')
        for given in ({'strides': 2}, {'dilation_rate': 2}, {'groups': 2}, {'kernel_size': 1}, {'padding': 'valid'}):
            assert not pays(1, 32, 32, channels, **given)
        with under_test.winograd_convolutions('xla', training=True):
            assert not pays(1, 32, 32, channels)
        assert under_test.used()
    assert not under_test.used()
    with under_test.winograd_convolutions('op', training=False):
        assert pays(1, 32, 32, channels) and pays(1, 32, 32, channels, dtype='bfloat16')
        assert pays(9, 14, 14, channels) and not pays(9, 14, 14, channels, dtype='bfloat16')


@pytest.mark.parametrize('piece', [2 ** 18, 40])
def test_convolutions_of_equal_shapes_are_calls_of_one_function(monkeypatch, piece) -> None:
    """Three functions for all three of them: the result and two gradients, each with one output and no gradient."""
    change(monkeypatch, piece=piece)
    rng = np.random.default_rng(0)
    x, *kernels = (tf.constant(rng.normal(size=each), tf.float32) for each in ([2, 9, 6, C], *[[3, 3, C, C]] * 3))

    def three(convolution, x: tf.Tensor, *kernels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape, under_test.winograd_convolutions('op', training=True):
            tape.watch([x, *kernels])
            y = x
            for kernel in kernels:
                y = convolution(y, kernel)
        return [y, *tape.gradient(y, [x, *kernels])]

    function = tf.function(functools.partial(three, under_test.convolution), autograph=False)
    graph = function.get_concrete_function(x, *kernels).graph
    calls = [each for each in graph.get_operations() if 'PartitionedCall' in each.type]
    names = {each.get_attr('f').name for each in calls}
    assert len(calls) == 9 and len(names) == 3
    assert all(each.type == 'PartitionedCall' and len(each.outputs) == 1 for each in calls)
    library = {each.signature.name: each for each in graph.as_graph_def().library.function}
    assert all(library[name].attr['_noinline'].b for name in names)
    for one, other in zip(function(x, *kernels), three(plain, x, *kernels), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize('training', [True, None])
def test_two_convolutions_of_one_map(monkeypatch, training) -> None:
    """In one graph, where both write in place, within a context and outside of one."""
    change(monkeypatch, piece=40)
    rng = np.random.default_rng(0)
    x, *kernels = (tf.constant(rng.normal(size=each), tf.float32) for each in ([2, 9, 6, C], *[[3, 3, C, D]] * 2))

    @tf.function(autograph=False)
    def two(x: tf.Tensor, *kernels: tf.Tensor) -> list[tf.Tensor]:
        with contextlib.nullcontext() if training is None else under_test.winograd_convolutions('op', training):
            return [under_test.convolution(x, kernel) for kernel in kernels]

    for one, kernel in zip(two(x, *kernels), kernels, strict=True):
        np.testing.assert_allclose(one, plain(x, kernel), rtol=0, atol=1e-5 * np.abs(one).max())


def test_not_with_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [kind])
    layer = keras.layers.Conv2D(256, 3, padding='same')
    layer.build([None, None, None, 256])
    with under_test.winograd_convolutions('op', training=True):
        assert not under_test.pays(layer, tf.zeros([1, 32, 32, 256]))


@pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16'])
@pytest.mark.parametrize('kind', ['none', 'frozen', 'batch', 'group'])
@pytest.mark.parametrize('given, used', [({}, True), ({'padding': 'same'}, True), ({'stride': 2}, False),
                                         ({'stride': 2, 'kernel': 7}, False), ({'stride': 2, 'groups': 2}, False),
                                         ({'dilation': 2}, False), ({'groups': 2}, False), ({'kernel': 1}, False),
                                         ({'padding': 'valid'}, False)], ids=str)
def test_a_layer_in_training(small, policy, kind, given, used) -> None:
    """It is for 3x3 convolutions of stride 1; what the layer returns does not depend on it."""
    keras.utils.set_random_seed(1)
    with precision_policy(policy):
        layer = ConvNorm(NO_NORM if kind == 'none' else Norm(kind), 32, **{'kernel': 3, **given})
        x = tf.cast(tf.random.stateless_normal([2, 9, 6, 32], [1, 2]), layer.compute_dtype)
        layer(x)

        def run(active: bool) -> list[tf.Tensor]:
            with tf.GradientTape() as tape, under_test.winograd_convolutions('op' if active else 'xla', training=True):
                tape.watch(x)
                y = layer(x, training=True)
                loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
            return [y, *tape.gradient(loss, [x, *layer.trainable_variables])]

        expected = run(False)
        with recorded(under_test, 'convolution') as calls:
            found = run(True)
    assert bool(calls) == used and len(found) == {'none': 4, 'frozen': 3}.get(kind, 5)
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        assert np.abs(other).max() > 0
        relative = 1e-5 if policy == 'float32' else 2 ** -5
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * np.abs(other).max())


@pytest.mark.parametrize('few', [True, False])
def test_layers_that_are_recomputed(small, monkeypatch, few) -> None:
    """The gradients are the same, whether or not convolutions run one after the other."""
    monkeypatch.setattr(cores, 'few', lambda: few)
    change(monkeypatch, piece=40)
    keras.utils.set_random_seed(1)
    layers = [ConvNorm(Norm('frozen'), 8, 3) for _ in range(SEGMENT + 1)]
    x, upstream = (tf.random.stateless_normal([2, 9, 6, 8], [seed, 2]) for seed in range(2))
    for layer in layers:
        layer(x)

    def run(engine: str, recomputed: bool) -> tuple[list[tf.Tensor], int]:
        @tf.function(autograph=False)
        def function(x: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape, under_test.winograd_convolutions(engine, training=True):
                tape.watch(x)
                with recomputation(recomputed):
                    y = run_stage(layers, x, training=True)
            return [y, *tape.gradient(y, [x, *(layer.conv.kernel for layer in layers)], upstream)]

        with recorded(under_test, 'convolution') as calls:
            return function(x, upstream), len(calls)

    (once, first), (twice, second) = (run('op', recomputed) for recomputed in (False, True))
    assert (first, second) == (len(layers), 2 * len(layers))
    expected, _ = run('xla', False)
    for one, other, reference in zip(twice, once, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(other, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize('policy, engine, copies', [('float32', 'op', 0), ('float32', 'xla', 1),
                                                    ('mixed_bfloat16', 'op', 1)])
def test_a_convolution_of_stride_2_copies_its_input_where_that_is_faster(policy, engine, copies) -> None:
    with precision_policy(policy):
        layer = ConvNorm(Norm('frozen'), 4, 3, 2)
        x = tf.zeros([1, 9, 6, 3], layer.compute_dtype)
        layer(x)
        with recorded(tf, 'pad') as calls, under_test.winograd_convolutions(engine, training=True):
            layer(x, training=True)
    assert len(calls) == copies


@pytest.mark.parametrize('kind', ['none', 'frozen', 'batch'])
def test_a_layer_in_inference(small, kind) -> None:
    layer = ConvNorm(NO_NORM if kind == 'none' else Norm(kind), 8, 3)
    x = tf.random.stateless_normal([2, 9, 6, 5], [1, 2])
    expected = layer(x)
    with (recorded(under_test, 'convolution') as calls, folded_normalization(folded_weights(layer)),
          under_test.winograd_convolutions('op', training=False)):
        found = layer(x)
    assert len(calls) == 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_rpn_head(small) -> None:
    head, x = RPNHead(8, 3, convolutions=2), tf.random.stateless_normal([2, 9, 6, 5], [1, 2])
    expected = head(x)
    with recorded(under_test, 'convolution') as calls, under_test.winograd_convolutions('op', training=False):
        found = head(x)
    assert len(calls) == 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-5 * np.abs(other[0]).max())
