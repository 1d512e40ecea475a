"""`mrcnn train`, `mrcnn train-alternating` and `mrcnn demo`: the arguments of the functions that they call."""
from __future__ import annotations

import pathlib

import pytest

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
    assert mrcnn('demo', '--minutes', '0.5').exit_code == 0
    assert run.calls == [(pathlib.Path('demo'), 0.5)]
