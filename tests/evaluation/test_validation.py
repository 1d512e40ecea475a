"""Repeated evaluation of a detector that finds the bright rectangle of each image."""
from __future__ import annotations

import pathlib
from typing import Any

import pytest
import tensorflow as tf

from mrcnn_tf.evaluation.coco import EvaluationError
from mrcnn_tf.evaluation.validation import Validator
from tests.training.tiny import CATEGORIES, tiny_config, write_data


class Finder:
    """The attributes of a detector that an evaluation uses. Its losses are image ids."""
    classifies, engine, inputs_read = True, 'op', ('images', 'sizes')

    def __call__(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        bright = tf.cast(tf.where(batch['images'][0, :, :, 0] > 100), tf.float32)
        box = tf.concat([tf.reduce_min(bright, 0), tf.reduce_max(bright, 0) + 1], 0)
        return {'boxes': box[None, None], 'scores': tf.ones([1, 1]), 'labels': tf.ones([1, 1], tf.int32),
                'valid': tf.fill([1, 1], True)}

    def losses(self, batch: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        assert not training and batch['masks'].shape == [1, 2, 28, 28]
        number = tf.cast(batch['image_ids'][0], tf.float32)
        return {'loss_mask': number, 'loss_classifier': 2 * number}

    def output_spec(self) -> dict[str, Any]:
        return {'masks': None}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp('data')
    write_data(directory)
    return directory


def validator(data: pathlib.Path, *overrides: str) -> Validator:
    return Validator(Finder(), tiny_config(data, f'data.validation={data}/train.json', *overrides), CATEGORIES)


def test_metrics_and_mean_losses_of_some_images(data: pathlib.Path) -> None:
    """Of sixteen images, eight are evaluated, those of even numbers: they have one object, of the first category."""
    evaluate, fractions = validator(data, 'train.evaluate_images=8', 'data.test_scales=[32,64]'), []
    values, pictures = evaluate(fractions.append)
    assert values['bbox/AP'] == values['bbox/AP/low'] == 1 and values['bbox/AP/high'] is None
    assert {name: value for name, value in values.items() if 'loss' in name} == {
        'val_loss': 21, 'val_loss_mask': 7, 'val_loss_classifier': 14}    # the mean of 0, 2, ... 14 is 7
    assert fractions == [(i + 1) / 16 for i in range(16)]
    assert list(pictures) == [f'predictions/{number}' for number in (0, 4, 8, 12)]
    assert sorted(evaluate.truth.sizes) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_what_progress_raises_ends_the_evaluation(data: pathlib.Path) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validator(data)(stop)


@pytest.mark.parametrize(('name', 'hint'), [
    ('bbox/AP_75', "'bbox/AP_75': did you mean bbox/AP75"),
    ('accuracy', 'expected one of val_loss, bbox/AP, bbox/AP50')], ids=['similar', 'different'])
def test_an_unknown_metric_is_an_error(data: pathlib.Path, name: str, hint: str) -> None:
    with pytest.raises(EvaluationError, match=f'^train.best_metric is .*{hint}'):
        validator(data, f'train.best_metric={name}')


@pytest.mark.parametrize('name', ['bbox/AP', 'segm/AP/high', 'bbox/AR100', 'val_loss'])
def test_a_metric_of_the_set_is_taken(data: pathlib.Path, name: str) -> None:
    validator(data, f'train.best_metric={name}')
