"""A branch of one's own, `keypoints.py`: trained, used, saved and exported without an edit in the package."""
from __future__ import annotations

import io
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import mrcnn_tf as m
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.augmentation import TestTimeAugmentation
from mrcnn_tf.input.manifest import Category
from tests.detectors.keypoints import KeypointBranch
from tests.detectors.small import make_batch, small_config

CATEGORIES = [Category(1, 1, 'a'), Category(2, 2, 'b'), Category(3, 3, 'c')]


@pytest.fixture(scope='module')
def config() -> Config:
    config = Config(model=small_config(detections__score_threshold=0., detections__max_detections=4))
    config.data.test_short_side, config.data.test_long_side = 64, 64
    return config


@pytest.fixture(scope='module')
def detector(config: Config) -> m.Detector:
    """Trained for two steps."""
    keras.utils.set_random_seed(1)
    batch = make_batch()
    centers = (batch['boxes'][..., :2] + batch['boxes'][..., 2:]) / 2
    batch['keypoints'] = tf.stack([tf.concat([centers, tf.ones_like(centers[..., :1])], axis=-1)] * 2, axis=2)
    detector = m.build_detector(config.model, branches=[KeypointBranch(2)])
    before = [variable.numpy() for variable in detector.branches[-1].trainable_variables]
    detector.compile(keras.optimizers.SGD(.01))
    history = detector.fit(tf.data.Dataset.from_tensors(batch).repeat(), steps_per_epoch=2, verbose=0).history
    assert history['loss_keypoints'][0] > 0
    assert len(before) == 6 and not any(np.array_equal(old, new.numpy()) for old, new in zip(
        before, detector.branches[-1].trainable_variables, strict=True))
    return detector


def test_it_declares_what_it_needs_and_gives(detector: m.Detector) -> None:
    assert detector.needs == ('masks', 'keypoints')
    assert tuple(detector.output_spec()['keypoints'].shape) == (4, 2, 3)


def test_it_predicts(detector: m.Detector) -> None:
    detections = detector(make_batch()['images'])
    assert detections['keypoints'].shape == [2, 4, 2, 3] and detections['valid'].numpy().any()
    found = detections['keypoints'].numpy()[detections['valid'].numpy()]
    assert (found > 0).all() and (found < 1).all()


def test_the_first_view_counts_in_test_time_augmentation(detector: m.Detector, config: Config) -> None:
    config.data.test_flip = True
    batch = {key: make_batch()[key] for key in ('images', 'sizes')}
    detections = TestTimeAugmentation(detector, config.data)([batch])
    config.data.test_flip = False
    assert detections['keypoints'].shape == [2, 4, 2, 3] and detections['masks'].shape == [2, 4, 8, 8]


def test_it_is_saved_with_the_detector(detector: m.Detector, tmp_path: pathlib.Path) -> None:
    detector.save(tmp_path / 'detector.keras')
    loaded = keras.models.load_model(tmp_path / 'detector.keras')
    images = make_batch()['images']
    np.testing.assert_allclose(loaded(images)['keypoints'], detector(images)['keypoints'], atol=1e-5)


def test_it_is_exported(detector: m.Detector, config: Config, tmp_path: pathlib.Path,
                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mrcnn_tf.serving.server_kit.replay', lambda *_: None)    # seconds
    version = m.export_detector(detector, config, CATEGORIES, tmp_path / 'exported')
    buffer = io.BytesIO()
    image = make_batch()['images'][0].numpy().astype(np.uint8)
    Image.fromarray(image).save(buffer, 'PNG')
    served = tf.saved_model.load(str(version)).signatures['detect'](
        image_bytes=tf.constant([buffer.getvalue()]))
    expected = detector(image[None])
    np.testing.assert_allclose(served['keypoints'], expected['keypoints'], atol=1e-4)
    np.testing.assert_allclose(served['boxes'], expected['boxes'], atol=1e-2)


def test_a_model_directory_would_lose_it(detector: m.Detector, config: Config, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match='run: a config does not name the branch keypoint_branch; save'):
        m.save_detector(tmp_path / 'run', detector, config, CATEGORIES)
    assert not (tmp_path / 'run').exists()
