"""Objects of a placed image: boxes and masks against shapes that are drawn on the result by numpy."""
from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from mrcnn_tf.input import images, records, visibility
from mrcnn_tf.input.visibility import Placed
from tests.input.test_geometry import placement, turned

SIDE = 8


def record(masks: list[np.ndarray], boxes: list[tuple[float, ...]] | None = None, has_mask: bool = True
           ) -> dict[str, tf.Tensor]:
    encoded = [records.encode_mask(mask if has_mask else np.zeros_like(mask)) for mask in masks]
    return {'boxes': tf.constant(boxes or [around(mask) for mask in masks], tf.float32),
            'masks': tf.constant(encoded), 'has_mask': tf.fill([len(masks)], has_mask)}


def around(mask: np.ndarray) -> tuple[float, ...]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(rows[0]), float(columns[0]), rows[-1] + 1., columns[-1] + 1.


def rectangle(y1: int, x1: int, y2: int, x2: int, size: tuple[int, int] = (6, 9)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def place(given: dict[str, tf.Tensor], where: object, hidden: tf.Tensor | None = None) -> Placed:
    return visibility.place_masks(given, where, SIDE, tf.constant('image 1'), hidden)      # type: ignore[arg-type]


def covering(mask: np.ndarray) -> tf.Tensor:
    return tf.constant(mask)


def test_an_object_that_stays_whole_keeps_its_annotated_box_and_its_crop() -> None:
    """The annotated box need not be that of the mask's pixels: COCO's boxes are those of polygons."""
    given = record([rectangle(1, 2, 4, 7)], [(1.25, 2.5, 3.75, 6.5)])
    placed = place(given, placement(scaled=(12, 27)))
    np.testing.assert_allclose(placed.boxes, [[2.5, 7.5, 7.5, 19.5]], atol=1e-5)
    np.testing.assert_array_equal(placed.visible, [1])
    expected = images.crop_masks(given['masks'], given['boxes'], tf.constant([6, 9]), SIDE)
    np.testing.assert_allclose(placed.masks.numpy().astype(int), expected.numpy().astype(int), atol=1)


def test_a_cut_object_gets_the_box_of_what_is_left() -> None:
    """An L: without its vertical bar, only two rows of the horizontal one are left, lower than the cut box."""
    letter = rectangle(0, 1, 6, 3) | rectangle(4, 1, 6, 8)
    placed = place(record([letter]), placement(corner=(0, -4), shape=(6, 5)))
    np.testing.assert_array_equal(placed.boxes, [[4, 0, 6, 4]])
    np.testing.assert_allclose(placed.visible, [8 / 22])
    assert (placed.masks.numpy() > 127).mean() > .9      # corners blur


def test_a_mirrored_object_that_is_cut() -> None:
    letter = rectangle(0, 1, 6, 3) | rectangle(4, 1, 6, 8)
    placed = place(record([letter]), placement(corner=(0, -4), shape=(6, 5), mirrored=(False, True)))
    np.testing.assert_array_equal(placed.boxes, [[0, 0, 6, 4]])      # x 5 to 8 of the mirrored image has the bar
    np.testing.assert_allclose(placed.visible, [(12 + 4) / 22])


def test_an_object_outside_has_nothing_visible() -> None:
    placed = place(record([rectangle(0, 0, 2, 2)]), placement(corner=(0, -4), shape=(6, 5)))
    np.testing.assert_array_equal(placed.visible, [0])
    np.testing.assert_array_equal(placed.boxes, [[0, 0, 0, 0]])


def test_a_quarter_turn_by_hand() -> None:
    """Counter-clockwise about (3, 3): column x becomes row 6 - x, row y becomes column y."""
    mask = rectangle(1, 0, 2, 4, (6, 6)) | rectangle(1, 0, 4, 1, (6, 6))
    placed = place(record([mask]), placement((6, 6), (6, 6), turn=turned(90)))
    np.testing.assert_allclose(placed.boxes, [[2, 1, 6, 4]], atol=1e-5)
    expected = images.crop_masks(tf.constant([records.encode_mask(np.rot90(mask))]),
                                 tf.constant([[2., 1., 6., 4.]]), tf.constant([6, 6]), SIDE)
    np.testing.assert_allclose(placed.masks.numpy().astype(int), expected.numpy().astype(int), atol=1)


def test_a_mask_does_not_reach_beyond_the_edge_of_its_image() -> None:
    """A turned object at the edge ends where the image ends, although the box of its corners goes on."""
    placed = place(record([rectangle(0, 0, 20, 20, (20, 20))]),
                   placement((20, 20), (20, 20), shape=(20, 20), turn=turned(45)))
    cells = placed.masks[0].numpy()
    np.testing.assert_array_equal(placed.boxes, [[0, 0, 20, 20]])
    assert cells[0, 0] == cells[0, -1] == cells[-1, 0] == cells[-1, -1] == 0 and cells[SIDE // 2, SIDE // 2] == 255


def test_a_turned_object_without_a_mask_gets_the_box_of_its_corners() -> None:
    given = record([rectangle(2, 2, 4, 4, (6, 6))], has_mask=False)
    placed = place(given, placement((6, 6), (6, 6), turn=turned(45)))
    half = 2 ** .5
    np.testing.assert_allclose(placed.boxes, [[3 - half, 3 - half, 3 + half, 3 + half]], atol=1e-5)
    np.testing.assert_allclose(placed.visible, [1])
    boxes_only = visibility.place_boxes(given['boxes'], placement((6, 6), (6, 6), turn=turned(45)))
    np.testing.assert_array_equal(boxes_only.boxes, placed.boxes)
    assert boxes_only.masks is None


def test_hidden_pixels_leave_the_mask_and_shrink_the_box() -> None:
    placed = place(record([rectangle(1, 2, 5, 8)]), placement(), covering(rectangle(0, 0, 6, 5)))
    np.testing.assert_array_equal(placed.boxes, [[1, 5, 5, 8]])
    np.testing.assert_array_equal(placed.visible, [.5])
    assert (placed.masks.numpy() > 127).all()


def test_a_hole_in_the_middle_leaves_the_box() -> None:
    placed = place(record([rectangle(1, 1, 5, 9)]), placement(), covering(rectangle(2, 3, 4, 7)))
    np.testing.assert_array_equal(placed.boxes, [[1, 1, 5, 9]])
    np.testing.assert_array_equal(placed.visible, [.75])
    expected = np.ones([SIDE, SIDE], bool)
    expected[2:6, 2:6] = False                   # two cells per row, one per column
    np.testing.assert_array_equal(placed.masks[0].numpy() > 127, expected)


def test_a_hidden_box_is_less_visible_and_as_large() -> None:
    placed = place(record([rectangle(1, 0, 5, 8)], has_mask=False), placement(), covering(rectangle(0, 0, 6, 2)))
    np.testing.assert_array_equal(placed.boxes, [[1, 0, 5, 8]])
    np.testing.assert_array_equal(placed.visible, [.75])
    np.testing.assert_array_equal(placed.masks, np.zeros([1, SIDE, SIDE]))


def test_a_box_without_area_at_the_edge_is_not_visible() -> None:
    placed = visibility.place_boxes(tf.constant([[6., 9., 6., 9.]]), placement(), covering(rectangle(0, 0, 6, 2)))
    np.testing.assert_array_equal(placed.visible, [0])


@pytest.mark.parametrize('degrees', [0, 10], ids=['upright', 'turned'])
def test_no_objects(degrees: int) -> None:
    given = {'boxes': tf.zeros([0, 4]), 'masks': tf.constant([], tf.string), 'has_mask': tf.constant([], tf.bool)}
    placed = place(given, placement(turn=turned(degrees) if degrees else None), covering(rectangle(0, 0, 1, 1)))
    assert (placed.boxes.shape, placed.visible.shape, placed.masks.shape) == ([0, 4], [0], [0, SIDE, SIDE])


def test_a_mask_of_another_size_is_named() -> None:
    given = record([rectangle(1, 1, 2, 2, (5, 9))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="image 1: a mask is not of the image's size, 6 x 9; "):
        place(given, placement())


@tf.function(reduce_retracing=True)
def _placed_in_graph(png: tf.Tensor, box: tf.Tensor, matrix_parts: tuple[tf.Tensor, ...]) -> Placed:
    mirrored, scaled, corner, shape, turn = matrix_parts
    where = placement((40, 50))._replace(mirrored=mirrored, scaled=scaled, corner=corner, shape=shape, turn=turn)
    given = {'boxes': box[None], 'masks': png[None], 'has_mask': tf.constant([True])}
    return visibility.place_masks(given, where, 56, tf.constant('image'))


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(
    seed=st.integers(0, 10 ** 6), scale=st.tuples(st.floats(.5, 2), st.floats(.5, 2)),
    degrees=st.tuples(st.floats(-180, 180), st.floats(-30, 30)), mirrored=st.tuples(st.booleans(), st.booleans()),
    corner=st.tuples(st.integers(-30, 10), st.integers(-30, 10)))
def test_the_box_of_a_placed_mask_is_that_of_the_mask_on_the_result(
        seed: int, scale: tuple[float, float], degrees: tuple[float, float], mirrored: tuple[bool, bool],
        corner: tuple[int, int]) -> None:
    """The mask on the result is found point by point, eight per px and axis: which source pixel does it show?

    So a box edge may differ by 1/8 px, and where the window cuts a turned pixel, by about a pixel of the source.
    """
    rng = np.random.default_rng(seed)
    middle, radius = rng.uniform(8, 32, 2), rng.uniform(2, 14, 2)
    y, x = np.mgrid[:40, :50] + .5
    mask = ((y - middle[0]) / radius[0]) ** 2 + ((x - middle[1]) / radius[1]) ** 2 < 1
    mask[:, int(middle[1]):] &= y[:, int(middle[1]):] > middle[0]                 # three quarters of an ellipse
    hypothesis.assume(mask.any())
    scaled = np.int32(np.round(np.array(scale) * (40, 50)))
    shape = np.int32([45, 40])
    where = placement((40, 50), tuple(scaled), corner, tuple(shape), mirrored, turned(*degrees))
    placed = _placed_in_graph(tf.constant(records.encode_mask(mask)), tf.constant(around(mask), tf.float32),
                              (where.mirrored, where.scaled, where.corner, where.shape, where.turn))

    matrix = where.matrix().numpy().astype(float)
    points = np.stack(np.meshgrid(*((np.arange(8 * side) + .5) / 8 for side in shape), indexing='ij'), axis=-1)
    source = np.floor((points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T).astype(int)
    inside = ((source >= 0) & (source < (40, 50))).all(axis=-1)
    source = np.where(inside[..., None], source, 0)
    shown = inside & mask[source[..., 0], source[..., 1]]
    if not shown.any():
        assert placed.visible[0] < .2
        return
    margin = .125 + .71 * max(scale) * 1.3                                         # 1.3: sheared pixels
    np.testing.assert_allclose(placed.boxes[0], np.array(around(shown)) / 8, atol=margin)
    fraction = shown.sum() / 64 / abs(np.linalg.det(matrix[:, :2])) / mask.sum()
    assert abs(float(placed.visible[0]) - fraction) < 4 / np.sqrt(mask.sum())

    y1, x1, y2, x2 = placed.boxes[0].numpy()
    hypothesis.assume(min(y2 - y1, x2 - x1) > 4)
    cells = np.stack(np.meshgrid(y1 + (np.arange(56) + .5) / 56 * (y2 - y1), x1 + (np.arange(56) + .5) / 56 * (x2 - x1),
                                 indexing='ij'), axis=-1)
    at = np.minimum(np.int32(cells * 8), shape * 8 - 1)
    assert ((placed.masks[0].numpy() > 127) != shown[at[..., 0], at[..., 1]]).mean() < .08
