"""Pictures of ground truth beside predictions."""
from __future__ import annotations

import pathlib

import numpy as np

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation.pictures import Pictures, annotated
from mrcnn_tf.input import record_reader
from tests.training.tiny import CATEGORIES, write_data


def test_the_given_images_are_drawn(tmp_path: pathlib.Path) -> None:
    write_data(tmp_path)
    pictures = Pictures(tmp_path / 'train.json', [3, 5], CATEGORIES, 'pixel_center')
    assert set(pictures.image_ids) == {3, 5}
    nothing = Instances(np.zeros([0, 4], np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    found = Instances(np.array([[4, 4, 60, 60]], np.float32), np.ones(1, np.float32), np.ones(1, np.int32))
    empty, full = pictures.draw(3, nothing), pictures.draw(3, found)
    assert empty.shape == full.shape and 1240 < empty.shape[1] <= 1280 and empty.dtype == np.uint8
    changed = np.flatnonzero((empty != full).any(axis=(0, 2)))
    assert changed.min() > 630    # only the prediction, on the right
    captions = (empty != full).any(axis=2)[:30]
    assert captions.any()    # of how many there are
    unsure = Instances(found.boxes, np.full(1, .49, np.float32), found.labels)
    assert (pictures.draw(3, unsure) == empty).all()


def test_objects_of_a_record_are_instances(tmp_path: pathlib.Path) -> None:
    write_data(tmp_path)
    records = [record_reader.decode(serialized) for _, serialized in record_reader.places(tmp_path / 'train.json')]
    instances = annotated(records[1])
    assert instances.labels.tolist() == [1, 2] and instances.masks.shape == (2, 64, 64)
    for box, mask in zip(instances.boxes, instances.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
