"""`mrcnn import-weights`: the arguments of the functions that it calls, and what it prints."""
from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from mrcnn_tf.weights import importing
from mrcnn_tf.weights.rules import Line
from tests.cli.runner import Recorder, mrcnn

REPORT = [Line('theirs', 'kernel', (3, 2), 'transposed', -1., 1., 2.), Line('', 'bias', (2,), '', 0., 0., 0.)]
FILE, OUTPUT = pathlib.Path('w.npz'), pathlib.Path('out')


@pytest.mark.parametrize('framework', ['torchvision', 'detectron2'])
def test_a_weight_file(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Recorder(REPORT)
    monkeypatch.setattr(importing, 'import_file', read)
    result = mrcnn('import-weights', framework, FILE, '--output', OUTPUT, '--classes', '3', '--class-map', 'map.yaml',
                   'model.num_classes=3')
    assert result.exit_code == 0
    assert read.calls[0][:6] == (framework, FILE, OUTPUT, '3', ['model.num_classes=3'], 'map.yaml')
    assert result.stdout.splitlines()[1].split() == ['theirs', 'kernel', '3x2', '-1', '1', '2', 'transposed']
    assert result.stdout.splitlines()[-1] == '1 of 2 variables filled; initialized at random: bias'


def test_the_epsilon_of_torchvision_and_its_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option is a setting; a note that the import makes is the last line."""
    settings: list[list[str]] = []

    def read(framework: str, file: pathlib.Path, output: pathlib.Path, classes: Any, overrides: list[str], names: Any,
             note: Callable[[str], object]) -> list[Line]:
        settings.append(overrides)
        note('The file does not say.')
        return REPORT

    monkeypatch.setattr(importing, 'import_file', read)
    result = mrcnn('import-weights', 'torchvision', FILE, '--output', OUTPUT, '--norm-epsilon', '0.25', 'train.seed=1')
    assert settings == [['train.seed=1', 'model.backbone.norm_epsilon=0.25']]
    assert result.stdout.splitlines()[-1] == 'The file does not say.'


def test_a_model_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Recorder(REPORT)
    monkeypatch.setattr(importing, 'import_model', read)
    assert mrcnn('import-weights', 'model', 'run', '--output', OUTPUT).exit_code == 0
    assert read.calls == [(pathlib.Path('run'), OUTPUT, None, [], None)]


def test_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Recorder(REPORT)
    monkeypatch.setattr(importing, 'import_imagenet', load)
    assert mrcnn('import-weights', 'keras-applications', 'vgg16', '--output', OUTPUT, 'train.seed=1').exit_code == 0
    assert load.calls == [('vgg16', OUTPUT, None, ['train.seed=1'])]


def test_a_refused_file_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, 'import_file', Recorder(error=importing.WeightsError('w.npz: holds no weights')))
    result = mrcnn('import-weights', 'detectron2', FILE, '--output', OUTPUT)
    assert result.exit_code == 1 and 'w.npz: holds no weights' in result.output and 'Traceback' not in result.output
