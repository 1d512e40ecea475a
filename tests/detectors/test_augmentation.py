"""Several views of an image: their parts by hand, and a real model's, small, that has to see the same in a mirror."""
from __future__ import annotations

import pathlib
import types
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import DataConfig, DetectionConfig, ModelConfig
from mrcnn_tf.detectors import augmentation, inference
from mrcnn_tf.detectors.augmentation import TestTimeAugmentation, View
from mrcnn_tf.detectors.box import BoxBranch
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.evaluation import run
from mrcnn_tf.input import images, record_reader
from mrcnn_tf.ops.detections import Candidates
from mrcnn_tf.serving.predictor import DetectorPredictor
from tests.detectors.small import enliven, make_batch, scale_to, small_config
from tests.training.tiny import tiny_config, write_data


def constant(values: Any) -> tf.Tensor:
    return tf.constant(values, tf.float32)


def test_a_mirror_turns_each_image_within_its_own_width() -> None:
    rows = constant([[[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 3, 0], [5, 6, 7, 0]]])
    batch = {'images': tf.tile(rows[..., None], [1, 1, 1, 3]), 'sizes': constant([[2, 4], [2, 3]]),
             'proposals': constant([[[0, 0, 1, 3]], [[0, 0, 1, 2.5]]])}
    found = augmentation.mirror(batch)
    assert found['images'][..., 0].numpy().tolist() == [[[4, 3, 2, 1], [8, 7, 6, 5]], [[3, 2, 1, 0], [7, 6, 5, 0]]]
    assert found['proposals'].numpy().tolist() == [[[0, 1, 1, 4]], [[0, .5, 1, 3]]]
    for name, value in augmentation.mirror(found).items():
        np.testing.assert_array_equal(value, batch[name])


def test_the_sizes_of_tests() -> None:
    """The long side and the canvases keep their ratio to the short side; canvases stay multiples of 32."""
    data = DataConfig(test_scales=[400, 800, 1200])
    small, same, large = augmentation.sizes_of_tests(data)
    assert (small.test_short_side, small.test_long_side, large.test_short_side, large.test_long_side) == (
        400, 666, 1200, 1999)
    assert small.canvases == [[416, 544], [544, 416], [416, 672], [672, 416]]
    assert large.canvases == [[1216, 1632], [1632, 1216], [1216, 2016], [2016, 1216]]
    assert (same.test_long_side, same.canvases) == (1333, data.canvases)
    for each in (small, same, large):
        images.check_canvases(each, training=False)
    assert augmentation.sizes_of_tests(DataConfig()) == [DataConfig()]


def view(boxes: list[list[float]], scores: list[float], size: tuple[float, float], mirrored: bool) -> View:
    """One class; all boxes count."""
    candidates = Candidates(constant(boxes)[None, :, None], constant([[1 - x, x] for x in scores])[None],
                            tf.fill([1, len(boxes)], True))
    return View(constant([size]), mirrored, [], candidates)


def test_views_are_suppressed_together_in_px_of_the_first() -> None:
    """The second view is half as large and mirrored. Its first box is [0, 2, 10, 12] in the first view, where
    [0, 0, 10, 10] with an IoU of 2/3 is less sure; its second is [20, 0, 40, 20], which the first view has not seen."""
    views = [view([[0, 0, 10, 10], [30, 30, 50, 50]], [.6, .7], (60., 80.), False),
             view([[0, 34, 5, 39], [10, 30, 20, 40]], [.9, .8], (30., 40.), True)]
    config = ModelConfig(detections=DetectionConfig(max_detections=4))
    model = types.SimpleNamespace(engine='op', box=BoxBranch(config, None, [None], 'op'), branches=[], candidates=None,
                                  inputs_read=())
    found = TestTimeAugmentation(model, DataConfig(test_flip=True)).merge(views)
    np.testing.assert_allclose(found['boxes'][0], [[0, 2, 10, 12], [20, 0, 40, 20], [30, 30, 50, 50], [0] * 4])
    np.testing.assert_allclose(found['scores'][0], [.9, .8, .7, 0], rtol=1e-6)
    assert found['labels'][0].numpy().tolist() == [1, 1, 1, 0] and 'masks' not in found
    back = views[1].own(found['boxes'], views[0].sizes)
    np.testing.assert_allclose(back[0, :2], [[0, 34, 5, 39], [10, 30, 20, 40]])


