"""Anchors of each level: cases worked by hand (tables of the reference implementation: tests/parity)."""
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import AnchorConfig
from mrcnn_tf.layers.anchors import AnchorGenerator, base_anchors, cells_of_images
from tests.modes import tolerance


def maps(*grids: tuple[int, int]) -> list[tf.Tensor]:
    return [tf.zeros([2, *grid, 1]) for grid in grids]


def test_unrounded_anchors_by_hand() -> None:
    """Side 32: 32 x 32, and twice as high as wide sqrt(2) * 32 x 32 / sqrt(2), both of 1024 px^2."""
    base = base_anchors([32.], [1., 2.], rounded=False)
    np.testing.assert_allclose(base, [[-16, -16, 16, 16], [-22.627417, -11.313708, 22.627417, 11.313708]], rtol=1e-6)
    assert base.dtype == np.float32


def test_positions_by_hand() -> None:
    """One anchor of side 2 in each of 2 x 3 cells of 4 px, row by row; the offset is in strides."""
    layer = AnchorGenerator([[2.]], [1.], strides=None)
    anchors = layer(maps((2, 3)), canvas=(8, 12))
    centers = [[0, 0], [0, 4], [0, 8], [4, 0], [4, 4], [4, 8]]
    np.testing.assert_array_equal(anchors, [[y - 1, x - 1, y + 1, x + 1] for y, x in centers])
    shifted = AnchorGenerator([[2.]], [1.], None, offset=.5)(maps((2, 3)), canvas=(8, 12))
    np.testing.assert_array_equal(shifted, anchors + 2.)


def test_a_larger_canvas_keeps_the_anchors_of_the_smaller() -> None:
    layer = AnchorGenerator([[8.]], [1., 2.], strides=None)
    small = tf.reshape(layer(maps((2, 3)), canvas=(8, 12)), [2, 3, 2, 4])
    large = tf.reshape(layer(maps((4, 5)), canvas=(16, 20)), [4, 5, 2, 4])
    np.testing.assert_allclose(large[:2, :3], small, atol=tolerance(small.numpy()))


def test_round_trip_through_the_config() -> None:
    layer = AnchorGenerator([[8., 16.], [32., 64.]], [.5, 1., 2.], [4, 8], rounded=True, offset=.5,
                            order='size_major', name='a')
    assert layer.per_cell == [6, 6]
    twin = AnchorGenerator.from_config(layer.get_config())
    features = maps((2, 3), (1, 2))
    np.testing.assert_array_equal(twin(features, canvas=(8, 12)), layer(features, canvas=(8, 12)))
    assert not layer.weights


def test_anchors_of_bfloat16_feature_maps_are_float32() -> None:
    layer = AnchorGenerator([[33.]], [.7], strides=None)
    features = [tf.cast(x, tf.bfloat16) for x in maps((2, 3))]
    anchors = layer(features, canvas=(8, 12))
    assert anchors.dtype == tf.float32
    np.testing.assert_array_equal(anchors, layer(maps((2, 3)), canvas=(8, 12)))


@pytest.mark.parametrize(('order', 'expected'), [
    ('ratio_major', [[-8, -16, 8, 16], [-16, -32, 16, 32], [-16, -8, 16, 8], [-32, -16, 32, 16]]),
    ('size_major', [[-8, -16, 8, 16], [-16, -8, 16, 8], [-16, -32, 16, 32], [-32, -16, 32, 16]])],
    ids=lambda value: value if isinstance(value, str) else '')
def test_the_order_of_one_cell_by_hand(order, expected) -> None:
    """Areas 16 x 32 and 32 x 64, half and twice as high as wide."""
    sizes = [math.sqrt(16 * 32), math.sqrt(32 * 64)]
    np.testing.assert_allclose(base_anchors(sizes, [.5, 2.], order=order), expected, rtol=1e-6)


