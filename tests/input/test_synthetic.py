"""Batches without a data set."""
from __future__ import annotations

import numpy as np

from mrcnn_tf import config
from mrcnn_tf.input.synthetic import batch_spec, training_batch

DATA = config.load('base', ['data.max_objects=3', 'data.mask_size=28', 'data.max_proposals=5']).data
NEEDS = ('masks', 'proposals')


def test_a_batch_has_the_shapes_of_its_specification() -> None:
    spec = batch_spec(DATA, NEEDS, (32, 64), 2)
    batch = training_batch(DATA, NEEDS, (32, 64), 2, objects=2, classes=4)
    assert {name: (each.shape, each.dtype) for name, each in batch.items()} == {
        name: (each.shape, each.dtype) for name, each in spec.items()}
    assert set(batch_spec(DATA, (), (32, 64), 2)) == set(spec) - {'masks', 'proposals', 'proposals_valid'}


def test_boxes_lie_in_the_image_and_masks_are_ellipses() -> None:
    batch = {name: each.numpy() for name, each in training_batch(DATA, NEEDS, (32, 64), 2, 2, 4).items()}
    for boxes in (batch['boxes'], batch['proposals']):
        sides = (boxes[..., 2:] - boxes[..., :2]) / [32, 64]
        assert boxes.min() >= 0 and (boxes[..., 2:] <= [32, 64]).all() and .1 <= sides.min() <= sides.max() <= .5
    assert batch['valid'].tolist() == [[True, True, False]] * 2 and not batch['crowd'].any()
    assert batch['labels'].min() >= 1 and batch['labels'].max() <= 4
    assert abs(batch['masks'].mean() - np.pi / 4) < .01
