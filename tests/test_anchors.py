"""Anchors of every level: cases worked by hand (the reference's tables: tests/parity)."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.anchors import AnchorGenerator, base_anchors

from .modes import tolerance


def maps(*grids: tuple[int, int]) -> list[tf.Tensor]:
    return [tf.zeros([2, *grid, 1]) for grid in grids]


def test_unrounded_anchors_by_hand() -> None:
    """Side 32: 32 x 32, and twice as high as wide sqrt(2) * 32 x 32 / sqrt(2), both of 1024 px^2."""
    base = base_anchors([32.], [1., 2.], rounded=False)
    np.testing.assert_allclose(base, [[-16, -16, 16, 16], [-22.627417, -11.313708, 22.627417, 11.313708]], rtol=1e-6)
    assert base.dtype == np.float32


def test_positions_by_hand() -> None:
    """One anchor of side 2 in each of 2 x 3 cells of 4 px, row by row; the offset is in strides."""
    layer = AnchorGenerator([[2.]], [1.])
    anchors = layer(maps((2, 3)), canvas=(8, 12))
    centers = [[0, 0], [0, 4], [0, 8], [4, 0], [4, 4], [4, 8]]
    np.testing.assert_array_equal(anchors, [[y - 1, x - 1, y + 1, x + 1] for y, x in centers])
    shifted = AnchorGenerator([[2.]], [1.], offset=.5)(maps((2, 3)), canvas=(8, 12))
    np.testing.assert_array_equal(shifted, anchors + 2.)


def test_a_larger_canvas_keeps_the_anchors_of_the_smaller() -> None:
    layer = AnchorGenerator([[8.]], [1., 2.])
    small = tf.reshape(layer(maps((2, 3)), canvas=(8, 12)), [2, 3, 2, 4])
    large = tf.reshape(layer(maps((4, 5)), canvas=(16, 20)), [4, 5, 2, 4])
    np.testing.assert_allclose(large[:2, :3], small, atol=tolerance(small.numpy()))


def test_what_the_layer_tells_about_itself() -> None:
    layer = AnchorGenerator([[8., 16.], [32., 64.]], [.5, 1., 2.], rounded=True, offset=.5, name='a')
    assert layer.per_cell == [6, 6]
    twin = AnchorGenerator.from_config(layer.get_config())
    features = maps((2, 3), (1, 2))
    np.testing.assert_array_equal(twin(features, canvas=(8, 12)), layer(features, canvas=(8, 12)))
    assert not layer.weights


def test_anchors_stay_float32_beside_maps_of_bfloat16() -> None:
    layer = AnchorGenerator([[33.]], [.7])
    features = [tf.cast(x, tf.bfloat16) for x in maps((2, 3))]
    anchors = layer(features, canvas=(8, 12))
    assert anchors.dtype == tf.float32
    np.testing.assert_array_equal(anchors, layer(maps((2, 3)), canvas=(8, 12)))


def test_a_level_without_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match=r'zip\(\)'):
        AnchorGenerator([[8.]], [1.])(maps((2, 3), (1, 2)), canvas=(8, 12))


def test_the_lists_given_stay_as_they_are() -> None:
    """They are a config's, which is compared and saved after the layer was made."""
    sizes = [[8., 16.]]
    AnchorGenerator(sizes, [1.])
    assert type(sizes[0]) is list
