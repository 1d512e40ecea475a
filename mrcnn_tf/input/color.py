"""Colors of augmentation: brightness, contrast, saturation, hue, sharpness and histogram equalization.

An image is float32 [h, w, 3], RGB 0..255. Functions with a factor do what the classes of Pillow's ImageEnhance do: they
interpolate between a degenerate image (factor 0) and the image (factor 1), or extrapolate, and clip to 0..255.
"""
from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mrcnn_tf.config.schema import AugmentConfig
from mrcnn_tf.input import transforms
from mrcnn_tf.input.transforms import Sample

_LUMA = (0.299, 0.587, 0.114)    # of R, G, B: ITU-R 601, as Pillow's mode L
_LEVELS = 256


def brightness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Return a brighter (factor above 1) or darker image, as ImageEnhance.Brightness; 0 gives black."""
    return _blend(tf.zeros_like(image), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Return an image of more or less contrast, as ImageEnhance.Contrast; 0 gives the mean gray."""
    return _blend(tf.floor(tf.reduce_mean(_gray(image)) + .5), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Return a more or less colorful image, as ImageEnhance.Color; 0 gives a gray image."""
    return _blend(_gray(image), image, factor)


def hue(image: tf.Tensor, shift: tf.Tensor | float) -> tf.Tensor:
    """Return the image with each hue shifted by a fraction of the color circle, -0.5..0.5."""
    return tf.image.adjust_hue(image / 255., shift) * 255.


def sharpness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Return a sharper or blurred image, as ImageEnhance.Sharpness; 0 smooths it. Pixels on the border stay.

    The smoothed image averages 3 x 3 pixels, of which the middle one counts five times.
    """
    def sharpened() -> tf.Tensor:
        rows = image[:-2] + image[1:-1] + image[2:]
        total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]                         # [h - 2, w - 2, 3]
        middle = image[1:-1, 1:-1]
        inner = _blend((total + 4 * middle) / 13, middle, factor)
        body = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
        return tf.concat([image[:1], body, image[-1:]], axis=0)

    return tf.cond(tf.reduce_all(tf.shape(image)[:2] > 2), sharpened, lambda: image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Return the image with a nearly uniform histogram of each color, in whole numbers, as ImageOps.equalize."""
    levels = tf.cast(tf.round(image), tf.int32)
    return tf.stack([_equalized(channel) for channel in tf.unstack(levels, axis=2)], axis=2)


def jitter(sample: Sample, seed: tf.Tensor, rule: AugmentConfig) -> Sample:
    """Return the sample with random colors, in the order of the module's functions; a transform.

    Args:
        sample: whose image changes.
        seed: int64 [2].
        rule: the strengths, and the probability of equalization.
    """
    numbers, image = transforms.uniform(seed, 6), sample.image
    enhancers: list[tuple[Callable[..., tf.Tensor], float]] = [
        (brightness, rule.brightness), (contrast, rule.contrast), (saturation, rule.saturation)]
    for i, (enhance, strength) in enumerate(enhancers):
        if strength:
            image = enhance(image, 1 + (2 * numbers[i] - 1) * strength)
    if rule.hue:
        image = hue(image, (2 * numbers[3] - 1) * rule.hue)
    if rule.sharpness:
        image = sharpness(image, 1 + (2 * numbers[4] - 1) * rule.sharpness)
    if rule.equalize:
        image = tf.cond(numbers[5] < rule.equalize, lambda: equalize(image), lambda: image)
    return sample._replace(image=image)


def _blend(degenerate: tf.Tensor, image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    return tf.clip_by_value(degenerate + (image - degenerate) * factor, 0., 255.)


def _gray(image: tf.Tensor) -> tf.Tensor:
    """Return the luma of each pixel, [h, w, 1]."""
    return tf.reduce_sum(image * tf.constant(_LUMA), axis=2, keepdims=True)


def _equalized(levels: tf.Tensor) -> tf.Tensor:
    """Return a channel, int32 [h, w], 0..255, equalized, float32."""
    histogram = tf.math.bincount(tf.reshape(levels, [-1]), minlength=_LEVELS, maxlength=_LEVELS)
    highest = tf.gather(histogram, tf.reduce_max(levels))
    step = (tf.reduce_sum(histogram) - highest) // (_LEVELS - 1)
    table = (step // 2 + tf.cumsum(histogram, exclusive=True)) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, _LEVELS - 1), tf.range(_LEVELS))
    return tf.cast(tf.gather(table, levels), tf.float32)
