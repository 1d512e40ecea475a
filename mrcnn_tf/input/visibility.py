"""Objects of a placed image: their boxes, their masks, and the fraction of each that stays visible.

h, w height and width of the source image; oh, ow those of the result; n objects; S side of a mask crop. `hidden`, bool
[oh, ow], marks the pixels of the result in which something covers the image; None: nothing does.

Masks follow from the mask of the whole source image, not from the crop of S x S that a batch holds: that crop has
forgotten where within a cell the contour lies, and what remains of an object at an edge needs a new box, which needs a
new crop. Pixels of the mask are moved to find the exact box. Then each cell of the new crop is sampled from the source
mask by one matrix, so the mask is interpolated once, as without augmentation.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.input import geometry, images
from mrcnn_tf.input.geometry import Placement

_GRID = 16       # points per axis of a box at which `hidden` is looked up


class Placed(NamedTuple):
    """Objects of a placed image."""
    boxes: tf.Tensor             # float32 [n, 4], px of the result, clipped to it
    visible: tf.Tensor           # float32 [n], fraction of the object that the result shows
    masks: tf.Tensor | None      # uint8 [n, S, S], 0..255


def place_boxes(boxes: tf.Tensor, placement: Placement, hidden: tf.Tensor | None = None) -> Placed:
    """Return objects or proposals of which only the boxes are known.

    A turned box becomes the box that encloses it. `hidden` makes a box less visible, and leaves it as large as it is.
    """
    moved, visible = geometry.clip_boxes(geometry.move_boxes(boxes, placement.matrix()), placement.shape)
    if hidden is not None:
        visible *= _uncovered(moved, hidden)
    return Placed(moved, visible, None)


def place_masks(record: dict[str, tf.Tensor], placement: Placement, side: int, name: tf.Tensor,
                hidden: tf.Tensor | None = None) -> Placed:
    """Return objects with masks; those that have a box only are placed as in `place_boxes`.

    The box of an object that is wholly visible and not turned is its annotated box. Any other box encloses the visible
    pixels of the mask, each a square of the source image.

    Args:
        record: the function reads boxes, masks and has_mask.
        placement: of the image.
        side: S.
        name: string [], what an error calls the image.
        hidden: see above.

    Raises:
        tf.errors.InvalidArgumentError: a mask is not a PNG, or has another size than the image.
    """
    outlines = place_boxes(record['boxes'], placement, hidden)
    low, high = images.mask_parts(record['boxes'], placement.size)
    matrix = placement.matrix()

    def place(element: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        png, has_mask, first, end, outline, visible = element
        part = images.decode_mask(png, placement.size, name, (first, end))
        local = _after_shift(matrix, first)
        shown = _shown(part[:, :, 0] > 0, local, placement.shape, hidden)
        known = has_mask & (shown.total > 0)
        whole = shown.visible == 1. if placement.turn is None else tf.constant(False)
        box = tf.where(known & ~whole, shown.box, outline)
        return box, tf.where(known, shown.visible, visible), _crop(part, local, box, side, hidden)

    boxes, visible, masks = tf.map_fn(
        place, (record['masks'], record['has_mask'], low, high, outlines.boxes, outlines.visible),
        fn_output_signature=(tf.TensorSpec([4]), tf.TensorSpec([]), tf.TensorSpec([side, side], tf.uint8)))
    return Placed(boxes, visible, masks)


class _Shown(NamedTuple):
    """What the result shows of one mask."""
    total: tf.Tensor             # int32 [], pixels of the mask
    visible: tf.Tensor           # float32 [], fraction of them that is visible
    box: tf.Tensor               # float32 [4], encloses the visible ones; zeros if there are none


def _shown(part: tf.Tensor, matrix: tf.Tensor, shape: tf.Tensor, hidden: tf.Tensor | None) -> _Shown:
    """Return what the result shows of a mask, bool [rows, columns], that the matrix moves."""
    size = tf.shape(part)
    at = tf.reshape(tf.stack(tf.meshgrid(geometry.centers(0, size[0]), geometry.centers(0, size[1]), indexing='ij'),
                             axis=-1), [-1, 2])
    at = tf.boolean_mask(at, tf.reshape(part, [-1]))                               # [pixels, 2]
    at = at @ tf.transpose(matrix[:, :2]) + matrix[:, 2]                           # centers in px of the result
    half = tf.reduce_sum(tf.abs(matrix[:, :2]), axis=1) / 2                        # of the box of a moved pixel
    limit = tf.cast(shape, tf.float32)
    # Of a pixel at the edge, the part next to its center counts: the point of the result that is nearest to the center.
    # The boxes of turned pixels would reach into the result where the pixels do not.
    nearest = (tf.clip_by_value(at, 0., limit) - at) @ tf.transpose(geometry.inverse(matrix)[:, :2])
    inside = tf.reduce_all(tf.abs(nearest) < .5 - 1e-4, axis=1)
    if hidden is not None:
        inside &= ~tf.gather_nd(hidden, tf.clip_by_value(tf.cast(tf.floor(at), tf.int32), 0, shape - 1))
    total, left = tf.shape(at)[0], tf.boolean_mask(at, inside)
    count = tf.shape(left)[0]
    box = tf.concat([tf.reduce_min(left, axis=0) - half, tf.reduce_max(left, axis=0) + half], axis=0)
    box = tf.where(count > 0, tf.clip_by_value(box, 0., tf.tile(limit, [2])), 0.)
    return _Shown(total, tf.cast(count / tf.maximum(total, 1), tf.float32), box)


def _crop(part: tf.Tensor, matrix: tf.Tensor, box: tf.Tensor, side: int, hidden: tf.Tensor | None) -> tf.Tensor:
    """Return the visible mask over a box of the result, uint8 [S, S], of a part of the source mask."""
    into_cells = side / tf.maximum(box[2:] - box[:2], 1e-3)
    shift = -box[:2, None]

    def cells(pixels: tf.Tensor, to_result: tf.Tensor) -> tf.Tensor:
        to_box = to_result + tf.pad(shift, [[0, 0], [2, 0]])
        return geometry.warp(tf.cast(pixels, tf.float32), to_box * into_cells[:, None], [side, side])[:, :, 0]

    mask = cells(part, matrix)
    if hidden is not None:
        # Not the product: halves of two contours that coincide must not fall below the threshold of 1/2.
        mask = tf.minimum(mask, 1 - cells(hidden[:, :, None], tf.eye(2, 3)))
    return tf.cast(tf.round(mask * 255.), tf.uint8)


def _after_shift(matrix: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Return the matrix for positions to which `shift`, int32 [2], is added before the given one."""
    moved = tf.linalg.matvec(matrix[:, :2], tf.cast(shift, tf.float32)) + matrix[:, 2]
    return tf.concat([matrix[:, :2], moved[:, None]], axis=1)


def _uncovered(boxes: tf.Tensor, hidden: tf.Tensor) -> tf.Tensor:
    """Return the fraction of each box that is not hidden, float32 [n]."""
    steps = (tf.range(_GRID, dtype=tf.float32) + .5) / _GRID
    low, extent = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]      # [n, 1, 2]
    at = tf.cast(tf.floor(low + steps[:, None] * extent), tf.int32)                # [n, grid, 2]
    at = tf.minimum(at, tf.shape(hidden) - 1)                                      # a box without area, at an edge
    rows, columns = at[:, :, None, 0], at[:, None, :, 1]                           # [n, grid, 1], [n, 1, grid]
    at = tf.stack([rows + 0 * columns, 0 * rows + columns], axis=-1)               # [n, grid, grid, 2]
    return 1 - tf.reduce_mean(tf.cast(tf.gather_nd(hidden, at), tf.float32), axis=[1, 2])
