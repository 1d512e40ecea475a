"""Augmented images: what is pasted, hidden, ignored and dropped; the order and the numbers of a training."""
from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from mrcnn_tf.config.schema import AugmentConfig
from mrcnn_tf.input import augmentation, records
from mrcnn_tf.input.augmentation import Source
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.dataset import check, training_dataset
from mrcnn_tf.input.geometry import Placement
from mrcnn_tf.input.records import Annotated, ObjectAnnotation
from mrcnn_tf.input.transforms import Sample
from tests.input import small_sets
from tests.input.small_sets import ids, png, take, write_set

SIZE = (8, 16)
MUCH = AugmentConfig(large_scale_jitter=[.5, 1.5], rotation=20., translation=.1, brightness=.2, cutout=1, copy_paste=.5)


def settings(seed: int = 0, classes: int = 2, augment: AugmentConfig | None = None, **data: Any) -> Config:
    """Images keep their size of 8 x 16; gray is (10, 20, 30)."""
    chosen = {'short_sides': [8], 'long_side': 16, 'canvases': [[32, 32]], 'flip_horizontal': 0., 'max_objects': 4,
              'mask_size': 8, **data}
    return Config(data=DataConfig(augment=augment or AugmentConfig(), **chosen), train=TrainConfig(seed=seed),
                  model=ModelConfig(num_classes=classes, pixel_mean=[30., 20., 10.]))


def thing(y1: int, x1: int, y2: int, x2: int, label: int = 1, **changes: Any) -> ObjectAnnotation:
    """An object whose mask fills its box."""
    mask = np.zeros(SIZE)
    mask[y1:y2, x1:x2] = 1
    return dataclasses.replace(ObjectAnnotation((y1, x1, y2, x2), label, 'thing', (y2 - y1) * (x2 - x1), mask=(
        records.encode_mask(mask))), **changes)


def image(value: int, *objects: ObjectAnnotation, **changes: Any) -> Annotated:
    return dataclasses.replace(small_sets.example(value, objects), **changes)


def source(example: Annotated, masks: bool = True, proposals: bool = False) -> Source:
    record = records.parse(tf.constant(records.encode(example)), masks, proposals)
    return Source(record, tf.constant(SIZE), tf.constant('image'))


def augmented(config: Config, number: int, first: Source, second: Source | None = None) -> Sample:
    return augmentation.augment(first, second, [32, 32], config, tf.constant([config.train.seed, number], tf.int64))


