"""A transform moves or drops all that belongs together: image, boxes, masks, labels, flags and proposals."""
from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.input import images, records, transforms
from mrcnn_tf.input.dataset import training_dataset
from mrcnn_tf.input.transforms import Sample
from tests.input.small_sets import config, example, png, take, thing, write_set

Flip = Callable[[Sample], Sample]


def sample() -> Sample:
    """2 x 3 px, two objects, crops of 2 x 2."""
    image = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    return Sample(tf.constant(image), tf.constant([[0., 0., 1., 2.], [.5, 1., 2., 3.]]), tf.constant([4, 9]),
                  tf.constant([False, True]), tf.constant([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], tf.uint8),
                  tf.constant([True, False]), tf.constant([[0., 1., 2., 1.5]]))


def empty() -> Sample:
    return sample().keep(tf.constant([False, False]))._replace(proposals=tf.zeros([0, 4]))


def bare() -> Sample:
    """Two objects without masks, and no proposals."""
    return sample()._replace(masks=None, has_mask=None, proposals=None)


def assert_equal(first: Sample, second: Sample) -> None:
    for name, a, b in zip(Sample._fields, first, second, strict=True):
        if a is None or b is None:
            assert a is b, name
        else:
            np.testing.assert_array_equal(a, b, name)


def test_flip_horizontal_by_hand() -> None:
    flipped = transforms.flip_horizontal(sample())
    np.testing.assert_array_equal(flipped.image[..., 0], [[6, 3, 0], [15, 12, 9]])
    np.testing.assert_array_equal(flipped.boxes, [[0, 1, 1, 3], [.5, 0, 2, 2]])
    np.testing.assert_array_equal(flipped.masks, [[[2, 1], [4, 3]], [[6, 5], [8, 7]]])
    np.testing.assert_array_equal(flipped.proposals, [[0, 1.5, 2, 2]])


def test_flip_vertical_by_hand() -> None:
    flipped = transforms.flip_vertical(sample())
    np.testing.assert_array_equal(flipped.image[..., 0], [[9, 12, 15], [0, 3, 6]])
    np.testing.assert_array_equal(flipped.boxes, [[1, 0, 2, 2], [0, 1, 1.5, 3]])
    np.testing.assert_array_equal(flipped.masks, [[[3, 4], [1, 2]], [[7, 8], [5, 6]]])
    np.testing.assert_array_equal(flipped.proposals, [[0, 1, 2, 1.5]])


@pytest.mark.parametrize('flip', [transforms.flip_horizontal, transforms.flip_vertical],
                         ids=['horizontal', 'vertical'])
@pytest.mark.parametrize('make', [sample, empty, bare])
def test_flipping_twice_is_the_identity(flip: Flip, make: Callable[[], Sample]) -> None:
    assert_equal(flip(flip(make())), make())


@pytest.mark.parametrize(('flip', 'axis'), [(transforms.flip_horizontal, 1), (transforms.flip_vertical, 0)])
def test_flipped_crop_is_the_crop_of_the_flipped_mask(flip: Flip, axis: int) -> None:
    mask = np.random.default_rng(1).random([11, 14]) < .5
    box = tf.constant([[1.25, 2.5, 9.75, 13.]])

    def crop(pixels: np.ndarray, boxes: tf.Tensor) -> tf.Tensor:
        return images.crop_masks(tf.constant([records.encode_mask(pixels)]), boxes, tf.constant([11, 14]), 6)

    flipped = flip(Sample(tf.zeros([11, 14, 3]), box, tf.constant([1]), tf.constant([False]), crop(mask, box)))
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


def test_resize_by_hand() -> None:
    """Twice as high, three times as wide: boxes and proposals move, all else of the objects stays."""
    resized = transforms.resize(sample(), tf.constant([4, 9]))
    assert resized.image.shape == [4, 9, 3]
    assert_equal(resized, sample()._replace(image=resized.image, boxes=[[0, 0, 2, 6], [1, 3, 4, 9]],
                                            proposals=[[0, 3, 4, 4.5]]))


def test_resize_without_objects() -> None:
    resized = transforms.resize(empty(), tf.constant([4, 6]))
    assert (resized.image.shape, resized.boxes.shape, resized.masks.shape) == ([4, 6, 3], [0, 4], [0, 2, 2])


@pytest.mark.parametrize(('horizontal', 'vertical', 'expected'), [
    (0., 0., lambda s: s), (1., 0., transforms.flip_horizontal), (0., 1., transforms.flip_vertical),
    (1., 1., lambda s: transforms.flip_vertical(transforms.flip_horizontal(s)))],
    ids=['none', 'horizontal', 'vertical', 'both'])
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


def test_random_side_samples_all_sides() -> None:
    sides = [int(side) for side in tf.data.Dataset.range(300).map(
        lambda n: transforms.random_side(tf.stack([tf.constant(0, tf.int64), n]), [640, 672, 704]))]
    counts = collections.Counter(sides)
    # 100 each expected; five standard deviations of 8.2.
    assert set(counts) == {640, 672, 704} and max(counts.values()) < 141, counts