def test_the_two_dialects_of_a_stride_that_does_not_divide_the_canvas() -> None:
    """P6 of a canvas of 800 x 1088: 13 x 17 cells, 61 or 64 px apart from top to bottom, 64 across."""
    features = maps((13, 17))
    by_level = AnchorGenerator([[2.]], [1.], strides=[64])(features).numpy().reshape(13, 17, 4)
    by_canvas = AnchorGenerator([[2.]], [1.], strides=None)(features, canvas=(800, 1088)).numpy().reshape(13, 17, 4)
    assert by_level[12, 16].tolist() == [12 * 64 - 1, 16 * 64 - 1, 12 * 64 + 1, 16 * 64 + 1]
    assert by_canvas[12, 16].tolist() == [12 * 61 - 1, 16 * 64 - 1, 12 * 61 + 1, 16 * 64 + 1]


@pytest.mark.parametrize('strides', [None, [4, 8]], ids=['of_the_canvas', 'of_the_level'])
def test_rows_and_columns_may_be_dynamic(strides) -> None:
    layer = AnchorGenerator([[8.], [16.]], [.5, 1.], strides)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 1]), tf.TensorSpec([1, None, None, 1]),
                                  tf.TensorSpec([2], tf.int32)], autograph=False)
    def dynamic(fine: tf.Tensor, coarse: tf.Tensor, canvas: tf.Tensor) -> tf.Tensor:
        return layer([fine, coarse], canvas=tf.unstack(canvas))

    for canvas, grids in (((20, 28), ((5, 7), (3, 4))), ((8, 8), ((2, 2), (1, 1)))):
        features = [tf.zeros([1, *grid, 1]) for grid in grids]
        np.testing.assert_array_equal(dynamic(*features, tf.constant(canvas)), layer(features, canvas=canvas))


def test_wrong_arguments_and_inputs_are_named() -> None:
    with pytest.raises(ValueError, match=r'pass canvas=\(height, width\) or construct the layer with strides'):
        AnchorGenerator([[8.]], [1.], strides=None)(maps((2, 3)))
    with pytest.raises(ValueError, match=r'strides is \[4\]; expected 2 numbers, one for each list of sizes'):
        AnchorGenerator([[8.], [16.]], [1.], [4])
    with pytest.raises(ValueError, match='got 3 feature maps; expected 1, one for each level'):
        AnchorGenerator([[8.]], [1.], [4])(maps((2, 3), (1, 2), (1, 1)))


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'sizes': [[]]}, r'^AnchorGenerator: a level of sizes is \[\]; expected a list of one or more numbers above 0$'),
    ({'sizes': [32., 64.]}, '^AnchorGenerator: a level of sizes is 32.0; expected a list of one or more numbers above'),
    ({'ratios': [0.]}, r'^AnchorGenerator: ratios is \[0.0\]; expected a list of one or more numbers above 0$'),
    ({'order': 'row'}, "^AnchorGenerator: order is 'row'; expected one of 'ratio_major', 'size_major'$")],
    ids=['no_sizes', 'sizes_not_by_level', 'ratios', 'order'])
def test_wrong_constructor_arguments_are_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        AnchorGenerator(**arguments)


def test_anchors_of_a_config() -> None:
    """The strides are used by the dialect `level` alone."""
    config = AnchorConfig(sizes=[[8.], [16.]], ratios=[2.], order='size_major', rounded=True, offset=.5)
    expected = {'sizes': [[8.], [16.]], 'ratios': [2.], 'order': 'size_major', 'rounded': True, 'offset': .5}
    for stride, strides in (('canvas', None), ('level', [4, 8])):
        layer = AnchorGenerator.of(dataclasses.replace(config, stride=stride), (4, 8))
        assert {**expected, 'strides': strides}.items() <= layer.get_config().items()


def test_cells_of_images_by_hand() -> None:
    """Cells of 4 px: a canvas of 8 x 12 has 2 x 3, one of 5 x 4 has 2 x 1."""
    (cells,) = cells_of_images(maps((3, 4)), [4], tf.constant([[8., 12.], [5., 4.]]))
    np.testing.assert_array_equal(tf.reshape(cells, [2, 3, 4]), [
        [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]])


def test_the_given_lists_are_not_changed() -> None:
    """They belong to a config, which is compared and saved after the layer is constructed."""
    sizes = [[8., 16.]]
    AnchorGenerator(sizes, [1.], strides=None)
    assert type(sizes[0]) is list
