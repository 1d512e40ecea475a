"""Resizing by hand (tests/parity compares with torchvision), canvases, and mask crops against a plain loop."""
from __future__ import annotations

import dataclasses
import fractions
import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf.config import ConfigError, DataConfig
from mrcnn_tf.input import images, records
from tests.modes import recorded


@pytest.mark.parametrize(('short_side', 'long_side'), [(384, 384), (800, 1333), (24, 40), (50, 30)])
def test_resized_shape_is_rounded_down_as_in_torchvision(short_side: int, long_side: int) -> None:
    """Its code computes scale and product in float64 and rounds down."""
    sizes = np.array(list(itertools.product([*range(1, 130, 3), 333, 334, 480, 500, 612, 999, 6000], repeat=2)))
    shapes = images.resized_shape(sizes[:, 0], sizes[:, 1], short_side, long_side).numpy().T
    for size, shape in zip(sizes.tolist(), shapes.tolist(), strict=True):
        scale = min(short_side / min(size), long_side / max(size))
        assert shape == [max(1, math.floor(side * scale)) for side in size], size
    assert images.resized_shape(334, 500, 800, 1333).numpy().tolist() == [799, 1197]     # what torchvision 0.29 gives


@pytest.mark.parametrize(('short_side', 'long_side'), [(384, 384), (800, 1333), (24, 40), (50, 30)])
def test_rounded_shape_is_exact(short_side: int, long_side: int) -> None:
    sizes = np.array(list(itertools.product([*range(1, 130, 3), 333, 480, 500, 612, 999, 6000], repeat=2)))
    shapes = images.resized_shape(sizes[:, 0], sizes[:, 1], short_side, long_side, rounded=True).numpy().T
    for size, shape in zip(sizes.tolist(), shapes.tolist(), strict=True):
        scale = min(fractions.Fraction(short_side, min(size)), fractions.Fraction(long_side, max(size)))
        assert shape == [max(1, math.floor(side * scale + fractions.Fraction(1, 2))) for side in size], size


def test_resized_shape_is_at_least_one_pixel() -> None:
    shape = images.resized_shape(tf.constant(2), 5000, 800, 1333)
    assert (shape.dtype, shape.numpy().tolist()) == (tf.int32, [1, 1333])


def test_resize_by_hand() -> None:
    # The centers of the four cells are at -1/4, 1/4, 3/4, 5/4 of the two pixels; the outer ones are clipped.
    image = tf.constant([0., 100.])[None, :, None] * tf.ones([1, 1, 3])
    np.testing.assert_allclose(images.resize(image, [1, 4])[0, :, 1], [0, 25, 75, 100], atol=1e-4)


