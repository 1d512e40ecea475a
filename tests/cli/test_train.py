"""`mrcnn train`, `mrcnn train-alternating` and `mrcnn demo`: the arguments of the functions that they call."""
from __future__ import annotations

import pathlib

import pytest

import mrcnn_tf as m
from mrcnn_tf.cli import folder
from mrcnn_tf.config import Config
from tests.cli.runner import Recorder, mrcnn


@pytest.mark.parametrize(('arguments', 'directory'), [
    (['nuclei_r18_fpn'], 'runs/nuclei_r18_fpn'),
    (['nuclei_r18_fpn.yaml', '--model-dir', 'here', '--allow-changes'], 'here')], ids=['defaults', 'options'])
def test_train(arguments: list[str], directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', train)
    assert mrcnn('train', *arguments, 'solver.steps=12', 'data.short_sides=[96,128]').exit_code == 0
    (config, model_dir, allow_changes), = train.calls
    assert allow_changes is ('--allow-changes' in arguments)
    assert isinstance(config, Config) and (config.solver.steps, config.data.short_sides) == (12, [96, 128])
    assert config.model.num_classes == 1 and model_dir == pathlib.Path(directory)


def test_train_from_python(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as the command, and a Config as it is."""
    train, train_folder = Recorder(), Recorder()
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', train)
    monkeypatch.setattr('mrcnn_tf.cli.folder.train', train_folder)
    assert m.train('nuclei_r18_fpn', overrides=['solver.steps=12']) == pathlib.Path('runs/nuclei_r18_fpn')
    given = m.load_config('nuclei_r18_fpn')
    assert m.train(given, 'here', allow_changes=True) == pathlib.Path('here')
    (loaded, *rest), second = train.calls
    assert loaded.solver.steps == 12 and rest == [pathlib.Path('runs/nuclei_r18_fpn'), False]
    assert second == (given, pathlib.Path('here'), True)
    (tmp_path / 'my.photos').mkdir()
    assert m.train(tmp_path / 'my.photos', val_fraction=.5) == pathlib.Path('runs/my.photos')
    assert train_folder.calls == [(tmp_path / 'my.photos', (), pathlib.Path('runs/my.photos'), False,
                                   folder.FolderOptions(val_fraction=.5))]


@pytest.mark.parametrize('arguments', [(), ('here', ['solver.steps=12'])], ids=['no directory', 'overrides'])
def test_a_config_needs_a_directory_and_takes_no_overrides(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match='a Config needs a model_dir and takes no overrides'):
        m.train(Config(), *arguments)


def test_train_alternating(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr('mrcnn_tf.training.alternating.train', train)
    assert mrcnn('train-alternating', 'faster_rcnn_vgg16_unshared', 'solver.gamma=0.2').exit_code == 0
    (config, model_dir), = train.calls
    assert (config.alternating.steps, config.solver.gamma) == (2, .2)
    assert model_dir == pathlib.Path('runs/faster_rcnn_vgg16_unshared')


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorder()
    monkeypatch.setattr('mrcnn_tf.cli.demo.run', run)
    assert mrcnn('demo', '--steps', '50').exit_code == 0
    assert run.calls == [(pathlib.Path('demo'), 50)]
