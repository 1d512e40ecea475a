"""Placements of images and boxes: matrices by hand, pixels against numpy, boxes against their four moved corners."""
from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from mrcnn_tf.config import DataConfig
from mrcnn_tf.config.schema import AugmentConfig
from mrcnn_tf.input import geometry, images
from mrcnn_tf.input.geometry import Placement

PIXELS = np.random.default_rng(0).uniform(0, 255, [6, 9, 3]).astype(np.float32)
FILL = np.array([7, 8, 9], np.float32)


def placement(size: tuple[int, int] = (6, 9), scaled: tuple[int, int] = (6, 9), corner: tuple[int, int] = (0, 0),
              shape: tuple[int, int] | None = None, mirrored: tuple[bool, bool] = (False, False),
              turn: tf.Tensor | None = None) -> Placement:
    return Placement(tf.constant(size), tf.constant(mirrored), tf.constant(scaled), tf.constant(corner),
                     tf.constant(shape or scaled), turn)


def turned(degrees: float, shear: float = 0.) -> tf.Tensor:
    return geometry.turning(tf.constant(math.radians(degrees)), tf.constant(math.radians(shear)))


def sampled(count: int, **rule: object) -> dict[str, np.ndarray]:
    """Placements of an image of 480 x 640 that is resized to 768 x 1024, by their fields."""
    data = DataConfig(flip_vertical=.5, augment=AugmentConfig(**rule))    # type: ignore[arg-type]

    def sample(number: tf.Tensor) -> dict[str, tf.Tensor]:
        found = geometry.sample_placement(tf.constant([480, 640]), tf.constant([768, 1024]), [1024, 1024], data,
                                          tf.stack([tf.constant(0, tf.int64), number]))
        return {name: value for name, value in found._asdict().items() if value is not None}

    return next(iter(tf.data.Dataset.range(count).map(sample).batch(count).as_numpy_iterator()))


@pytest.mark.parametrize(('place', 'point', 'expected'), [
    (lambda: placement(), (2, 5), (2, 5)),
    (lambda: placement(scaled=(12, 27)), (2, 5), (4, 15)),
    (lambda: placement(scaled=(12, 27), corner=(-3, 4)), (2, 5), (1, 19)),
    (lambda: placement(mirrored=(True, False)), (2, 5), (4, 5)),
    (lambda: placement(scaled=(12, 18), mirrored=(False, True)), (2, 5), (4, 8)),
    (lambda: placement(turn=turned(90)), (3, 4.5), (3, 4.5)),          # the center stays
    (lambda: placement(turn=turned(90)), (3, 9), (-1.5, 4.5)),         # counter-clockwise: right becomes top
    (lambda: placement(turn=turned(0, 45)), (5, 4.5), (5, 6.5)),       # 2 px below the center moves 2 px right
], ids=['nothing', 'scale', 'scale and move', 'top to bottom', 'left to right', 'center', 'rotation', 'shear'])
def test_a_matrix_moves_a_point(place: Callable[[], Placement], point: tuple[float, float],
                                expected: tuple[float, float]) -> None:
    matrix = place().matrix().numpy()
    np.testing.assert_allclose(matrix[:, :2] @ point + matrix[:, 2], expected, atol=1e-5)


def test_rotation_comes_after_mirroring_scaling_and_shear() -> None:
    """(2, 5) of 6 x 9 is (-1, .5) from the center; mirrored and doubled (2, 1), sheared (2, 3), rotated (-3, 2)."""
    matrix = placement(scaled=(12, 18), mirrored=(True, False), turn=turned(90, 45)).matrix().numpy()
    np.testing.assert_allclose(matrix[:, :2] @ (2, 5) + matrix[:, 2], (6 - 3, 9 + 2), atol=1e-5)


@pytest.mark.parametrize('antialias', [False, True])
def test_without_a_turn_an_image_is_resized_then_mirrored_then_cut(antialias: bool) -> None:
    given = placement(scaled=(12, 18), corner=(-3, -4), shape=(7, 10), mirrored=(True, True))
    resized = images.resize(tf.constant(PIXELS), tf.constant([12, 18]), antialias).numpy()
    placed = geometry.place_image(tf.constant(PIXELS), given, antialias, FILL)
    np.testing.assert_array_equal(placed, resized[::-1, ::-1][3:10, 4:14])


def test_what_shows_nothing_of_the_image_is_filled() -> None:
    placed = geometry.place_image(tf.constant(PIXELS), placement(corner=(2, -5), shape=(7, 10)), False, FILL)
    expected = np.broadcast_to(FILL, [7, 10, 3]).copy()
    expected[2:, :4] = PIXELS[:5, 5:]
    np.testing.assert_array_equal(placed, expected)


@pytest.mark.parametrize('corner', [(-6, 0), (9, 0), (0, -20), (50, 50)])
def test_an_image_that_is_moved_out_leaves_only_the_fill(corner: tuple[int, int]) -> None:
    placed = geometry.place_image(tf.constant(PIXELS), placement(corner=corner), False, FILL)
    assert placed.shape == [6, 9, 3] and (placed.numpy() == FILL).all()


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('quarters', [0, 1, 2, 3])
def test_quarter_turns_are_those_of_numpy(quarters: int, antialias: bool) -> None:
    square = np.round(PIXELS[:, :6])
    placed = geometry.place_image(tf.constant(square), placement((6, 6), (6, 6), turn=turned(90 * quarters)),
                                  antialias, FILL)
    np.testing.assert_allclose(placed, np.rot90(square, quarters), atol=.01)