@pytest.fixture(scope='module')
def mask_rcnn() -> Detector:
    keras.utils.set_random_seed(3)
    model = build_detector(small_config(detections__score_threshold=.5))
    enliven(model, make_batch())
    return model


@pytest.fixture(scope='module')
def augmented(mask_rcnn: Detector) -> TestTimeAugmentation:
    return TestTimeAugmentation(mask_rcnn, DataConfig(test_flip=True))


def batch_of(*names: str) -> dict[str, tf.Tensor]:
    batch = make_batch()
    batch.update(proposals=batch['boxes'], proposals_valid=batch['valid'])
    return {name: batch[name] for name in ('images', 'sizes', *names)}


def test_one_view_is_what_the_model_finds(mask_rcnn: Detector, augmented: TestTimeAugmentation) -> None:
    batch = batch_of()
    expected, found = mask_rcnn(batch), augmented.merge(augmented.views(batch)[:1])
    assert expected['valid'].numpy().sum() > 3 and found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def assert_the_same_from_both_sides(augmented: TestTimeAugmentation, batch: dict[str, tf.Tensor]) -> None:
    found, other = augmented([batch]), augmented([augmentation.mirror(batch)])
    plain, valid = augmented.merge(augmented.views(batch)[:1]), found['valid'].numpy()
    assert valid.sum() > 3 and not np.allclose(found['boxes'], plain['boxes'], atol=.1)
    np.testing.assert_array_equal(other['valid'], valid)
    np.testing.assert_allclose(other['scores'], found['scores'], atol=1e-5)
    np.testing.assert_array_equal(other['labels'], found['labels'])
    mirrored = augmentation.mirror_boxes(other['boxes'], batch['sizes']).numpy()
    np.testing.assert_allclose(mirrored[valid], found['boxes'].numpy()[valid], atol=1e-3)
    if 'masks' in found:
        np.testing.assert_allclose(tf.reverse(other['masks'], [3]), found['masks'], atol=1e-4)


def test_with_its_mirror_image_an_image_is_found_the_same_from_both_sides(augmented: TestTimeAugmentation) -> None:
    assert_the_same_from_both_sides(augmented, batch_of())


def test_proposals_move_with_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, 'traced', lambda function, _: function)    # eager is faster for a few looks
    keras.utils.set_random_seed(3)
    model, batch = build_detector(small_config(kind='fast_rcnn', detections__score_threshold=.5)), make_batch()
    scores, shifts = model.box.heads[0](model.box.roi_features.roi_layer(model.features(batch)[:4],
                                                                batch['boxes']))
    scale_to(model.box.heads[0].classes, scores, 2.)
    scale_to(model.box.heads[0].deltas, shifts, 1.)
    augmented = TestTimeAugmentation(model, DataConfig(test_flip=True))
    assert_the_same_from_both_sides(augmented, batch_of('proposals', 'proposals_valid'))


def test_records_and_files_are_looked_at_in_the_same_views(
        mask_rcnn: Detector, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation and in prediction, which come to them on different ways; an answer lies within its image."""
    monkeypatch.setattr(inference, 'traced', lambda function, _: function)
    write_data(tmp_path)
    config = tiny_config(tmp_path, 'data.test_scales=[96,64]', 'data.test_flip=true', 'model.num_classes=3')
    record = record_reader.decode(next(record_reader.places(tmp_path / 'train.json'))[1])
    (tmp_path / 'a.png').write_bytes(record.encoded)
    other = DetectorPredictor(mask_rcnn, config, [])(tmp_path / 'a.png').instances
    image_id, size, found = next(run.predictions(
        augmentation.detection_function(mask_rcnn, config.data), config, tmp_path / 'train.json'))
    assert (image_id, size) == (record.image_id, (64, 64)) and len(found) > 1
    for name in ('boxes', 'scores', 'labels', 'masks'):
        np.testing.assert_allclose(getattr(other, name), getattr(found, name), atol=1e-4)
    assert found.boxes.min() >= 0 and found.boxes.max() <= 64
