"""Images in a graph, for training and serving: resize rule, resize, canvas, an image as a batch, cropped masks.

h, w height and width of an image; H, W those of its canvas, the size that it is padded to at the right and below;
n objects; S side of a mask crop. An image is float32 [h, w, 3], RGB 0..255; a shape is int32 [2] (height, width).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from mrcnn_tf.config import ConfigError, DataConfig


def resized_shape(height: tf.Tensor | int, width: tf.Tensor | int, short_side: tf.Tensor | int,
                  long_side: tf.Tensor | int, rounded: bool = False) -> tf.Tensor:
    """Return the shape that an image is resized to: scale = min(short_side / shorter, long_side / longer).

    Args:
        height, width: of the image, integers [], px, at least 1.
        short_side, long_side: largest shorter and longer side of the result, integers [], px, at least 1.
        rounded: round sides to the nearest pixel, halves up (Detectron2); False: round down (torchvision).

    Returns:
        int32 [2]; each side at least 1.
    """
    if not rounded:
        # In float64, as torchvision computes it: 334 px at a short side of 800 become 799, as 334 * (800 / 334) < 800.
        sides, limits = (tf.cast(tf.stack(pair), tf.float64) for pair in ((height, width), (short_side, long_side)))
        scale = tf.minimum(limits[0] / tf.reduce_min(sides, axis=0), limits[1] / tf.reduce_max(sides, axis=0))
        return tf.cast(tf.maximum(tf.floor(sides * scale), 1.), tf.int32)
    height, width, short_side, long_side = (tf.cast(v, tf.int64) for v in (height, width, short_side, long_side))
    shorter, longer = tf.minimum(height, width), tf.maximum(height, width)
    short_binds = short_side * longer <= long_side * shorter
    # The scale is a fraction of integers: as a float it loses a pixel where side * scale is an integer.
    numerator = tf.where(short_binds, short_side, long_side)
    denominator = tf.where(short_binds, shorter, longer)
    sides = (2 * tf.stack([height, width]) * numerator + denominator) // (2 * denominator)
    return tf.cast(tf.maximum(sides, 1), tf.int32)


def resize(image: tf.Tensor, shape: tf.Tensor, antialias: bool = False) -> tf.Tensor:
    """Return the image resized bilinearly with half-pixel centers, float32 [*shape, 3].

    Args:
        image: uint8 or float32 [h, w, 3]; the result is the same for both.
        shape: int32 [2].
        antialias: resize as Pillow does with 8-bit images (Detectron2): average where the image shrinks, and round to
            integers, halves up, after each axis. False: interpolate between two pixels per axis (torchvision).
    """
    image = tf.convert_to_tensor(image)
    if not antialias:
        return _resized_to(shape, image, as_float, antialias)
    unchanged = as_float if image.dtype.is_integer else _rounded
    for sides in (tf.stack([tf.shape(image)[0], shape[1]]), shape):               # width first
        image = _resized_to(sides, image, unchanged, antialias)
    return image


def _resized_to(shape: tf.Tensor, image: tf.Tensor, unchanged: Callable[[tf.Tensor], tf.Tensor], antialias: bool
                ) -> tf.Tensor:
    """Return the resized image; `unchanged(image)` if it has this shape, which TensorFlow would resize nevertheless."""
    def resized() -> tf.Tensor:
        if not antialias:
            return _interpolated(image, shape)
        # Where no side shrinks the two are the same up to rounding, but averaging takes three times as long.
        shrinks = tf.reduce_any(shape < tf.shape(image)[:2])
        return _rounded(tf.cond(shrinks, lambda: as_float(tf.image.resize(
            image, shape, method='bilinear', antialias=True)), lambda: _interpolated(image, shape)))

    return tf.cond(tf.reduce_all(tf.shape(image)[:2] == shape), lambda: unchanged(image), resized)


def _interpolated(image: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    def scaled(image: tf.Tensor) -> tf.Tensor:
        return as_float(tf.image.resize(image, shape, method='bilinear'))

    if not image.dtype.is_integer:
        return scaled(image)
    # TensorFlow interpolates float32 in half the time, with the same result. Of a large photograph that shrinks, the
    # float32 array would take more memory than all else.
    grows = tf.reduce_prod(tf.shape(image)[:2]) <= tf.reduce_prod(shape)
    return tf.cond(grows, lambda: scaled(as_float(image)), lambda: scaled(image))


def as_float(values: tf.Tensor) -> tf.Tensor:
    """Return the values as float32."""
    return tf.cast(values, tf.float32)


def _rounded(values: tf.Tensor) -> tf.Tensor:
    """Round to integers, halves up."""
    return tf.floor(as_float(values) + .5)


def choose_canvas(shape: tf.Tensor, canvases: Sequence[Sequence[int]]) -> tf.Tensor:
    """Return the smallest canvas by area, int32 [2], that holds an image of `shape`; the first of equal ones.

    `check_canvases` has made sure that there is one.
    """
    return tf.gather(_sides(canvases), canvas_index(shape, canvases))


def canvas_index(shape: tf.Tensor, canvases: Sequence[Sequence[int]]) -> tf.Tensor:
    """Return the number of the canvas that `choose_canvas` returns, int64 []."""
    sides = _sides(canvases)
    area = tf.cast(tf.reduce_prod(sides, axis=1), tf.float32)
    holds = tf.reduce_all(shape[None, :] <= sides, axis=1)
    return tf.argmin(tf.where(holds, area, area.dtype.max))


def _sides(canvases: Sequence[Sequence[int]]) -> tf.Tensor:
    return tf.constant([list(canvas) for canvas in canvases], tf.int32)         # [canvases, 2]


def check_canvases(data: DataConfig, training: bool) -> None:
    """Raise ConfigError if the resize rule allows an image that fits no canvas.

    Args:
        data: the function reads its `canvases` and sides.
        training: check the rule of training; False: that of evaluation.
    """
    short_name, short_side, long_name, long_side = (
        ('short_sides', max(data.short_sides), 'long_side', data.long_side) if training else
        ('test_short_side', data.test_short_side, 'test_long_side', data.test_long_side))
    short_side = min(short_side, long_side)
    for height, width in ((short_side, long_side), (long_side, short_side)):
        if not any(height <= canvas[0] and width <= canvas[1] for canvas in data.canvases):
            sides = [-(-side // 32) * 32 for side in (height, width)]
            raise ConfigError(f'data.canvases: none of {data.canvases} holds an image of {height} x {width}, which '
                              f'data.{short_name} and data.{long_name} allow; add {sides}')


def own_canvas(shape: tf.Tensor, multiple: int) -> tf.Tensor:
    """Return the canvas of an image alone: its sides, int32 [2], rounded up to multiples of `multiple`."""
    return -(-shape // multiple) * multiple


def batch_of_one(pixels: tf.Tensor, data: DataConfig) -> dict[str, tf.Tensor]:
    """Return the Batch of one image at its test size, on its own canvas, without objects.

    Args:
        pixels: uint8 or float32 [h, w, 3].
        data: the function reads its `test_*` fields, `round_sides`, `antialias` and `pad_multiple`.

    Returns:
        `images`, `sizes`, `original_sizes`, `image_ids` (0) and `image_valid` of a Batch, B = 1.
    """
    size = tf.shape(pixels)[:2]
    shape = inference_shape(size, data)
    entry = batch_entry(resize(pixels, shape, data.antialias), own_canvas(shape, data.pad_multiple), size)
    return {key: value[None] for key, value in entry.items()}


def inference_shape(size: tf.Tensor, data: DataConfig) -> tf.Tensor:
    """Return the shape, int32 [2], to which an image of `size`, int32 [2], is resized in evaluation and inference."""
    return resized_shape(size[0], size[1], data.test_short_side, data.test_long_side, data.round_sides)


def batch_entry(image: tf.Tensor, canvas: Sequence[int] | tf.Tensor, original_size: tf.Tensor,
                image_id: tf.Tensor | int = 0) -> dict[str, tf.Tensor]:
    """Return one image's part of a Batch, without the dimension B and without objects.

    Args:
        image: uint8 or float32 [h, w, 3], resized.
        canvas: height and width that the image is padded to.
        original_size: int32 [2], of the file.
        image_id: int64 [].
    """
    return {
        'images': pad(image, canvas),
        'sizes': tf.cast(tf.shape(image)[:2], tf.float32),
        'original_sizes': original_size,
        'image_ids': tf.cast(image_id, tf.int64),
        'image_valid': tf.constant(True),
    }


def pad(image: tf.Tensor, canvas: Sequence[int] | tf.Tensor) -> tf.Tensor:
    """Return the image with zeros at the right and below, [H, W, 3]; a static shape if `canvas` is not a tensor."""
    image = tf.ensure_shape(image, [None, None, 3])    # a transform of one's own may have lost it
    height, width = tf.unstack(tf.shape(image)[:2])
    # As rows of numbers: alone, TensorFlow pads an array of two axes in less than half the time.
    rows = tf.pad(tf.reshape(image, [height, 3 * width]), [[0, canvas[0] - height], [0, 3 * (canvas[1] - width)]])
    return tf.reshape(rows, [canvas[0], canvas[1], 3])


def crop_masks(encoded: tf.Tensor, boxes: tf.Tensor, shape: tf.Tensor, side: int, name: tf.Tensor | str = 'image',
               ) -> tf.Tensor:
    """Return each object's mask, cropped to its box, so that resizing or shifting the image does not change it.

    Sample i of S along an axis lies at y1 + (i + 1/2) (y2 - y1) / S in px with continuous edges. Values are
    interpolated bilinearly between the centers of the mask's pixels, and constant beyond the outermost centers.

    Args:
        encoded: string [n], PNGs of the whole image, 8-bit gray, 0 outside the object.
        boxes: float32 [n, 4], y1, x1, y2, x2 in px, inside the image.
        shape: int32 [2], of the image and of each mask.
        side: S.
        name: string [], what an error calls the image.

    Returns:
        uint8 [n, S, S], 0..255.

    Raises:
        tf.errors.InvalidArgumentError: a mask is not a PNG, or has another size than the image.
    """
    low, high = mask_parts(boxes, shape)

    def cut(element: tuple[tf.Tensor, ...]) -> tf.Tensor:
        png, first, end, corners = element
        part = decode_mask(png, shape, name, (first, end))
        # The op returns zeros beyond the image, hence one more pixel on each side.
        part = tf.pad(part, [[1, 1], [1, 1], [0, 0]], 'SYMMETRIC')
        return tf.image.crop_and_resize(part[None], corners[None], [0], [side, side])[0, :, :, 0]

    elements = (encoded, low, high, _corners(boxes, low, high, side))
    crops = tf.map_fn(cut, elements, fn_output_signature=tf.TensorSpec([side, side], tf.float32))
    return tf.ensure_shape(tf.cast(tf.round(crops * 255.), tf.uint8), [None, side, side])


def mask_parts(boxes: tf.Tensor, shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first and the end row and column, int32 [n, 2] each, of all pixels at most 1 px from each box.

    Args:
        boxes: float32 [n, 4], y1, x1, y2, x2 in px.
        shape: int32 [2], of the image; a part has at least one pixel and lies in it.
    """
    low = tf.clip_by_value(tf.cast(tf.floor(boxes[:, :2] - 1), tf.int32), 0, shape - 1)
    return low, tf.clip_by_value(tf.cast(tf.math.ceil(boxes[:, 2:] + 1), tf.int32), low + 1, shape)


