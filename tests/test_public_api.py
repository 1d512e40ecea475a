"""The package as a library: lazy imports, and a detector that is trained, evaluated, saved and exported from Python."""
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import mrcnn_tf as m
from tests.training.tiny import tiny_config, write_data

pytestmark = pytest.mark.usefixtures('shallow_resnets')


def test_importing_costs_no_tensorflow() -> None:
    code = ('import sys, json, mrcnn_tf as m;'
            'loaded = [name for name in ("tensorflow", "keras") if name in sys.modules];'
            'print(json.dumps([loaded, m.__version__, "RoIAlign" in dir(m)]))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                          env={'PYTHONPATH': ':'.join(sys.path)})
    assert json.loads(done.stdout) == [[], m.__version__, True] and done.stderr == ''


@pytest.mark.parametrize('name', m.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(m, name) is not None


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'mrcnn_tf' has no attribute 'Detektor'"):
        _ = m.Detektor


@pytest.mark.parametrize(('before', 'after'), [(None, '2'), ('0', '0')], ids=['not set', 'set by the user'])
def test_the_first_use_silences_the_warnings_of_tensorflow(
        before: str | None, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', before or '')
    if before is None:
        monkeypatch.delenv('TF_CPP_MIN_LOG_LEVEL')
    assert m.__getattr__('Config') is m.Config and os.environ['TF_CPP_MIN_LOG_LEVEL'] == after


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp('data')
    write_data(directory)
    return directory


@pytest.fixture(scope='module')
def config(data: pathlib.Path) -> m.Config:
    return tiny_config(data, 'model.detections.score_threshold=0')


@pytest.fixture(scope='module')
def fitted(data: pathlib.Path, config: m.Config) -> tuple[m.Detector, dict[str, Any]]:
    """A detector after two epochs of two steps with Keras' callbacks, and its history."""
    keras.utils.set_random_seed(0)
    detector = m.build_detector(config.model)
    detector.compile('sgd', clip_norm=1.)
    history = detector.fit(
        m.training_dataset(data / 'train.json', config), steps_per_epoch=2, epochs=2, verbose=0,
        validation_data=m.evaluation_dataset(data / 'train.json', config, 4), validation_steps=2, callbacks=[
            keras.callbacks.ModelCheckpoint(str(data / 'best.keras'), monitor='val_loss', save_best_only=True),
            keras.callbacks.EarlyStopping('val_loss', patience=5), keras.callbacks.ReduceLROnPlateau(patience=5),
            keras.callbacks.TensorBoard(str(data / 'logs'))])
    return detector, history.history


def test_fit_validates_and_calls_the_callbacks(fitted, data) -> None:
    detector, history = fitted
    assert len(history['val_loss']) == 2 and np.isfinite(history['val_loss']).all() and 'val_loss_mask' in history
    assert any((data / 'logs').rglob('events*'))
    loaded = keras.models.load_model(data / 'best.keras')
    assert loaded.clip_norm == 1. and loaded.settings == detector.settings
    assert {tuple(weight.shape) for weight in loaded.weights} == {tuple(weight.shape) for weight in detector.weights}


def test_evaluate_and_train_on_batch(fitted, data, config) -> None:
    detector, _ = fitted
    batch = next(iter(m.training_dataset(data / 'train.json', config)))
    losses = detector.evaluate(m.evaluation_dataset(data / 'train.json', config, 4), return_dict=True, verbose=0)
    assert losses['loss'] > 0 and losses['loss_mask'] > 0
    assert detector.train_on_batch(batch, return_dict=True)['loss'] > 0
    assert np.isfinite(detector.test_on_batch(batch, return_dict=True)['loss'])


def test_predict_on_batches_and_on_images(fitted, data, config) -> None:
    detector, _ = fitted
    dataset = m.evaluation_dataset(data / 'train.json', config, 4)
    assert detector.predict(dataset.take(2), verbose=0)['masks'].shape[0] == 8
    images = next(iter(dataset))['images'][:2]
    from_float, from_bytes = detector(images), detector(tf.cast(images, tf.uint8).numpy())
    np.testing.assert_allclose(from_float['boxes'], from_bytes['boxes'], atol=1e-3)
    predicted = detector.predict(images.numpy(), batch_size=1, verbose=0)         # of arrays, in batches of one
    np.testing.assert_allclose(predicted['boxes'], from_float['boxes'], atol=1e-3)
    uneven = detector(tf.zeros([1, 50, 61, 3]))
    assert uneven['boxes'].numpy().max() <= 61


@pytest.mark.parametrize(('given', 'message'), [
    (np.zeros([64, 64, 3]), r'mask_rcnn: got a tensor of shape \(64, 64, 3\); expected images \[B, H, W, 3\]'),
    ({'images': np.zeros([1, 64, 64, 3])}, "mask_rcnn: the batch has no 'sizes'; expected the keys")], ids=[
        'one image', 'no sizes'])
def test_what_is_no_batch(fitted, given, message) -> None:
    with pytest.raises(ValueError, match=message):
        fitted[0].as_batch(given)


def test_a_batch_without_what_training_needs(fitted, data, config) -> None:
    batch = next(iter(m.training_dataset(data / 'train.json', config, needs=())))
    with pytest.raises(ValueError, match="mask_rcnn: the batch has no 'masks'; expected the keys images, sizes, boxes"):
        fitted[0].losses(batch)


@pytest.mark.slow
def test_a_training_loop_of_ones_own(data, config) -> None:
    """Consecutive numbers are independent seeds; the same number gives the same losses."""
    detector = m.build_detector(config.model)
    optimizer = keras.optimizers.SGD(.001)
    batch = next(iter(m.training_dataset(data / 'train.json', config)))

    @tf.function
    def step(batch: dict[str, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.add_n(list(detector.losses(batch, seed).values()))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, detector.trainable_variables), 10.)
        optimizer.apply_gradients(zip(gradients, detector.trainable_variables, strict=True))
        return loss

    assert all(np.isfinite(step(batch, tf.constant(number))) for number in range(2))
    first, again, other = (float(detector.losses(batch, seed, training=False)['loss_classifier']) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.slow
def test_from_a_fitted_detector_to_files_and_back(fitted, data, config, tmp_path) -> None:
    """One call each: a model directory, metrics, a SavedModel."""
    detector, _ = fitted
    m.save_detector(tmp_path / 'run', detector, config)
    loaded, _, categories = m.load_detector(tmp_path / 'run')
    assert [category.name for category in categories] == ['low', 'high']
    for ours, theirs in zip(loaded.weights, detector.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    metrics = m.evaluate(tmp_path / 'run', data / 'train.json')
    assert m.evaluate_detector(detector, config, data / 'train.json') == metrics and 'segm/AP' in metrics
    version = m.export(tmp_path / 'run', tmp_path / 'saved')
    assert list(m.load_predictor(version).categories) == list(categories)


def test_the_summary_shows_parts_and_parameters(fitted) -> None:
    lines: list[str] = []
    fitted[0].summary(print_fn=lambda line, **_: lines.append(line))
    assert all(part in '\n'.join(lines) for part in ('backbone', 'rpn', 'box', 'mask', 'Total params'))
