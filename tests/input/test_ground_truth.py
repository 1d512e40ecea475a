"""`ground_truth` yields the annotations of each image as they were written."""
from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from mrcnn_tf.input.ground_truth import ground_truth
from tests.input.small_sets import example, thing, write_set


def test_ground_truth_is_what_was_written(tmp_path: pathlib.Path) -> None:
    objects = [thing((1.25, 2.5, 5, 8), 2), thing((0, 0, 8, 16), 1, crowd=True)] * 3      # more than max_objects
    path = write_set(tmp_path, [example(7, objects), example(8, [])], shards=1)
    first, second = ground_truth(path)
    assert [first[key] for key in ('image_id', 'height', 'width')] == [7, 8, 16]
    np.testing.assert_array_equal(first['boxes'], [o.box for o in objects])
    np.testing.assert_array_equal(first['labels'], [2, 1] * 3)
    np.testing.assert_array_equal(first['crowd'], [False, True] * 3)
    np.testing.assert_array_equal(first['area'], [o.area for o in objects])
    np.testing.assert_array_equal(first['annotation_ids'], [1002, 1001] * 3)
    assert first['masks'] == [o.mask for o in objects]
    assert second['image_id'] == 8 and second['masks'] == [] and second['boxes'].shape == (0, 4)


def test_ground_truth_without_masks(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(1, [dataclasses.replace(thing(), mask=None)])], has_masks=False)
    assert ['masks' in record for record in ground_truth(path)] == [False]