def test_the_seeds_of_two_steps_are_independent() -> None:
    def both(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        first, second = (transforms.step_seed(tf.stack([tf.constant(0, tf.int64), number]), step) for step in (0, 1))
        return (transforms.random_side(first, [0, 1]),
                transforms.random_flips(sample(), second, .5, 0.).image[0, 0, 0] > 0)

    pairs = collections.Counter((int(side), bool(flipped)) for side, flipped in tf.data.Dataset.range(200).map(both))
    assert len(pairs) == 4 and min(pairs.values()) > 20, pairs      # 50 each expected, deviation 6


def test_the_position_of_a_transform_determines_its_seed() -> None:
    def note(given: Sample, seed: tf.Tensor) -> Sample:
        seeds.append(seed.numpy().tolist())
        return given

    seeds: list[list[int]] = []
    transforms.apply([note, note, note], sample(), tf.constant([1, 2], tf.int64))
    transforms.apply([note], sample(), tf.constant([1, 2], tf.int64), first=2)
    assert seeds[3] == seeds[2] and len({tuple(each) for each in seeds}) == 3


# A transform of a user's own, in the pipeline ------------------------------------------------------------------------

def random_crop(sample: Sample, seed: tf.Tensor) -> Sample:
    """Cut out a window of 3/4 of the height and width, and drop the objects that do not lie inside it."""
    size = tf.cast(tf.shape(sample.image)[:2], tf.float32)
    window = tf.floor(size * .75)
    corner = tf.floor(tf.random.stateless_uniform([2], seed) * (size - window + 1))
    (y, x), (height, width) = (tf.unstack(tf.cast(v, tf.int32)) for v in (corner, window))
    moved = sample.move(lambda boxes: boxes - tf.tile(corner, [2]))
    inside = tf.reduce_all((moved.boxes[:, :2] >= 0) & (moved.boxes[:, 2:] <= window), axis=1)
    return moved._replace(image=sample.image[y:y + height, x:x + width]).keep(inside)


def numbered(folder: pathlib.Path) -> str:
    """A set of one image whose pixels count from 0, with three different objects and two proposals."""
    whole, none = (records.encode_mask(np.full([8, 16], value)) for value in (1, 0))
    objects = [thing((1, 1, 4, 4), label=1),
               dataclasses.replace(thing((4, 8, 7, 15), label=2, crowd=True), mask=whole),
               dataclasses.replace(thing((2, 4, 5, 9), label=1), mask=none, has_mask=False)]
    proposals = records.Proposals(np.float32([[0, 0, 8, 16], [3, 4, 5, 6]]), np.float32([.9, .8]))
    pixels = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)
    image = dataclasses.replace(example(1, objects), encoded=png(pixels), proposals=proposals)
    return write_set(folder, [image], shards=1, has_proposals=True)


def cropped(path: str, **settings: Any) -> Iterator[dict[str, np.ndarray]]:
    """24 images of the set, each cropped."""
    chosen = config(batch_size=4, short_sides=[8], long_side=16, canvases=[[16, 16]], max_proposals=2, **settings)
    for batch in take(training_dataset(path, chosen, needs=['masks', 'proposals'], transforms=[random_crop]), 6):
        yield from ({key: value[i] for key, value in batch.items()} for i in range(4))


def test_a_random_crop_of_your_own_drops_objects(tmp_path: pathlib.Path) -> None:
    """The first pixel shows where the window lies; a dropped object loses its label, flags and mask with its box."""
    boxes = np.float32([[1, 1, 4, 4], [4, 8, 7, 15], [2, 4, 5, 9]])
    corners = set()
    for entry in cropped(numbered(tmp_path)):
        corner = divmod(int(entry['images'][0, 0, 0]), 16)
        corners.add(corner)
        np.testing.assert_array_equal(entry['sizes'], [6, 12])
        np.testing.assert_array_equal(entry['images'][:6, :12, 0], np.add.outer(
            16 * (corner[0] + np.arange(6)), corner[1] + np.arange(12)))
        moved = boxes - np.tile(np.float32(corner), 2)
        kept = [i for i in range(3) if (moved[i] >= 0).all() and (moved[i] <= [6, 12, 6, 12]).all()]
        rest = 3 - len(kept)
        np.testing.assert_array_equal(entry['boxes'], np.pad(moved[kept], [(0, rest), (0, 0)]))
        assert entry['valid'].tolist() == [True] * len(kept) + [False] * rest
        assert entry['labels'].tolist() == [[1, 2, 1][i] for i in kept] + [0] * rest
        assert entry['crowd'].tolist() == [i == 1 for i in kept] + [False] * rest
        assert entry['has_mask'].tolist() == [i != 2 for i in kept] + [False] * rest
        # The first object fills the upper part of its box, the second all of it; the third has no mask.
        assert [mask.any() for mask in entry['masks']] == [i != 2 for i in kept] + [False] * rest
        assert [mask.all() for mask in entry['masks']] == [i == 1 for i in kept] + [False] * rest
        np.testing.assert_array_equal(
            entry['proposals'], np.float32([[0, 0, 8, 16], [3, 4, 5, 6]]) - np.tile(np.float32(corner), 2))
        assert entry['proposals_valid'].all()
    kept = {(y <= 1 and x <= 1, y >= 1 and x >= 3) for y, x in corners}      # the first object, the second
    assert kept == {(True, False), (False, True), (False, False)}


def test_a_transform_must_return_what_it_gets(tmp_path: pathlib.Path) -> None:
    path = numbered(tmp_path)

    def halved(sample: Sample, seed: tf.Tensor) -> Sample:
        return sample._replace(image=tf.cast(sample.image / 2, tf.uint8))

    message = '^transform halved: it got image float32, boxes .* and returned image uint8, boxes .*; return a Sample'
    with pytest.raises(transforms.TransformError, match=message):
        training_dataset(path, config(), transforms=[halved])
