"""3x3 convolutions by Winograd's algorithm, for a CPU (Lavin and Gray, 1509.09308).

A tile of m x m outputs takes (m + 2)^2 products for each pair of an input and an output channel, not 9 m^2: of 4 x 4
outputs 36, not 144. The tile's window d of (m + 2)^2 inputs and the kernel g are transformed, multiplied and
transformed back: A^T [(G g G^T) * (B^T d B)] A. oneDNN has no such convolution for x86. docs/performance.md has times
and errors.

B images, C input channels, D output channels; t tiles; m the side of a tile, n = m + 2 that of its window.
"""
from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.files import cores
from mrcnn_tf.layers import tracing
from mrcnn_tf.layers.recomputation import zero_after
from mrcnn_tf.ops.tensor_shapes import dimensions

CHANNELS, CELLS = 128, 512    # of input and output, and of all images: from here on a convolution is faster


class Algorithm(NamedTuple):
    """F(m x m, 3 x 3), whose matrices transform both axes at once.

    Attributes:
        tile: m.
        output: A^T (x) A^T [m^2, n^2].
        kernel: G (x) G [n^2, 9].
        window: B^T (x) B^T [n^2, n^2].
        piece: so many windows are transformed together that they have this number of values in each of their n^2 cells.
            They fit into a cache.
        inside: the part of its tiles that must be inside of the map, or it is not faster.
    """
    tile: int
    output: np.ndarray
    kernel: np.ndarray
    window: np.ndarray
    piece: int
    inside: float

    @property
    def side(self) -> int:
        """The side of a window, n."""
        return self.tile + 2

    @classmethod
    def of(cls, points: tuple[float, ...], piece: int, inside: float) -> Algorithm:
        """Return the algorithm that multiplies polynomials by their values at n - 1 points and infinity."""
        tile = len(points) - 1

        def powers(degree: int) -> np.ndarray:
            """Return each power up to `degree` of the points; at infinity, the coefficient of the highest."""
            return np.array([*([point ** power for power in range(degree + 1)] for point in points),
                             [0.] * degree + [1.]])

        output, kernel, window = powers(tile - 1), powers(2), np.linalg.inv(powers(tile + 1)).T
        # All cells of a window and of a kernel get values of one size. A power of two is exact.
        scales = [2. ** np.round(np.log2(np.linalg.norm(each, axis=1, keepdims=True))) for each in (kernel, window)]
        output, kernel, window = output * scales[0] * scales[1], kernel / scales[0], window / scales[1]
        return cls(tile, np.kron(output.T, output.T), np.kron(kernel, kernel), np.kron(window, window), piece, inside)


# With 0, 1, -1, 2 and -2, the usual points, the errors are two to three times as large.
_POINTS = (0., .5 ** .5, -.5 ** .5, 2 ** .5, -2 ** .5)
RESULTS = {tf.float32: Algorithm.of(_POINTS, 2 ** 16, .6), tf.bfloat16: Algorithm.of(_POINTS, 2 ** 17, .8)}
# Of gradients of kernels; in bfloat16, tiles of 4 x 4 have three times the error of 2 x 2.
KERNELS = {tf.float32: RESULTS[tf.float32], tf.bfloat16: Algorithm.of((0., 1., -1.), 2 ** 18, .6)}


class _Use(NamedTuple):
    """How convolutions are computed within a context.

    Attributes:
        results: the types whose results are computed so too, not gradients of kernels alone.
        convolution, kernel_gradient: `_convolution` and `_kernel_gradient`, or functions of a graph.
    """
    results: tuple[tf.DType, ...]
    convolution: Callable[..., tf.Tensor]
    kernel_gradient: Callable[..., tf.Tensor]

    @classmethod
    def of(cls, results: tuple[tf.DType, ...]) -> _Use:
        """Return functions that are traced once for all calls with equal shapes; each further call saves 3 MB.

        TensorFlow must not copy them into the graph that calls them. There it could merge the zeros in which two
        convolutions of one map write their results in place.
        """
        shared = functools.partial(tf.function, autograph=False, experimental_attributes={'_noinline': True})
        return cls(results, shared(_convolution), shared(_kernel_gradient))


