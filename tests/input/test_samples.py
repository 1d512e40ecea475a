"""Records, samples and the slots of a batch, by hand."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.input import records, samples
from mrcnn_tf.input.transforms import Sample
from tests.input.small_sets import png

NAME = np.array(b'a.json: image 1')


def sample() -> Sample:
    """2 x 3 px, two objects with masks of 2 x 2 cells, one proposal."""
    return Sample(tf.ones([2, 3, 3]), tf.constant([[0., 0., 1., 2.], [.5, 1., 2., 3.]]), tf.constant([4, 9]),
                  tf.constant([False, True]), tf.constant([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], tf.uint8),
                  tf.constant([True, False]), tf.constant([[0., 1., 2., 1.5]]))


def record(**changes: object) -> samples.Record:
    """4 x 2 px, one object in the upper half, whose mask is the left half of its box."""
    mask = np.float32([[1, 0], [1, 0], [0, 0], [0, 0]])
    values = {'encoded': png(np.full([4, 2], 7, np.uint8)), 'height': 4, 'width': 2, 'image_id': 5,
              'boxes': [[0., 0., 2., 2.]], 'labels': [2], 'crowd': [True], 'masks': [records.encode_mask(mask)],
              'has_mask': [True]}
    return {key: tf.constant(value) for key, value in {**values, **changes}.items()}


def test_the_name_and_the_size_of_an_image() -> None:
    assert samples.image_name('a.json', record()) == 'a.json: image 5'
    assert samples.original_size(record()).numpy().tolist() == [4, 2]


def test_labels_beyond_the_classes_are_refused() -> None:
    samples.check_labels(record(labels=[1, 3]), 3, NAME)
    for labels, wrong in (([1, 4, 5], 4), ([0, 1], 0)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f'a.json: image 1: label {wrong}, expected 1..3; '):
            samples.check_labels(record(labels=labels), 3, NAME)


@pytest.mark.parametrize(('slots', 'expected'), [(5, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (4, [0, 1, 2, 4]), (0, [])])
def test_the_largest_objects_are_kept_in_order_and_crowds_only_after_them(slots: int, expected: list[int]) -> None:
    """Objects 1 and 3 are crowds, of which the first is larger; of the others the third is the smallest."""
    found = samples.limit({'labels': tf.range(5), 'crowd': tf.constant([False, True, False, True, False]),
                           'area': tf.constant([9., 900., 2., 800., 3.]), 'height': tf.constant(4),
                           'proposals': tf.reshape(tf.range(12.), [3, 4])}, slots, 2)
    assert found['labels'].numpy().tolist() == expected and len(found['area']) == len(expected)
    assert found['proposals'].numpy().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and found['height'] == 4


def test_a_record_becomes_a_sample() -> None:
    found = samples.decode(record(), 2, NAME)
    assert found.image.numpy().tolist() == [[[7] * 3] * 2] * 4
    assert found.masks.numpy().tolist() == [[[255, 0]] * 2]
    assert (found.boxes.numpy().tolist(), found.labels.numpy().tolist(), found.crowd.numpy().tolist()) == (
        [[0, 0, 2, 2]], [2], [True])
    assert found.proposals is None


def test_an_image_of_another_size_than_its_record_is_refused() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match='a.json: image 1: is 4 x 2, its record says 4 x 3; conv'):
        samples.decode(record(width=3), 2, NAME)


def test_slots_are_padded_with_zeros() -> None:
    found = {key: value.numpy().tolist() for key, value in samples.slots(sample(), 3, 2).items()}
    assert found == {
        'boxes': [[0, 0, 1, 2], [.5, 1, 2, 3], [0] * 4], 'labels': [4, 9, 0], 'crowd': [False, True, False],
        'valid': [True, True, False], 'masks': [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[0, 0]] * 2],
        'has_mask': [True, False, False], 'proposals': [[0, 1, 2, 1.5], [0] * 4], 'proposals_valid': [True, False]}
    bare = sample()._replace(masks=None, has_mask=None, proposals=None)
    assert set(samples.slots(bare, 3, 2)) == {'boxes', 'labels', 'crowd', 'valid'}


@pytest.mark.parametrize(('change', 'message'), [
    (lambda s: s._replace(boxes=s.boxes[:1]), 'boxes, labels, crowd, masks and has_mask differ in length; drop objects '
                                              'with Sample.keep'),
    (lambda s: s._replace(image=tf.tile(s.image, [2, 1, 1])), 'it is 4 x 3, larger than its canvas; crop it'),
    (lambda s: s._replace(proposals=tf.zeros([4, 4])), 'it has 2 objects and 4 proposals; raise data.max_objects or ')],
    ids=['lengths', 'image', 'proposals'])
def test_a_sample_that_fits_no_batch_is_named(change: Callable[[Sample], Sample], message: str) -> None:
    for found, expected in zip(samples.checked(sample(), [2, 4], (3, 3), NAME), sample(), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f'a.json: image 1: after the transforms {message}'):
        samples.checked(change(sample()), [2, 4], (3, 3), NAME)
