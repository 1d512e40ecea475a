"""Errors and warnings about the training and validation set before the first step."""
from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from data_tools.formats import coco
from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.manifest import Category, Counts, Manifest, ManifestError, Source
from mrcnn_tf.training import trainer
from mrcnn_tf.training.callbacks import TrainingError
from mrcnn_tf.training.sets import read_sets
from mrcnn_tf.weights.model_directory import create
from tests.paths import SHARED
from tests.training.tiny import CATEGORIES, tiny_config, write_data

CASES = SHARED / 'cases'


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with train.json and its one shard."""
    write_data(tmp_path)
    return tmp_path


def changed(data: pathlib.Path, name: str, **changes: Any) -> str:
    """Write a changed manifest of the same shard and return its path."""
    dataclasses.replace(Manifest.read(data / 'train.json'), **changes).write(data / f'{name}.json')
    return str(data / f'{name}.json')


def refusal(config: Config, data: pathlib.Path) -> str:
    with pytest.raises(TrainingError) as error:
        read_sets(config, data / 'run')
    assert '\n' not in str(error.value)
    return str(error.value)


def with_validation(data: pathlib.Path, path: str, *overrides: str) -> Config:
    return tiny_config(data, f'data.validation={path}', *overrides)


@pytest.mark.parametrize('keep_empty', [False, True], ids=['drop empty', 'keep empty'])
@pytest.mark.parametrize(('counts', 'reason'), [
    (Counts(16, 16, 0, 0), 'none of its 16 images has an object, so there is nothing to learn'),
    (Counts(16, 0, 24, 24), 'all 24 objects are crowds, so none is a positive')], ids=['no objects', 'crowds'])
def test_a_set_without_positives_is_an_error(data: pathlib.Path, counts: Counts, reason: str, keep_empty: bool) -> None:
    path = changed(data, 'empty', counts=counts)
    config = tiny_config(data, f'data.keep_empty={keep_empty}', f'data.train={path}')
    assert refusal(config, data).startswith(f'data.train {path}: {reason}; ')


@pytest.mark.parametrize('case', ['all-crowd', 'no-annotations'])
@pytest.mark.skipif(not CASES.is_dir(), reason='needs ../shared/cases')
def test_shared_cases_without_positives_are_an_error(case: str, tmp_path: pathlib.Path) -> None:
    coco.convert(CASES / case / 'annotations.json', CASES / case / 'images', tmp_path, 'train')
    config = configuration.load('nuclei_r18_fpn', [f'data.train={tmp_path}/train.json'])
    with pytest.raises(TrainingError, match='none of its 3 images has an object' if case == 'no-annotations' else
                       r'all \d+ objects are crowds'):
        trainer.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.skipif(not CASES.is_dir(), reason='needs ../shared/cases')
def test_the_shared_case_of_exchanged_classes_is_an_error(tmp_path: pathlib.Path) -> None:
    case = CASES / 'classes-exchanged-in-validation'
    for name, file in (('train', 'annotations.json'), ('val', 'validation.json')):
        coco.convert(case / file, case / 'images', tmp_path, name)
    classes = len(json.loads((case / 'annotations.json').read_text())['categories'])
    config = configuration.load('nuclei_r18_fpn', [
        f'data.train={tmp_path}/train.json', f'data.validation={tmp_path}/val.json', f'model.num_classes={classes}'])
    with pytest.raises(TrainingError, match='data.validation .*val.json: category 1 is .* and in data.train .* it is '):
        trainer.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_missing_validation_set_is_an_error(data: pathlib.Path) -> None:
    with pytest.raises(ManifestError, match='none.json: no such file'):
        read_sets(with_validation(data, f'{data}/none.json'), data / 'run')


@pytest.mark.parametrize(('categories', 'reason'), [
    ([Category(1, 1, 'high'), Category(2, 2, 'low')],
     "category 1 is 'high', and in data.train {}/train.json it is 'low'"),
    ([Category(1, 1, 'low'), Category(2, 3, 'high')],
     "category 3 is 'high', and in data.train {}/train.json it is missing")], ids=['exchanged', 'other id'])
def test_a_validation_set_with_other_categories_is_an_error(data: pathlib.Path, categories: list[Category],
                                                            reason: str) -> None:
    path = changed(data, 'val', categories=categories)
    message = refusal(with_validation(data, path), data)
    assert message == f'data.validation {path}: {reason.format(data)}; convert both sets with the same categories'


@pytest.mark.parametrize('categories', [CATEGORIES[:1], [Category(1, 2, 'high'), Category(2, 1, 'low')]],
                         ids=['fewer', 'other order'])
def test_a_validation_set_may_have_fewer_categories_in_another_order(data: pathlib.Path, categories: list[Category],
                                                      caplog: pytest.LogCaptureFixture) -> None:
    other = Source('test', 'other', '')
    read_sets(with_validation(data, changed(data, 'val', categories=categories, source=other)), data / 'run')
    assert not caplog.messages


def test_categories_other_than_those_of_the_run_are_an_error(data: pathlib.Path) -> None:
    create(data / 'run', tiny_config(data), [Category(1, 1, 'low'), Category(2, 5, 'other')])
    (data / 'run' / 'checkpoints').mkdir()
    (data / 'run' / 'checkpoints' / 'step-1.index').touch()
    assert refusal(tiny_config(data), data) == (
        f"data.train {data}/train.json: category 2 is 'high', and in {data}/run it is missing; "
        'give another --model-dir')


def test_a_validation_set_without_images_is_an_error(data: pathlib.Path) -> None:
    path = changed(data, 'val', counts=Counts(), shards=[])
    with pytest.raises(InputError, match='val.json: holds no images'):
        read_sets(with_validation(data, path), data / 'run')


@pytest.mark.parametrize(('changes', 'warning'), [
    ({'counts': Counts(16, 16, 0, 0)}, 'it has no objects or only crowds, so no metric can be computed on it'),
    ({'has_masks': False, 'source': Source('test', 'b', '')},
     'its objects have no masks, so masks will not be evaluated'),
    ({}, 'it holds the same images as data.train {}/train.json, so its metrics do not measure generalization')],
    ids=['no objects', 'no masks', 'same set'])
def test_warnings_about_the_validation_set(data: pathlib.Path, changes: dict[str, Any], warning: str,
                                 caplog: pytest.LogCaptureFixture) -> None:
    path = changed(data, 'val', **changes)
    read_sets(with_validation(data, path), data / 'run')
    assert caplog.messages == [f'data.validation {path}: {warning.format(data)}']


def test_a_shard_in_both_sets_is_a_warning(data: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = [dataclasses.replace(Manifest.read(data / 'train.json').shards[0], sha256='5a')]
    train = changed(data, 'one', shards=shards)
    path = changed(data, 'val', shards=shards, source=Source('coco', 'other.json', ''))
    read_sets(with_validation(data, path, f'data.train={train}'), data / 'run')
    assert f'it holds the same images as data.train {train}' in caplog.text
