"""Detections of a batch as instances of each image, and as results of COCO, by hand."""
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask

from mrcnn_tf.detectors import instances
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.input.manifest import Category

CATEGORIES = [Category(1, 7, 'cat'), Category(2, 3, 'dog')]


def test_a_batch_is_taken_apart():
    batch = {'sizes': tf.constant([[50., 90.], [50., 90.], [0., 0.]]),
             'original_sizes': tf.constant([[100, 270], [50, 90], [0, 0]]),
             'image_ids': tf.constant([42, 5, 0], tf.int64), 'image_valid': tf.constant([True, True, False])}
    # two times in y, three in x; the second reaches beyond the canvas, the third is not valid
    boxes = [[[1, 2, 3, 4], [-5, 80, 60, 95], [9, 9, 9, 9]], [[1, 2, 3, 4]] * 3, [[0] * 4] * 3]
    detections = {'boxes': tf.constant(boxes, tf.float32), 'scores': tf.constant([[.9, .8, 0], [.7, 0, 0], [0, 0, 0]]),
                  'labels': tf.constant([[1, 2, 0], [2, 0, 0], [0, 0, 0]]),
                  'valid': tf.constant([[True, True, False], [True, False, False], [False] * 3]),
                  'masks': tf.random.stateless_uniform([3, 3, 28, 28], [1, 2])}
    first, second = instances.split_batch(detections, batch)
    assert first[:2] == (42, (100, 270)) and second[:2] == (5, (50, 90))
    assert first[2].boxes.tolist() == [[2, 6, 6, 12], [0, 240, 100, 270]] and first[2].boxes.dtype == np.float32
    assert first[2].scores.tolist() == [np.float32(.9), np.float32(.8)] and first[2].labels.tolist() == [1, 2]
    assert (first[2].masks == detections['masks'][0, :2]).numpy().all()
    assert second[2].boxes.tolist() == [[1, 2, 3, 4]] and len(second[2]) == 1


def test_a_batch_without_masks_and_objects():
    batch = {'sizes': np.array([[8., 8.]]), 'original_sizes': np.array([[4, 4]]), 'image_ids': np.array([1]),
             'image_valid': np.array([True])}
    detections = {'boxes': np.zeros((1, 2, 4), np.float32), 'scores': np.zeros((1, 2), np.float32),
                  'labels': np.zeros((1, 2), np.int32), 'valid': np.zeros((1, 2), bool)}
    (_, _, found), = instances.split_batch(detections, batch)
    assert len(found) == 0 and found.masks is None and instances.to_coco(found, (4, 4), CATEGORIES, 'detectron') == []


def test_choosing_instances():
    masks = np.random.default_rng(0).random((3, 28, 28))
    all_three = Instances(np.arange(12.).reshape(3, 4), np.array([.9, .5, .1]), np.array([1, 2, 3]), masks)
    two = all_three[all_three.scores >= .5]
    assert len(two) == 2 and two.labels.tolist() == [1, 2] and (two.masks == masks[:2]).all()
    assert all_three[[2, 0]].boxes[:, 0].tolist() == [8, 0]
    assert dataclasses.replace(all_three, masks=None)[:1].masks is None


def test_cocos_form():
    # 0.1 and 33.3 as float32 are 0.10000000149, 33.299999237: written as what was meant
    found = Instances(np.array([[.1, 2, 33.3, 4.5]], np.float32), np.array([.7], np.float32), np.array([2], np.int32),
                      np.ones((1, 28, 28), np.float32))
    result, = instances.to_coco(found, (40, 20), CATEGORIES, 'pixel_center')
    assert (result['category_id'], result['bbox'], result['score']) == (3, [2.0, .1, 2.5, 33.2], .7)
    mask = np.zeros((40, 20), np.uint8)
    mask[0:33, 2:4] = 1    # pixels whose centres lie in the box; the edge at 4.5 is a centre, of half a cell
    mask[0:33, 4] = 1
    decoded = coco_mask.decode(result['segmentation'])
    inner = np.s_[1:32]    # at the ends of the box both weights are below one, and the corners fall off
    assert (decoded[inner] == mask[inner]).all() and not decoded[33:].any()
    assert json.loads(json.dumps(result)) == result


def test_masks_of_whole_images_are_kept_as_they_are():
    mask = np.zeros((1, 6, 5), bool)
    mask[0, 2, 3] = True
    found = Instances(np.array([[0., 0, 1, 1]]), np.array([1.]), np.array([1]), mask)
    only, = found.image_masks(6, 5, 'detectron')
    assert only.dtype == np.uint8 and (only == mask[0]).all()
    together = found.all_image_masks(6, 5, 'detectron')
    assert together is not mask and (together == mask).all()


@pytest.mark.parametrize('label', [0, 3])
def test_a_label_without_category(label):
    found = Instances(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([label]))
    with pytest.raises(ValueError, match=f'label {label}: the model has categories 1..2'):
        instances.to_coco(found, (4, 4), CATEGORIES, 'pixel_center')
