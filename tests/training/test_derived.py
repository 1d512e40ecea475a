"""Settings that follow from the data: those that the user has set are kept."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.training.derived import derive
from mrcnn_tf.weights.model_directory import create
from tests.input.small_sets import example, write_set

SMALL = ['data.short_sides=[64]', 'data.long_side=96', 'data.test_short_side=64', 'data.test_long_side=96']


@pytest.fixture(scope='module')
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two classes, and images of 8 x 16 px, which become 48 x 96 px."""
    return write_set(tmp_path_factory.mktemp('data'), [example(number) for number in range(3)])


def derived(manifest: str, directory: pathlib.Path, *overrides: str) -> tuple[Config, list[str]]:
    given = [f'data.train={manifest}', *overrides]
    return derive(configuration.load('nuclei_r18_fpn', given), configuration.chosen('nuclei_r18_fpn', given), directory)


def test_classes_are_those_of_the_training_set(manifest: str, tmp_path: pathlib.Path) -> None:
    config, lines = derived(manifest, tmp_path)
    assert config.model.num_classes == 2
    assert lines[0] == f'model.num_classes is 2, the categories of {manifest}'
    config, lines = derived(manifest, tmp_path, 'model.num_classes=5')
    assert config.model.num_classes == 5 and not any('num_classes' in line for line in lines)


def test_a_run_keeps_its_classes_when_it_is_resumed(manifest: str, tmp_path: pathlib.Path) -> None:
    create(tmp_path, configuration.load('nuclei_r18_fpn', ['model.num_classes=7']), [Category(1, 1, 'a')])
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / 'step-3.index').touch()
    assert derived(manifest, tmp_path)[0].model.num_classes == 7


def test_canvases_that_are_too_small_are_replaced(manifest: str, tmp_path: pathlib.Path) -> None:
    fit = ['data.canvases=[[64,96],[96,64]]']
    config, lines = derived(manifest, tmp_path, *SMALL, 'data.long_side=416')
    assert config.data.canvases == [[64, 128], [64, 416], [416, 64]]     # 64 x 128 for the images, two for the rule
    assert lines[1].startswith('data.canvases is [[64, 128], [64, 416], [416, 64]], from the sizes of the images: none')
    config, lines = derived(manifest, tmp_path, *SMALL, *fit)
    assert config.data.canvases == [[64, 96], [96, 64]] and len(lines) == 1


def test_canvases_that_are_too_large_are_told(manifest: str, tmp_path: pathlib.Path) -> None:
    config, lines = derived(manifest, tmp_path)     # 192 x 384 px on the 384 x 384 of the nuclei
    assert config.data.canvases == [[384, 384]]
    assert lines[1] == ("data.canvases=[[384,384]] has 2.00 times the area of the images; "
                        "'data.canvases=[[192,384],[384,384]]' would have 1.00 times")


def test_without_a_training_set_nothing_is_derived(tmp_path: pathlib.Path) -> None:
    config = configuration.load('nuclei_r18_fpn')
    assert derive(config, set(), tmp_path) == (config, [])