def interpolated(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the bilinear interpolation between the centers of pixels, in float64, axis by axis."""
    for axis, side in enumerate(shape):
        size = image.shape[axis]
        at = np.clip((np.arange(side) + .5) * size / side - .5, 0, size - 1)
        low = at.astype(int)
        part = (at - low).reshape([-1] + [1] * (2 - axis))
        image = (1 - part) * image.take(low, axis) + part * image.take(np.minimum(low + 1, size - 1), axis)
    return image


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('shape, converted_before', [
    ((53, 83), True), ((31, 90), True), ((37, 61), True), ((61, 37), True), ((23, 40), False), ((30, 45), False),
], ids=str)
def test_resize_of_uint8(shape: tuple[int, int], converted_before: bool, antialias: bool) -> None:
    """It equals that of float32 to the last bit; only where it does not grow is there no float32 copy of it."""
    image = np.random.default_rng(0).integers(0, 256, [37, 61, 3], np.uint8)
    with recorded(images, 'as_float') as floats:
        result = images.resize(image, shape, antialias).numpy()
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, images.resize(image.astype(np.float32), shape, antialias))
    in_graph = tf.function(images.resize, autograph=False)(tf.constant(image), tf.constant(shape), antialias)
    np.testing.assert_array_equal(result, in_graph)
    if not antialias:
        np.testing.assert_allclose(result, interpolated(image, shape), rtol=0, atol=.01)
        if shape != image.shape[:2]:
            assert [tuple(each.shape[:2]) for each in floats] == [image.shape[:2]] * converted_before + [shape]


@pytest.mark.parametrize(('shape', 'expected'), [
    ([800, 1300], 0), ([832, 1344], 0), ([1300, 800], 1), ([900, 900], 2), ([600, 600], 3), ([1088, 1088], 2)],
    ids=['landscape', 'exact', 'portrait', 'square', 'small', 'exact_square'])
def test_choose_canvas_takes_the_smallest_that_holds(shape: list[int], expected: int) -> None:
    canvases = [[832, 1344], [1344, 832], [1088, 1088], [640, 640]]
    chosen = images.choose_canvas(tf.constant(shape), canvases)
    assert (chosen.dtype, chosen.numpy().tolist()) == (tf.int32, canvases[expected])


def test_check_canvases() -> None:
    for training in (True, False):
        images.check_canvases(DataConfig(), training)
    nuclei = DataConfig(short_sides=[384], long_side=384, test_short_side=384, test_long_side=384,
                        canvases=[[384, 384]])
    images.check_canvases(nuclei, training=False)
    expected = (r'^data.canvases: none of \[\[384, 384\]\] holds an image of 384 x 400, which data.test_short_side and '
                r'data.test_long_side allow; add \[384, 416\]$')
    with pytest.raises(ConfigError, match=expected):
        images.check_canvases(dataclasses.replace(nuclei, test_long_side=400), training=False)
    with pytest.raises(ConfigError, match=r'holds an image of 1333 x 800, which data.short_sides'):
        images.check_canvases(dataclasses.replace(DataConfig(), canvases=[[832, 1344]]), training=True)
    # The short side never exceeds the long side.
    images.check_canvases(dataclasses.replace(nuclei, short_sides=[500]), training=True)


def test_sizes_of_training_and_of_evaluation_are_checked_separately() -> None:
    data = DataConfig(short_sides=[64], long_side=64, canvases=[[64, 64]])     # evaluation stays at 800 / 1333
    images.check_canvases(data, training=True)
    with pytest.raises(ConfigError, match='data.test_short_side'):
        images.check_canvases(data, training=False)


@pytest.mark.parametrize(('shape', 'multiple', 'expected'), [
    ([800, 1066], 32, [800, 1088]), ([799, 1], 32, [800, 32]), ([240, 320], 1, [240, 320]), ([64, 96], 32, [64, 96])],
    ids=['one_side', 'both_sides', 'no_padding', 'multiples'])
def test_own_canvas_by_hand(shape, multiple, expected) -> None:
    assert images.own_canvas(tf.constant(shape), multiple).numpy().tolist() == expected


@pytest.mark.parametrize('dtype', [tf.uint8, tf.float32], ids=['uint8', 'float32'])
def test_a_batch_of_one_by_hand(dtype: tf.DType) -> None:
    """2 x 3 px to a short side of 4: 4 x 6, on a canvas of 5 x 10."""
    data = DataConfig(test_short_side=4, test_long_side=100, pad_multiple=5)
    batch = images.batch_of_one(tf.cast(tf.fill([2, 3, 3], 9), dtype), data)
    expected = np.repeat(np.pad(np.full([4, 6, 1], 9.), [(0, 1), (0, 4), (0, 0)]), 3, axis=2)
    np.testing.assert_array_equal(batch.pop('images'), expected[None])
    assert {key: (value.numpy().tolist(), value.dtype.name) for key, value in batch.items()} == {
        'sizes': ([[4, 6]], 'float32'), 'original_sizes': ([[2, 3]], 'int32'), 'image_ids': ([0], 'int64'),
        'image_valid': ([True], 'bool')}


@pytest.mark.parametrize('shape', [[2, 3, 3], [None, None, 3], None], ids=str)
@pytest.mark.parametrize('dtype', [tf.uint8, tf.float32], ids=['uint8', 'float32'])
@pytest.mark.parametrize('convert', [list, tf.constant], ids=['list', 'tensor'])
def test_pad_puts_zeros_right_and_below(convert: Callable, dtype: tf.DType, shape: list[int] | None) -> None:
    image, canvas = tf.cast(tf.reshape(tf.range(1, 19), [2, 3, 3]), dtype), convert([4, 5])
    in_graph = tf.function(lambda image: images.pad(image, canvas), [tf.TensorSpec(shape, dtype)], autograph=False)
    for found in (images.pad(image, canvas), in_graph(image)):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.pad(image, [(0, 2), (0, 2), (0, 0)]))


def test_pad_to_whole_numbers_has_a_static_shape() -> None:
    dataset = tf.data.Dataset.from_tensors(np.zeros([2, 3, 3])).map(lambda image: images.pad(image, [32, 64]))
    assert dataset.element_spec.shape == [32, 64, 3]


def encode_masks(masks: Iterable[np.ndarray]) -> tf.Tensor:
    return tf.constant([records.encode_mask(mask) for mask in masks])


def crop_by_loop(mask: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """Return the crop, sample by sample, in float64."""
    crop = np.zeros([side, side])
    for i, j in np.ndindex(side, side):
        y = np.clip(box[0] + (i + .5) * (box[2] - box[0]) / side - .5, 0, mask.shape[0] - 1)
        x = np.clip(box[1] + (j + .5) * (box[3] - box[1]) / side - .5, 0, mask.shape[1] - 1)
        for row, column in itertools.product((math.floor(y), math.ceil(y)), (math.floor(x), math.ceil(x))):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            # If y is an integer, floor and ceil are the same pixel: count it once.
            crop[i, j] += weight / (1 + (y == math.floor(y))) / (1 + (x == math.floor(x))) * mask[row, column]
    return crop


def test_crop_masks_by_hand() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]])
    boxes = [[0, 0, 3, 4], [0, 0, 2, 2], [1, 2, 3, 4]]
    crops = images.crop_masks(encode_masks([mask] * 3), np.float32(boxes), tf.constant([3, 4]), 2).numpy()
    # Box of 2 x 2 px, two cells: the pixels themselves. Box of 3 x 4: rows 1/4 and 7/4, columns 1/2 and 5/2.
    np.testing.assert_array_equal(crops[1], [[255, 255], [255, 0]])
    np.testing.assert_array_equal(crops[2], [[0, 255], [255, 255]])
    expected = [[.75 * 1 + .25 * .5, .75 * 0 + .25 * .5], [.25 * .5 + .75 * 0, .25 * .5 + .75 * 1]]
    np.testing.assert_allclose(crops[0] / 255, expected, atol=.5 / 255)


def test_crop_masks_equals_a_loop_over_the_samples() -> None:
    generator = np.random.default_rng(3)
    masks = (generator.random([7, 17, 23]) < .5).astype(np.uint8)
    boxes = np.float32([[0, 0, 17, 23], [0, 0, 1, 1], [16, 22, 17, 23], [3.3, 4.4, 3.9, 20.1], [0.2, 0.1, 16.9, 0.6],
                        [5, 5, 12, 12], [2.5, 7.25, 15.125, 22.75]])
    crops = images.crop_masks(encode_masks(masks), boxes, tf.constant([17, 23]), 7)
    assert crops.dtype == tf.uint8
    expected = [crop_by_loop(mask, box.astype(np.float64), 7) for mask, box in zip(masks, boxes, strict=True)]
    np.testing.assert_allclose(crops.numpy() / 255, expected, atol=.51 / 255)


def test_crop_masks_is_full_up_to_the_border_of_the_image() -> None:
    whole = tf.constant([[0., 0., 5., 6.]])
    crops = images.crop_masks(encode_masks([np.ones([5, 6])]), whole, tf.constant([5, 6]), 112)
    np.testing.assert_array_equal(crops, np.full([1, 112, 112], 255))


def test_crop_masks_without_objects() -> None:
    mask, box = records.encode_mask(np.ones([5, 6])), tf.constant([[0., 0., 5., 6.]])
    dataset = tf.data.Dataset.range(2).map(      # zero and one object
        lambda n: images.crop_masks(tf.fill([n], mask), tf.repeat(box, n, axis=0), tf.constant([5, 6]), 9))
    assert dataset.element_spec == tf.TensorSpec([None, 9, 9], tf.uint8)
    assert [crops.shape for crops in dataset] == [[0, 9, 9], [1, 9, 9]]


def test_crop_masks_refuses_a_mask_of_another_size() -> None:
    masks, box = encode_masks([np.ones([6, 5])]), tf.constant([[0., 0., 5., 6.]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="photo 7: a mask is not of the image's size, 5 x 6; conv"):
        images.crop_masks(masks, box, tf.constant([5, 6]), 4, 'photo 7')


@pytest.mark.parametrize(('size', 'expected'), [
    ((480, 640), (800, 1067)),                  # 640 * 5 / 3 = 1066.67
    ((427, 640), (800, 1199)),                  # 1199.06
    ((333, 500), (800, 1201)),                  # 1201.2
    ((300, 900), (444, 1333)),                  # limited by the long side: 300 * 1333 / 900 = 444.33
    ((301, 602), (667, 1333))],                 # 666.5: halves up
    ids=['up', 'down', 'nearest', 'long_side', 'half'])
def test_sides_to_the_nearest_pixel(size, expected) -> None:
    """int(side * scale + 0.5), as in Detectron2's ResizeShortestEdge."""
    assert images.resized_shape(*size, 800, 1333, rounded=True).numpy().tolist() == list(expected)


@pytest.mark.parametrize('shape', [(30, 41), (97, 130), (200, 260), (97, 300)],
                         ids=['down', 'same_size', 'up', 'wider'])
def test_antialiased_resize_equals_pillow(shape) -> None:
    """Pillow's fixed-point arithmetic may round the other way if the exact value is a half."""
    image = np.random.default_rng(0).integers(0, 256, (97, 130, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR), np.float32)
    ours = images.resize(tf.constant(image, tf.float32), tf.constant(shape), antialias=True)
    assert np.abs(ours - expected).max() <= 1.
    assert (ours != expected).numpy().mean() < .02
    if shape == (30, 41):
        assert np.abs(images.resize(tf.constant(image, tf.float32), tf.constant(shape)) - expected).mean() > 20