def test_the_warp_of_a_scale_equals_a_resize() -> None:
    given = placement(scaled=(8, 20), turn=turned(0))
    placed = geometry.place_image(tf.constant(PIXELS), given, False, FILL)
    np.testing.assert_allclose(placed, images.resize(tf.constant(PIXELS), tf.constant([8, 20])), atol=.01)


def test_a_turned_image_that_shrinks_is_averaged_only_with_antialias() -> None:
    """Stripes of one pixel average to gray; without antialias, each result pixel takes two of them at most."""
    stripes = tf.constant(np.tile(np.float32([0, 0, 255, 255])[None, :, None], [64, 16, 3]))
    given = placement((64, 64), (8, 8), turn=turned(180))
    assert np.ptp(geometry.place_image(stripes, given, True, FILL)[2:-2, 2:-2]) < 30
    assert np.ptp(geometry.place_image(stripes, given._replace(scaled=tf.constant([9, 9])), False, FILL)) > 100


def test_a_warp_interpolates_between_centers_and_fills_beyond_the_edges() -> None:
    """A row of 0 and 100, moved by 1.5 px to the right: the second center shows the edge of the first pixel."""
    row = tf.constant([[[0.], [100.]]])
    moved = geometry.warp(row, tf.constant([[1., 0., 0.], [0., 1., 1.5]]), [1, 5], -1.)
    np.testing.assert_allclose(np.ravel(moved), [-1, 0, 50, 100, -1], atol=1e-4)


# What is sampled --------------------------------------------------------------------------------------------------

def test_without_augmentation_the_resized_image_is_only_mirrored() -> None:
    found = sampled(20)
    assert 'turn' not in found
    for name, expected in (('scaled', [768, 1024]), ('shape', [768, 1024]), ('corner', [0, 0])):
        np.testing.assert_array_equal(found[name], [expected] * 20)
    assert set(map(tuple, found['mirrored'].tolist())) == {(a, b) for a in (True, False) for b in (True, False)}


def test_large_scale_jitter_samples_scales_uniformly_and_cuts_to_the_canvas() -> None:
    found = sampled(200, large_scale_jitter=[.1, 2.])
    scaled, corners = found['scaled'], -found['corner']
    np.testing.assert_array_equal(found['shape'], np.minimum(scaled, 1024))
    # Uniform in 0.1..2: mean 1.05, deviation .55; five standard deviations of the mean of 200.
    scales = scaled[:, 1] / 1024
    assert abs(scales.mean() - 1.05) < .2 and scales.min() < .2 and scales.max() > 1.9
    np.testing.assert_allclose(scaled[:, 0] / 768, scales, atol=2e-3)
    spare = scaled - found['shape']
    assert (corners >= 0).all() and (corners <= spare).all()
    where = (corners / np.maximum(spare, 1))[spare[:, 1] > 100, 1]
    assert where.min() < .1 and where.max() > .9


def test_rotation_shear_and_translation_stay_within_their_limits() -> None:
    found = sampled(100, rotation=30., shear=20., translation=.25)
    turns = found['turn']
    # The rotation turns the x axis; undoing it leaves the shear.
    angles = np.arctan2(-turns[:, 0, 1], turns[:, 1, 1])
    slopes = np.sin(angles) * -turns[:, 0, 0] + np.cos(angles) * turns[:, 1, 0]
    np.testing.assert_allclose(turns[:, 0, 0] * np.cos(angles) + turns[:, 1, 0] * np.sin(angles), 1, atol=1e-5)
    shifts = found['corner'] / found['scaled']
    for values, limit in ((np.degrees(angles), 30), (np.degrees(np.arctan(slopes)), 20), (shifts[:, 0], .25),
                          (shifts[:, 1], .25)):
        assert np.abs(values).max() <= limit * 1.002 and values.min() < -.8 * limit and values.max() > .8 * limit


# Boxes ------------------------------------------------------------------------------------------------------------

@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6),
                  st.lists(st.floats(0, 100, width=32), min_size=4, max_size=4))
def test_a_moved_box_encloses_its_moved_corners(values: list[float], edges: list[float]) -> None:
    matrix = np.float32(values).reshape(2, 3)
    y1, y2, x1, x2 = *sorted(edges[:2]), *sorted(edges[2:])
    corners = np.array([(y, x) for y in (y1, y2) for x in (x1, x2)]) @ matrix[:, :2].T + matrix[:, 2]
    moved = geometry.move_boxes(tf.constant([[y1, x1, y2, x2]]), tf.constant(matrix))[0]
    np.testing.assert_allclose(moved, [*corners.min(axis=0), *corners.max(axis=0)], atol=1e-3)


def test_clipped_boxes_and_their_visible_fractions() -> None:
    boxes = tf.constant([[1., 1., 3., 5.], [-2., 2., 2., 4.], [-4., 0., -1., 2.], [8., 16., 12., 24.],
                         [2., 2., 2., 5.]])
    clipped, visible = geometry.clip_boxes(boxes, tf.constant([10, 20]))
    np.testing.assert_array_equal(clipped, [[1, 1, 3, 5], [0, 2, 2, 4], [0, 0, 0, 2], [8, 16, 10, 20], [2, 2, 2, 5]])
    np.testing.assert_array_equal(visible, [1, .5, 0, .25, 0])