def decode_mask(png: tf.Tensor, shape: tf.Tensor, name: tf.Tensor | str,
                part: tuple[tf.Tensor, tf.Tensor] | None = None) -> tf.Tensor:
    """Return the mask of an object, uint8 [h, w, 1], 0 or 1, in the whole image or in a part of it.

    Args:
        png: string [], 8-bit gray.
        shape: int32 [2], of the image.
        name: string [], what an error calls the image.
        part: the first and the end row and column, int32 [2] each; None: all of the image.

    Raises:
        tf.errors.InvalidArgumentError: it is not a PNG, or has another size than the image.
    """
    mask = tf.io.decode_png(png, channels=1)                                      # [h, w, 1]
    same = tf.debugging.Assert(tf.reduce_all(tf.shape(mask)[:2] == shape), [tf.strings.join(
        [name, ": a mask is not of the image's size, ", size_text(shape), '; convert the data again'])])
    with tf.control_dependencies([same]):
        if part is not None:      # before anything is computed: most objects are much smaller than the image
            (top, left), (bottom, right) = (tf.unstack(corner) for corner in part)
            mask = mask[top:bottom, left:right]
        return tf.minimum(mask, 1)


def size_text(shape: tf.Tensor) -> tf.Tensor:
    """Return 'height x width' for messages, string [], of a shape int32 [2 or more]."""
    return tf.strings.reduce_join(tf.strings.as_string(shape[:2]), separator=' x ')


def _corners(boxes: tf.Tensor, low: tf.Tensor, high: tf.Tensor, side: int) -> tf.Tensor:
    """Return the boxes, float32 [n, 4], with which crop_and_resize samples the centers of S x S cells.

    The op samples from corner to corner. Its coordinates are fractions of the last index of the padded part of the
    mask, from low - 1 to high.
    """
    half_cell = (boxes[:, 2:] - boxes[:, :2]) / (2 * side)
    first = tf.tile(tf.cast(low - 1, tf.float32), [1, 2])
    last = tf.tile(tf.cast(high - low + 1, tf.float32), [1, 2])
    centers = tf.concat([boxes[:, :2] + half_cell, boxes[:, 2:] - half_cell], axis=1) - .5   # in indices of pixels
    return (centers - first) / last