@pytest.fixture
def moved_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images move right by 12 of their 16 px."""
    placed = Placement(tf.constant(SIZE), tf.constant([False, False]), tf.constant(SIZE), tf.constant([0, 12]),
                       tf.constant(SIZE), None)
    monkeypatch.setattr(augmentation, '_placement', lambda *_: placed)


# Ignored and dropped ----------------------------------------------------------------------------------------------

@pytest.mark.usefixtures('moved_right')
def test_a_mostly_cut_object_is_ignored_and_an_invisible_one_dropped() -> None:
    """Of the three objects all, 4 of 13 columns, and nothing are left."""
    objects = (thing(1, 1, 7, 3, label=1), thing(2, 0, 6, 13, label=2), thing(1, 5, 3, 8, label=1))
    config = settings(augment=AugmentConfig(min_visible=.4))
    sample = augmented(config, 0, source(image(9, *objects)))
    np.testing.assert_array_equal(sample.boxes, [[1, 13, 7, 15], [2, 12, 6, 16]])
    np.testing.assert_array_equal(sample.labels, [1, 2])
    np.testing.assert_array_equal(sample.crowd, [False, True])
    np.testing.assert_array_equal(sample.image[..., 0], np.tile([10] * 12 + [9] * 4, [8, 1]))


@pytest.mark.usefixtures('moved_right')
def test_with_min_visible_zero_every_visible_object_is_trained_on() -> None:
    config = settings(augment=AugmentConfig(min_visible=0.))
    sample = augmented(config, 0, source(image(9, thing(2, 0, 6, 16), thing(1, 5, 3, 8))))
    np.testing.assert_array_equal(sample.crowd, [False])


@pytest.mark.usefixtures('moved_right')
def test_crowds_and_proposals_follow() -> None:
    proposals = records.Proposals(np.float32([[0, 0, 8, 16], [1, 2, 3, 4], [0, 6, 2, 8]]), np.float32([.9, .8, .7]))
    example = image(9, thing(2, 0, 6, 3, crowd=True), proposals=proposals)
    sample = augmented(settings(augment=AugmentConfig(min_visible=.3)), 0, source(example, proposals=True))
    np.testing.assert_array_equal(sample.boxes, [[2, 12, 6, 15]])
    np.testing.assert_array_equal(sample.crowd, [True])
    np.testing.assert_array_equal(sample.proposals, [[1, 14, 3, 16]])      # of the first, 1/4 is left


@pytest.mark.usefixtures('moved_right')
def test_objects_without_masks() -> None:
    sample = augmented(settings(), 0, source(image(9, thing(1, 1, 7, 3)), masks=False))
    np.testing.assert_array_equal(sample.boxes, [[1, 13, 7, 15]])
    assert sample.masks is None and sample.has_mask is None and sample.proposals is None


# Copy-paste -------------------------------------------------------------------------------------------------------

BASE = image(100, thing(0, 0, 8, 6, label=1), thing(0, 10, 4, 12, label=1))
DONOR = image(200, thing(0, 3, 8, 11, label=2), thing(6, 14, 8, 16, label=2), thing(0, 12, 2, 14, label=2, crowd=True))


def pasted(count: int, base: Annotated = BASE, max_objects: int = 4, **rule: Any) -> list[Sample]:
    """Images whose first and second source are the same and whose numbers are 0 to count - 1."""
    config = settings(augment=AugmentConfig(copy_paste=1., **rule), max_objects=max_objects)
    return [augmented(config, number, source(base), source(DONOR)) for number in range(count)]


def test_pasted_objects_hide_what_they_cover() -> None:
    """Each object of the second image but its crowd is pasted or not; the large one hides half of the first object."""
    found = set()
    for sample in pasted(10):
        boxes = sample.boxes.numpy().tolist()
        large, small = [0, 3, 8, 11] in boxes, [6, 14, 8, 16] in boxes
        found.add((large, small))
        pixels = np.full(SIZE, 100.)
        pixels[:, 3:11] = 200 if large else 100
        pixels[6:, 14:] = 200 if small else 100
        np.testing.assert_array_equal(sample.image[..., 1], pixels)
        expected = [[0, 0, 8, 3], [0, 11, 4, 12]] if large else [[0, 0, 8, 6], [0, 10, 4, 12]]
        assert boxes == expected + [[0, 3, 8, 11]] * large + [[6, 14, 8, 16]] * small
        assert sample.labels.numpy().tolist() == [1, 1] + [2] * (large + small)
        assert not sample.crowd.numpy().any() and (sample.masks.numpy() > 127).mean() > .9     # corners blur
    assert all(len(set(flags)) == 2 for flags in zip(*found, strict=True))


def test_no_more_objects_are_pasted_than_slots_are_free() -> None:
    """An object without a slot is not pasted, as it would be trained on as background."""
    counts = []
    for sample in pasted(6, max_objects=3):
        counts.append(len(sample.boxes) - 2)
        assert (sample.image.numpy() == 200).any() == (counts[-1] > 0)
    assert set(counts) == {0, 1}


def test_a_covered_object_is_dropped_and_a_mostly_covered_one_ignored() -> None:
    base = image(100, thing(1, 4, 7, 10), thing(0, 2, 4, 11))        # 8 of 9 columns of the second one are covered
    for least, ignored in ((.1, False), (.2, True)):
        found = [sample for sample in pasted(5, base, min_visible=least)
                 if [0, 3, 8, 11] in sample.boxes.numpy().tolist()]
        assert found
        for sample in found:
            assert sample.boxes.numpy().tolist()[:2] == [[0, 2, 4, 3], [0, 3, 8, 11]]
            assert sample.crowd.numpy().tolist()[:2] == [ignored, False]


def test_objects_are_pasted_with_the_given_probability() -> None:
    config, first, second = settings(augment=AugmentConfig(copy_paste=.4)), source(BASE), source(DONOR)

    def chosen(number: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(0, tf.int64), number])
        placement = augmentation._placement(first, [32, 32], config.data, seed)
        return augmentation._sample_paste(first, second, placement, [32, 32], config.data, seed).chosen

    found = next(iter(tf.data.Dataset.range(200).map(chosen).batch(200).as_numpy_iterator()))
    assert 30 < found.any(axis=1).sum() < 90      # 200 * .4 * 3/4 = 60 expected, deviation 6.5
    assert not found[:, 2].any()                  # the crowd


def test_the_result_holds_both_placed_images() -> None:
    """The second image is larger than the first one: around that, the result is gray."""
    config = settings(augment=AugmentConfig(copy_paste=1., large_scale_jitter=[.4, 1.6]))
    heights = [(len(alone.image), len(both.image)) for alone, both in (
        (augmented(config, number, source(BASE)), augmented(config, number, source(BASE), source(DONOR)))
        for number in range(8))]
    assert all(both >= alone for alone, both in heights) and any(both > alone for alone, both in heights)


# Cutout -----------------------------------------------------------------------------------------------------------

def test_cutout_fills_squares_and_hides_objects() -> None:
    config = settings(augment=AugmentConfig(cutout=2, cutout_side=.5, min_visible=0.))
    for number in range(6):
        sample = augmented(config, number, source(image(99, thing(0, 0, 8, 16))))
        gray = (sample.image.numpy() == [10, 20, 30]).all(axis=-1)
        assert 0 < gray.sum() <= 2 * 16 and (sample.image.numpy()[~gray] == 99).all()
        np.testing.assert_array_equal(sample.boxes, [[
            np.flatnonzero((~gray).any(1))[0], np.flatnonzero((~gray).any(0))[0],
            np.flatnonzero((~gray).any(1))[-1] + 1, np.flatnonzero((~gray).any(0))[-1] + 1]])
        inside = (sample.masks.numpy()[0] > 127).mean()
        assert abs(inside - (1 - gray.mean())) < .15


# In the pipeline --------------------------------------------------------------------------------------------------

def training_set(folder: pathlib.Path, **changes: Any) -> str:
    """Six images of noise, each with two objects."""
    return write_set(folder, [noise(number) for number in range(6)], **changes)


def noise(number: int) -> Annotated:
    pixels = np.random.default_rng(number).integers(0, 255, [*SIZE, 3], np.uint8)
    return image(number, thing(1, number, 6, number + 4), thing(2, 2, 7, 9, label=2), encoded=png(pixels))


def test_a_resumed_training_augments_by_the_number_of_the_image(tmp_path: pathlib.Path) -> None:
    """The number, counted from the first step, gives the random numbers; the next image gives the pasted objects."""
    config = settings(augment=MUCH, batch_size=2, flip_horizontal=.5)
    batches = take(training_dataset(training_set(tmp_path), config, start_step=6), 4)      # two epochs of six images
    assert sorted(ids(batches)[:6]) == list(range(6))
    for place, (name, following) in enumerate(itertools.pairwise(ids(batches)[:6])):
        batch, slot = batches[place // 2], place % 2
        expected = augmented(config, 12 + place, source(noise(name)), source(noise(following)))
        height, width = expected.image.shape[:2]
        np.testing.assert_array_equal(batch['sizes'][slot], [height, width])
        np.testing.assert_allclose(batch['images'][slot, :height, :width], expected.image, atol=.01)
        for key in ('boxes', 'labels', 'crowd'):
            np.testing.assert_allclose(batch[key][slot][batch['valid'][slot]], getattr(expected, key), atol=1e-4)


def test_masks_make_turned_boxes_exact_even_without_a_mask_branch(tmp_path: pathlib.Path) -> None:
    """The number of an image is its place in the training."""
    config = settings(augment=AugmentConfig(rotation=45., min_visible=0.), batch_size=3)
    batch = take(training_dataset(training_set(tmp_path), config, needs=[]), 1)[0]
    assert 'masks' not in batch and 'has_mask' not in batch
    for number, name in enumerate(batch['image_ids'].tolist()):
        expected = augmented(config, number, source(noise(name)))
        np.testing.assert_allclose(batch['boxes'][number][batch['valid'][number]], expected.boxes, atol=1e-4)


@pytest.mark.parametrize(('changes', 'needs', 'message'), [
    ({'has_masks': False}, [], 'its objects have no masks, which data.augment.copy_paste needs; convert annotations '
                               'with masks or set data.augment.copy_paste=0'),
    ({'has_proposals': True}, ['proposals'], 'its proposals were computed without the objects that '
                                             'data.augment.copy_paste adds; set data.augment.copy_paste=0')],
    ids=['no masks', 'proposals'])
def test_copy_paste_is_refused_where_it_cannot_work(tmp_path: pathlib.Path, changes: dict[str, Any], needs: list[str],
                                                    message: str) -> None:
    path = training_set(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        check(path, settings(augment=AugmentConfig(copy_paste=.5)), needs)
    assert str(caught.value) == f'{path}: {message}'
    check(path, settings(augment=AugmentConfig(copy_paste=.5), test_short_side=8, test_long_side=16), needs,
          training=False)
