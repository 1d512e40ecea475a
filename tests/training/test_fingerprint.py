"""What workers compare before they train."""
from __future__ import annotations

import hashlib
import pathlib

import keras
import tensorflow as tf

from mrcnn_tf import config
from mrcnn_tf.training import fingerprint


def test_settings_versions_and_manifests(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'train.json').write_bytes(b'a manifest')
    values = fingerprint.of_settings(config.load('base', [
        f'data.train={tmp_path}/train.json', 'model.num_classes=3', 'solver.learning_rate=0.5']))
    assert values['solver.learning_rate'] == '0.5' and values['model.num_classes'] == '3'
    assert values['the version of Keras'] == keras.__version__
    assert values['the sha256 of the manifest data.train'] == hashlib.sha256(b'a manifest').hexdigest()[:16]
    assert 'the sha256 of the manifest data.validation' not in values


def test_weights_slots_and_the_step() -> None:
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, name='head', kernel_initializer='ones')])
    model.compile(optimizer=keras.optimizers.SGD(.1, momentum=.9))
    model.optimizer.build(model.trainable_variables)
    average = tf.Variable([1.])
    before = fingerprint.of_model(model, {'average': {'head/kernel': average}})
    assert before['the sha256 of average/head/kernel'] == hashlib.sha256(b'\x00\x00\x80\x3f').hexdigest()[:16]
    assert before['the step of the newest checkpoint'] == '0'
    of_kernel = [key for key in fingerprint.of_model(model) if key.endswith('head/kernel')]
    kernel = min(of_kernel, key=len)                                                   # the other is a slot in Keras 2
    assert before[kernel] == hashlib.sha256(b'\x00\x00\x80\x3f').hexdigest()[:16]      # 1.0, little-endian float32
    assert len(before) >= 6                                                            # and two slots
    model.layers[-1].bias.assign([1.])
    average.assign([2.])
    after = fingerprint.of_model(model, {'average': {'head/kernel': average}})
    assert [key.rpartition('/')[2] for key in before if before[key] != after[key]] == ['bias', 'kernel']
