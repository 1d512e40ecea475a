"""What the parts of a detector have in common, by hand."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.detectors.branch import Branch, GroundTruth, RoIFeatures, RoIs, count, detection_spec


def test_slots_hold_objects_or_crowds() -> None:
    batch = {'boxes': tf.zeros([1, 3, 4]), 'labels': tf.constant([[1, 2, 0]]), 'sizes': tf.constant([[8., 9.]]),
             'crowd': tf.constant([[False, True, True]]), 'valid': tf.constant([[True, True, False]])}
    truth = GroundTruth.of(batch)
    assert truth.objects.numpy().tolist() == [[True, False, False]]
    assert truth.crowds.numpy().tolist() == [[False, True, False]]
    assert all(getattr(truth, name) is batch[name] for name in ('boxes', 'labels', 'sizes'))


@pytest.mark.parametrize('with_features', [False, True], ids=['boxes', 'pooled'])
def test_the_first_rois_of_each_image(with_features: bool) -> None:
    pooled = tf.reshape(tf.range(6.), [1, 3, 1, 1, 2]) if with_features else None
    flags = tf.constant([[True, False, True]])
    rois = RoIs(tf.reshape(tf.range(12.), [1, 3, 4]), tf.constant([[5, 6, 7]]), tf.constant([[1, 0, 2]]), flags, flags,
                pooled).first(2)
    assert rois.boxes.numpy().tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    assert rois.matched.numpy().tolist() == [[5, 6]] and rois.labels.numpy().tolist() == [[1, 0]]
    assert rois.positive.numpy().tolist() == rois.valid.numpy().tolist() == [[True, False]]
    assert rois.pooled is None if pooled is None else rois.pooled.numpy().ravel().tolist() == [0, 1, 2, 3]


def test_rois_are_pooled_from_the_finest_levels_and_pass_the_last_stage() -> None:
    """The RoI layer gets two of three feature maps; the last stage, where there is one, gets what it returns."""
    maps = [tf.fill([1, 1, 1, 1], value) for value in (1., 2., 4.)]

    def roi_layer(features: list[tf.Tensor], boxes: tf.Tensor) -> tf.Tensor:
        return tf.add_n(features) + boxes

    def last_stage(pooled: tf.Tensor, training: bool) -> tf.Tensor:
        return 10. * pooled if training else -pooled

    assert RoIFeatures(roi_layer, 2).pool(maps, tf.constant(.5)).numpy().item() == 3.5
    with_last_stage = RoIFeatures(roi_layer, 2, last_stage)
    assert with_last_stage.pool(maps, tf.constant(.5), training=True).numpy().item() == 35
    assert with_last_stage.pool(maps, tf.constant(.5)).numpy().item() == -3.5


def test_a_branch_keeps_the_first_of_several_views() -> None:
    branch = Branch()
    first = {'heights': tf.constant([1.])}
    assert branch.merge([first, {'heights': tf.constant([3.])}], [False, True]) == first
    assert branch.needs == ()


def test_the_spec_of_detections() -> None:
    spec = {name: (each.shape.as_list(), each.dtype.name) for name, each in detection_spec(7).items()}
    assert spec == {'boxes': ([7, 4], 'float32'), 'scores': ([7], 'float32'), 'labels': ([7], 'int32'),
                    'valid': ([7], 'bool')}


def test_counts_are_float32() -> None:
    found = count(tf.constant([[True, False], [True, True]]))
    assert found.dtype == tf.float32 and np.array_equal(found, 3)