_use: ContextVar[_Use | None] = ContextVar('winograd', default=None)    # None: no convolution is computed so


@contextlib.contextmanager
def winograd_convolutions(engine: str, training: bool) -> Iterator[None]:
    """Return a context of convolutions for a CPU without XLA; with a GPU or XLA, which have their own, it does nothing.

    `used` is True in it, and `pays` may be. On few cores large convolutions take turns.

    Exports are traced outside of it, because their servers may have a GPU.

    Args:
        engine: 'op' or 'xla'.
        training: whether results in bfloat16 are TensorFlow's, which are more exact.
    """
    active = engine == 'op' and not tf.config.list_physical_devices('GPU')
    with (tracing.within(_use, _Use.of((tf.float32,) if training else tuple(RESULTS)) if active else None),
          tracing.in_order(active and cores.few())):
        yield


def as_in_inference() -> AbstractContextManager[None]:
    """Return a context whose convolutions are those of inference, in training: for results that pass no gradient."""
    use = _use.get()
    return tracing.within(_use, use and use._replace(results=tuple(RESULTS)))


def used() -> bool:
    """Return whether this is in a context of `winograd_convolutions`, without XLA and GPUs."""
    return _use.get() is not None


def pays(layer: keras.layers.Conv2D, x: tf.Tensor) -> bool:
    """Return whether `convolution` can compute a layer, which has its weights, and is faster than TensorFlow's.

    Where B, h or w of the feature map [B, h, w, C] is unknown, it is assumed to be large.
    """
    use = _use.get()
    form = (layer.kernel_size, layer.strides, layer.dilation_rate, layer.groups, layer.padding)
    if use is None or x.dtype not in RESULTS or form != ((3, 3), (1, 1), (1, 1), 1, 'same'):
        return False
    algorithm = (RESULTS if x.dtype in use.results else KERNELS)[x.dtype]
    inside = math.prod(side / (-(-side // algorithm.tile) * algorithm.tile) for side in x.shape[1:3] if side)
    cells = x.shape[:3].num_elements()
    return min(layer.kernel.shape[2:]) >= CHANNELS and (cells is None or cells >= CELLS) and inside >= algorithm.inside


def convolved(layer: keras.layers.Conv2D, x: tf.Tensor) -> tf.Tensor:
    """Return what a layer returns, by `convolution` where it pays."""
    if not layer.built or not pays(layer, x):
        return layer(x)
    weights = [layer.kernel, layer.bias] if layer.use_bias else [layer.kernel]
    return layer.activation(convolution(x, *(tf.cast(weight, x.dtype) for weight in weights)))


def convolution(x: tf.Tensor, kernel: tf.Tensor, *bias: tf.Tensor) -> tf.Tensor:
    """Return a 3x3 convolution of stride 1 with zeros around the map: [B, h, w, C] -> [B, h, w, D].

    The algorithm computes it and its gradients; within `winograd_convolutions(engine, training=True)`, in bfloat16 the
    gradient of the kernel alone, outside of `as_in_inference`. There are no gradients of gradients.

    Args:
        x: the feature map, float32 or bfloat16.
        kernel: [3, 3, C, D], of the same type.
        bias: [D], if there is one.
    """
    order = tracing.order()
    use = _use.get() or _Use.of(tuple(RESULTS))
    if tf.executing_eagerly():    # functions would be traced again in each context
        use = _Use(use.results, _convolution, _kernel_gradient)
    direct = x.dtype not in use.results

    @tf.custom_gradient
    def function(x: tf.Tensor, kernel: tf.Tensor, *bias: tf.Tensor
                 ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            upstream = tf.convert_to_tensor(upstream)    # the gradient of a gather has another form
            with order.gradients.wait(upstream):
                of_kernel = order.gradients.done(use.kernel_gradient(x, upstream))
            with order.gradients.wait(upstream):
                of_x = order.gradients.done(tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, strides=[1] * 4, padding='SAME',
                ) if direct else use.convolution(upstream, kernel, backwards=True))
            of_x.set_shape(x.shape)
            return of_x, of_kernel, *(tf.raw_ops.BiasAddGrad(out_backprop=upstream) for _ in bias)

        if direct:
            result = tf.nn.conv2d(x, kernel, 1, 'SAME')
            return tf.nn.bias_add(result, *bias) if bias else result, gradients
        with order.results.wait(x):
            # The function's own gradient, which nothing reads, would keep what it computes.
            inputs = [tf.stop_gradient(each) for each in (x, kernel, *bias)]
            result = order.results.done(use.convolution(*inputs))
        result.set_shape([*x.shape[:3], kernel.shape[3]])
        return result, gradients

    return function(x, kernel, *bias)


def _convolution(x: tf.Tensor, kernel: tf.Tensor, *bias: tf.Tensor, backwards: bool = False) -> tf.Tensor:
    """Return the convolution, or backwards, from D to C channels, the gradient of its input."""
    algorithm = RESULTS[x.dtype]
    batch, height, width, _ = dimensions(x)
    channels, depth = kernel.shape[2:]
    # Backwards, a kernel is turned by 180 degrees, and its channels change places.
    transformed = _transformed(algorithm.kernel[:, ::-1] if backwards else algorithm.kernel,
                               tf.reshape(kernel, [9, channels, depth]))
    tiles = _Tiles(x, algorithm, algorithm.side, max(channels, depth))
    depth, tile = channels if backwards else depth, algorithm.tile

    def of_piece(piece: int | tf.Tensor) -> tf.Tensor:
        products = tf.matmul(_transformed(algorithm.window, tiles.windows(piece)), transformed, transpose_b=backwards)
        outputs = _transformed(algorithm.output, products)
        outputs = tf.nn.bias_add(outputs, *bias) if bias else outputs
        outputs = tf.reshape(outputs, [tile, tile, -1, tiles.across, depth])
        return tf.transpose(outputs, [2, 0, 3, 1, 4])                                    # [rows, m, across, m, D]

    if tiles.whole:
        outputs = of_piece(0)
    else:
        # In words of 8 bytes, because TensorFlow writes bfloat16 slowly.
        parts = 8 // x.dtype.size
        words = tile * tiles.across * tile * depth // parts    # of a row of tiles

        def write(piece: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.bitcast(tf.reshape(of_piece(piece), [-1, words, parts]), total.dtype)
            number = tiles.first_row(piece) + tf.range(tf.shape(rows)[0])
            return piece + 1, tf.raw_ops.InplaceUpdate(x=total, i=number, v=rows)

        # In place: the pieces of a list would be there together with what they are joined to.
        total = tf.fill([batch * tiles.down, words], tf.cast(zero_after(x), tf.int64))
        _, total = tf.while_loop(lambda piece, _: piece < tiles.pieces, write, (0, total), parallel_iterations=1)
        outputs = tf.bitcast(total, x.dtype)
    outputs = tf.reshape(outputs, [batch, tiles.down * tile, tiles.across * tile, depth])
    return outputs[:, :height, :width]


def _kernel_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """Return the gradient of the kernel [3, 3, C, D]: each step of `_convolution` is linear in the kernel."""
    algorithm = KERNELS[x.dtype]
    channels, depth = x.shape[3], upstream.shape[3]
    tiles, outputs = (_Tiles(each, algorithm, side, max(channels, depth)) for each, side in (
        (x, algorithm.side), (upstream, algorithm.tile)))

    def of_piece(piece: int | tf.Tensor) -> tf.Tensor:
        products = tf.matmul(_transformed(algorithm.window, tiles.windows(piece)),
                             _transformed(algorithm.output.T, outputs.windows(piece)), transpose_a=True)
        return tf.cast(products, tf.float32)                                                     # [n^2, C, D]

    total = of_piece(0)
    if not tiles.whole:
        _, total = tf.while_loop(lambda piece, _: piece < tiles.pieces,
                                 lambda piece, total: (piece + 1, total + of_piece(piece)), (1, total),
                                 parallel_iterations=1)
    return tf.cast(tf.reshape(_transformed(algorithm.kernel.T, total), [3, 3, channels, depth]), x.dtype)


def _transformed(matrix: np.ndarray, cells: tf.Tensor) -> tf.Tensor:
    """Return the product of a matrix [a, b] and [b, t, C], of its type: [a, t, C]."""
    count, _, channels = cells.shape
    product = tf.matmul(tf.constant(matrix, cells.dtype), tf.reshape(cells, [count, -1]))
    return tf.reshape(product, [len(matrix), -1, channels])


class _Tiles:
    """The tiles of feature maps, in pieces: rows of tiles of an image, or of small maps several images.

    Args:
        x: [B, h, w, C].
        algorithm: which says how large tiles and pieces are.
        side: of a tile's window of `x`: n with a border of one cell, m without.
        channels: the larger of C and D, which decides the size of pieces.

    Attributes:
        down, across: tiles of an image.
        pieces: how many there are.
        whole: whether it is one, of tiles whose number is known.
    """

    def __init__(self, x: tf.Tensor, algorithm: Algorithm, side: int, channels: int) -> None:
        self._x, self._tile, self._border = x, algorithm.tile, (side - algorithm.tile) // 2
        batch, self._height, self._width, _ = dimensions(x)
        self.down, self.across = -(-self._height // self._tile), -(-self._width // self._tile)
        values = self.down * self.across * channels
        images = _at_least(1, algorithm.piece // values)
        # All images are one piece.
        self._together = isinstance(batch, int) and isinstance(images, int) and batch <= images
        self._images = batch if self._together else images
        self._strips = -_at_least(-self.down, -values // algorithm.piece)    # rounded up, `down` at most
        self.pieces = _at_least(1, -(-batch // _at_least(1, self._images))) * self._strips    # one even of no images
        self.whole = isinstance(self.pieces, int) and self.pieces == 1
        self._cells = self._numbers(side, -(-self.down // self._strips))

    def _numbers(self, side: int, rows: int | tf.Tensor) -> tf.Tensor:
        """Return the cells of the windows in `rows` of a padded piece, int32 [side, side, images, rows, across]."""
        known = all(isinstance(each, int) for each in (self._images, rows, self.across))
        arange: Callable[..., Any] = np.arange if known else tf.range    # an array is one node of the graph
        images, down, across, cell = (arange(count, dtype=np.int32) for count in (
            self._images, rows, self.across, side))
        high, wide = (count * self._tile + 2 * self._border for count in (rows, self.across))
        corner = (images[:, None, None] * high + down[:, None] * self._tile) * wide + across * self._tile
        return tf.convert_to_tensor((cell[:, None] * wide + cell)[..., None, None, None] + corner)

    def windows(self, piece: int | tf.Tensor) -> tf.Tensor:
        """Return the windows of a piece's tiles: [side^2, t, C], zeros outside of the map."""
        x, rows = self._padded(piece)
        cells = self._cells if self.whole else self._cells[:, :, :dimensions(x)[0], :rows]
        return tf.gather(tf.reshape(x, [-1, x.shape[3]]), tf.reshape(cells, [cells.shape[0] ** 2, -1]))

    def first_row(self, piece: int | tf.Tensor) -> int | tf.Tensor:
        """Return the number of a piece's first row of tiles, among those of all images."""
        image, first, _ = self._place(piece)
        return image * self.down + first

    def _place(self, piece: int | tf.Tensor) -> tuple[int | tf.Tensor, int | tf.Tensor, int | tf.Tensor]:
        """Return a piece's first image, its first row of tiles in each image, and the row after its last."""
        strip = piece % self._strips
        return (piece // self._strips * self._images,
                *(self.down * each // self._strips for each in (strip, strip + 1)))

    def _padded(self, piece: int | tf.Tensor) -> tuple[tf.Tensor, int | tf.Tensor]:
        """Return the cells of a piece with zeros outside of the map, and its rows of tiles in an image."""
        image, first, end = self._place(piece)
        top, bottom = first * self._tile - self._border, end * self._tile + self._border
        inside = _at_least(0, top)
        x = self._x if self._together else self._x[image:image + self._images]
        x = x[:, inside:bottom]
        right = self.across * self._tile + self._border - self._width
        padding = [[0, 0], [inside - top, _at_least(0, bottom - self._height)], [self._border, right], [0, 0]]
        return tf.pad(x, padding), end - first


def _at_least(least: int, number: int | tf.Tensor) -> int | tf.Tensor:
    return max(least, number) if isinstance(least, int) and isinstance(number, int) else tf.maximum(least, number)
