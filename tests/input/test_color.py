"""Colors equal those of Pillow's ImageEnhance and ImageOps, and hues those of colorsys."""
from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from mrcnn_tf.config.schema import AugmentConfig
from mrcnn_tf.input import color
from mrcnn_tf.input.transforms import Sample

Enhancer = ImageEnhance._Enhance

_RNG = np.random.default_rng(3)
# Noise on a gradient, of which some is black and white.
PIXELS = np.clip(_RNG.normal(0, 40, [13, 17, 3]) + np.linspace(-30, 300, 17)[None, :, None] * [1, .7, .5], 0, 255
                 ).astype(np.uint8)
DARK = (PIXELS // 8).astype(np.uint8)


def sample(pixels: np.ndarray = PIXELS) -> Sample:
    return Sample(tf.constant(pixels, tf.float32), tf.zeros([0, 4]), tf.zeros([0], tf.int32), tf.zeros([0], tf.bool))


@pytest.mark.parametrize('factor', [0., .4, 1., 1.7])
@pytest.mark.parametrize(('enhance', 'reference'), [
    (color.brightness, ImageEnhance.Brightness), (color.contrast, ImageEnhance.Contrast),
    (color.saturation, ImageEnhance.Color), (color.sharpness, ImageEnhance.Sharpness)],
    ids=['brightness', 'contrast', 'saturation', 'sharpness'])
def test_an_enhancement_equals_pillow(enhance: Callable[..., tf.Tensor], reference: Callable[..., Enhancer],
                                      factor: float) -> None:
    """To 1.5 levels: Pillow rounds the degenerate image, and rounds the result down."""
    expected = np.asarray(reference(Image.fromarray(PIXELS)).enhance(factor)).astype(float)
    np.testing.assert_allclose(enhance(tf.constant(PIXELS, tf.float32), factor), expected, atol=1.5)


@pytest.mark.parametrize('pixels', [PIXELS, DARK, np.full([13, 17, 3], 9, np.uint8), PIXELS[:2, :2],
                                    np.tile(PIXELS, [9, 9, 1]), np.tile(DARK, [9, 9, 1])],
                         ids=['noise', 'dark', 'flat', 'tiny', 'large', 'large and dark'])
def test_equalization_equals_pillow(pixels: np.ndarray) -> None:
    expected = np.asarray(ImageOps.equalize(Image.fromarray(pixels)))
    np.testing.assert_array_equal(color.equalize(tf.constant(pixels, tf.float32)), expected)


@pytest.mark.parametrize('shift', [-.5, -.1, 0., .3])
def test_a_shifted_hue_equals_colorsys(shift: float) -> None:
    expected = [colorsys.hsv_to_rgb((h + shift) % 1, s, v) for h, s, v in (
        colorsys.rgb_to_hsv(*rgb) for rgb in PIXELS.reshape(-1, 3) / 255)]
    shifted = color.hue(tf.constant(PIXELS, tf.float32), shift)
    np.testing.assert_allclose(np.reshape(shifted, [-1, 3]), np.array(expected) * 255, atol=.01)


@pytest.mark.parametrize('shape', [(1, 1), (2, 9), (9, 2)])
def test_an_image_without_inner_pixels_is_not_sharpened(shape: tuple[int, int]) -> None:
    pixels = tf.constant(PIXELS[:shape[0], :shape[1]], tf.float32)
    np.testing.assert_array_equal(color.sharpness(pixels, 0.), pixels)


def test_jitter_is_off_by_default() -> None:
    given = sample()
    assert color.jitter(given, tf.constant([0, 1], tf.int64), AugmentConfig()).image is given.image


@pytest.mark.parametrize(('field', 'strength', 'enhance'), [
    ('brightness', .5, ImageEnhance.Brightness), ('contrast', .5, ImageEnhance.Contrast),
    ('saturation', .5, ImageEnhance.Color), ('sharpness', .5, ImageEnhance.Sharpness)])
def test_the_factor_of_each_strength_is_sampled_around_one(field: str, strength: float,
                                                           enhance: Callable[..., Enhancer]) -> None:
    """The factor is found from the distances to the degenerate image and to the image itself, where nothing clips."""
    pixels = (96 + PIXELS // 4).astype(np.uint8)
    degenerate = np.asarray(enhance(Image.fromarray(pixels)).enhance(0.)).astype(float)
    change = pixels - degenerate
    factors = []
    for number in range(40):
        image = color.jitter(sample(pixels), tf.constant([0, number], tf.int64), AugmentConfig(**{field: strength}))[0]
        factors.append(((image - degenerate) * change).numpy().sum() / (change ** 2).sum())
    assert .47 < min(factors) < .65 and 1.35 < max(factors) < 1.53 and .85 < np.mean(factors) < 1.15


def test_an_image_is_equalized_with_its_probability() -> None:
    large = sample(np.tile(DARK, [2, 2, 1]))
    expected = color.equalize(large.image).numpy()
    count = sum(np.array_equal(color.jitter(
        large, tf.constant([0, number], tf.int64), AugmentConfig(equalize=.5)).image, expected)
        for number in range(60))
    assert 12 < count < 48      # 30 expected, deviation 3.9


def test_all_colors_together_stay_in_range_and_follow_the_seed() -> None:
    rule = AugmentConfig(brightness=1., contrast=1., saturation=1., hue=.5, sharpness=1., equalize=.5)

    def jitter(number: int) -> np.ndarray:
        return color.jitter(sample(), tf.constant([0, number], tf.int64), rule).image.numpy()

    pictures = [jitter(number) for number in range(5)]
    assert all(picture.min() >= 0 and picture.max() <= 255 for picture in pictures)
    np.testing.assert_array_equal(pictures[3], jitter(3))
    assert not np.array_equal(pictures[3], pictures[4])
