"""`mrcnn train FOLDER` and `mrcnn split`: the decisions, and the arguments of the functions that they call."""
from __future__ import annotations

import pathlib
import re
import shutil

import pytest

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from tests.cli.runner import Recorder, mrcnn
from tests.paths import ROOT

EXPORTS = ROOT / 'tests' / 'data_tools' / 'exports'


@pytest.fixture
def photographs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder of three images with a COCO json, in an empty directory without fetched weights."""
    shutil.copytree(EXPORTS / 'coco', tmp_path / 'photographs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'photographs'


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    train = Recorder()
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', train)
    return train


def test_a_folder_is_converted_split_and_trained(photographs: pathlib.Path, trained: Recorder) -> None:
    result = mrcnn('train', 'photographs', 'solver.gamma=0.3', 'train.seed=5', '--allow-loss')
    assert result.exit_code == 0, result.output
    (config, directory, allow_changes), = trained.calls
    assert isinstance(config, Config) and (directory, allow_changes) == (pathlib.Path('runs/photographs'), False)
    assert config.data.train == 'data/photographs/train.json' and config.data.validation == 'data/photographs/val.json'
    assert config.solver.gamma == .3 and config.train.seed == 5 and config.solver.steps == 1000
    assert 'recipe mask_rcnn_r18_fpn_cpu_demo, from random weights' in result.stdout
    assert re.search(r'derived from the data: .*solver\.steps=1000', result.stdout)
    assert result.stdout.endswith('mrcnn evaluate --model-dir runs/photographs --report report.html\n')
    again = mrcnn('train', 'photographs', '--allow-loss')
    assert 'converted before, and the folder has not changed since' in again.stdout and len(trained.calls) == 2


def test_weights_are_imported_for_fine_tuning(photographs: pathlib.Path, trained: Recorder,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def import_model(source: pathlib.Path, output: pathlib.Path, classes: str, settings: list[str]) -> None:
        output.mkdir(parents=True)
        configuration.save(configuration.load('torchvision_mask_rcnn_r50_fpn', settings), output / 'config.yaml')

    monkeypatch.setattr('mrcnn_tf.weights.importing.import_model', import_model)
    (photographs.parent / 'coco').mkdir()
    result = mrcnn('train', 'photographs', '--weights', 'coco', '--model-dir', 'mine', 'solver.steps=7', '--allow-loss')
    assert result.exit_code == 0, result.output
    (config, directory, _), = trained.calls
    assert 'recipe mask_rcnn_r50_fpn_finetune, from the weights coco' in result.stdout
    assert (config.data.batch_size, config.solver.learning_rate, config.solver.steps) == (2, .0025, 7)
    assert config.model.channel_order == 'rgb' and directory == pathlib.Path('mine')      # the model of the weights


def test_weights_with_masks_do_not_fit_boxes(photographs: pathlib.Path, trained: Recorder) -> None:
    shutil.copytree(EXPORTS / 'labelimg', 'boxes')
    result = mrcnn('train', 'boxes', '--weights', 'mask_rcnn_R_50_FPN_3x', '--allow-loss')
    assert result.exit_code == 1 and not trained.calls and not pathlib.Path('runs').exists()
    assert 'is a Mask R-CNN, and no object of data/boxes/train.json has a mask; give weights of a' in result.stderr


def test_a_wrong_setting_is_an_error_before_the_conversion(photographs: pathlib.Path) -> None:
    result = mrcnn('train', 'photographs', 'solver.stepz=1')
    assert result.exit_code == 1 and 'did you mean solver.steps?' in result.stderr and not pathlib.Path('data').exists()


def test_a_model_directory_is_no_folder_of_images(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'config.yaml').touch()
    result = mrcnn('train', tmp_path)
    assert result.exit_code == 1 and f'give {tmp_path}/config.yaml' in result.stderr


def test_split(tmp_path: pathlib.Path) -> None:
    source, = (EXPORTS / 'coco' / 'annotations').glob('*.json')
    result = mrcnn('split', source, '--output', tmp_path, '--val-fraction', 0.4, '--seed', 2)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'{source.stem}_train.json', f'{source.stem}_val.json']
    assert result.stdout.splitlines()[-1] == str(tmp_path / f'{source.stem}_val.json')
