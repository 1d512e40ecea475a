"""Each transform moves image, boxes and masks together."""
from __future__ import annotations

import collections
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.input import images, records, transforms
from mrcnn_tf.input.transforms import Sample

Flip = Callable[[Sample], Sample]


def sample() -> Sample:
    """2 x 3 px, two objects, crops of 2 x 2."""
    image = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    return Sample(tf.constant(image), tf.constant([[0., 0., 1., 2.], [.5, 1., 2., 3.]]),
                  tf.constant([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], tf.uint8))


def empty() -> Sample:
    return Sample(tf.ones([2, 3, 3]), tf.zeros([0, 4]), tf.zeros([0, 2, 2], tf.uint8))


def assert_equal(first: Sample, second: Sample) -> None:
    for name, a, b in zip(Sample._fields, first, second, strict=True):
        np.testing.assert_array_equal(a, b, name)


def test_flip_horizontal_by_hand() -> None:
    flipped = transforms.flip_horizontal(sample())
    np.testing.assert_array_equal(flipped.image[..., 0], [[6, 3, 0], [15, 12, 9]])
    np.testing.assert_array_equal(flipped.boxes, [[0, 1, 1, 3], [.5, 0, 2, 2]])
    np.testing.assert_array_equal(flipped.masks, [[[2, 1], [4, 3]], [[6, 5], [8, 7]]])


def test_flip_vertical_by_hand() -> None:
    flipped = transforms.flip_vertical(sample())
    np.testing.assert_array_equal(flipped.image[..., 0], [[9, 12, 15], [0, 3, 6]])
    np.testing.assert_array_equal(flipped.boxes, [[1, 0, 2, 2], [0, 1, 1.5, 3]])
    np.testing.assert_array_equal(flipped.masks, [[[3, 4], [1, 2]], [[7, 8], [5, 6]]])


@pytest.mark.parametrize('flip', [transforms.flip_horizontal, transforms.flip_vertical])
@pytest.mark.parametrize('make', [sample, empty, lambda: sample()._replace(masks=None)])
def test_flipping_twice_is_the_identity(flip: Flip, make: Callable[[], Sample]) -> None:
    assert_equal(flip(flip(make())), make())


@pytest.mark.parametrize(('flip', 'axis'), [(transforms.flip_horizontal, 1), (transforms.flip_vertical, 0)])
def test_flipped_crop_is_the_crop_of_the_flipped_mask(flip: Flip, axis: int) -> None:
    mask = np.random.default_rng(1).random([11, 14]) < .5
    box = tf.constant([[1.25, 2.5, 9.75, 13.]])

    def crop(pixels: np.ndarray, boxes: tf.Tensor) -> tf.Tensor:
        return images.crop_masks(tf.constant([records.encode_mask(pixels)]), boxes, tf.constant([11, 14]), 6)

    flipped = flip(Sample(tf.zeros([11, 14, 3]), box, crop(mask, box)))
    expected = crop(np.flip(mask, axis), flipped.boxes)
    np.testing.assert_allclose(flipped.masks.numpy().astype(int), expected.numpy().astype(int), atol=1)


@pytest.mark.parametrize('name', ['up', 'down'])
def test_crops_hold_for_the_resized_image(ops_kit: dict[str, np.ndarray], name: str) -> None:
    def crop(mask: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        crops = images.crop_masks(tf.constant([records.encode_mask(mask)]), boxes, tf.constant(mask.shape), 8)
        return crops.numpy()[0] / 255

    for mask, resized in zip(ops_kit['resize_masks'], ops_kit[f'resize_masks_{name}'], strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = np.float32([[rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]])
        scale = np.tile(np.float32(resized.shape) / np.float32(mask.shape), 2)
        # The reference resizes masks by nearest neighbour, so that edges move by up to half a pixel.
        assert np.abs(crop(mask, box) - crop(resized, box * scale)).mean() < .1


def test_resize_without_objects() -> None:
    resized = transforms.resize(empty(), tf.constant([4, 6]))
    assert (resized.image.shape, resized.boxes.shape, resized.masks.shape) == ([4, 6, 3], [0, 4], [0, 2, 2])


@pytest.mark.parametrize(('horizontal', 'vertical', 'expected'), [
    (0., 0., lambda s: s), (1., 0., transforms.flip_horizontal), (0., 1., transforms.flip_vertical),
    (1., 1., lambda s: transforms.flip_vertical(transforms.flip_horizontal(s)))])
def test_certain_flips(horizontal: float, vertical: float, expected: Flip) -> None:
    for number in range(5):
        flipped = transforms.random_flips(sample(), tf.constant([0, number], tf.int64), horizontal, vertical)
        assert_equal(flipped, expected(sample()))


def test_random_flips_are_independent_and_fixed_by_the_seed() -> None:
    def first_pixels(start: int) -> list[float]:
        numbers = tf.data.Dataset.range(start, 400).map(lambda n: transforms.random_flips(
            sample(), tf.stack([tf.constant(5, tf.int64), n]), .5, .25).image[0, 0, 0])
        return [float(v) for v in numbers]

    pixels = first_pixels(0)
    assert first_pixels(300) == pixels[300:]
    counts = collections.Counter(pixels)      # pixel 0 stays, 6 came from the right, 9 from below, 15 from both
    # Of 400: 150, 150, 50, 50 expected; five standard deviations (at most 9.7) either way.
    for pixel, expected in {0.: 150, 6.: 150, 9.: 50, 15.: 50}.items():
        assert abs(counts[pixel] - expected) < 49, counts


def test_random_side_draws_all() -> None:
    sides = [int(side) for side in tf.data.Dataset.range(300).map(
        lambda n: transforms.random_side(tf.stack([tf.constant(0, tf.int64), n]), [640, 672, 704]))]
    counts = collections.Counter(sides)
    # 100 each expected; five standard deviations of 8.2.
    assert set(counts) == {640, 672, 704} and max(counts.values()) < 141, counts


def test_draws_for_sides_and_flips_differ() -> None:
    def both(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([tf.constant(0, tf.int64), number])
        return transforms.random_side(seed, [0, 1]), transforms.random_flips(sample(), seed, .5, 0.).image[0, 0, 0] > 0

    pairs = collections.Counter((int(side), bool(flipped)) for side, flipped in tf.data.Dataset.range(200).map(both))
    assert len(pairs) == 4 and min(pairs.values()) > 20, pairs      # 50 each expected, deviation 6
