"""The `mrcnn` command: help, version, wrong settings, and the whole workflow."""
from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mrcnn_tf import __version__
from mrcnn_tf.cli import main
from tests.cli.runner import mrcnn, python
from tests.training.tiny import SETTINGS, write_data

KINDS = ('coco', 'cityscapes', 'voc')
COMMANDS = (['demo'], ['verify'], ['configs'], ['split'], ['weights'],
            ['import-weights', 'maskrcnn_resnet50_fpn'],
            *([verb, kind] for verb in ('convert', 'validate') for kind in KINDS),
            *(['import-weights', source] for source in ('torchvision', 'detectron2', 'keras-applications', 'model')),
            ['convert', 'proposals'], ['convert', 'tfrecord'], ['inspect'], ['train'], ['evaluate'], ['export'],
            ['predict'], ['recall'], ['propose'], ['train-alternating'], ['launch'], ['input-server'])


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_help_has_an_example(command: list[str]) -> None:
    result = mrcnn(*command, '--help')
    assert result.exit_code == 0
    example = re.search(r'Example:\n +(mrcnn .*)', result.stdout)
    assert example and example[1].startswith(f'mrcnn {" ".join(command)} ')


@pytest.mark.parametrize('command', [[], ['convert'], ['validate'], ['import-weights']], ids=str)
def test_a_list_of_commands_is_not_cut_in_a_narrow_terminal(command: list[str]) -> None:
    result = CliRunner().invoke(main.app, [*command, '--help'], terminal_width=50)
    listed = ' '.join(result.stdout.partition('Commands:')[2].split())
    assert result.exit_code == 0 and listed and '...' not in listed
    assert command or 'Create a model directory from published weights.' in listed


def test_threads_share_a_heap_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(main, 'one_heap', lambda: calls.append('heap'))
    monkeypatch.setattr(main, 'app', lambda: calls.append('command'))
    main.main()
    assert calls == ['heap', 'command']


def test_version() -> None:
    result = mrcnn('--version')
    assert result.exit_code == 0
    assert re.fullmatch(rf'mrcnn-tf {re.escape(__version__)}, tensorflow 2\.[\d.]+, keras \d[\d.]+\n', result.stdout)


@pytest.mark.parametrize(('arguments', 'code'), [
    ('--help', 0), ('train --help', 0), ('--version', 0), ('train nuclei_r18_fpn solver.stepz=3', 1),
    ('train nucleus', 1), ('evaluate', 1), ('propose', 2)], ids=lambda value: str(value))
def test_help_and_wrong_settings_do_not_import_tensorflow(arguments: str, code: int) -> None:
    program = ('import atexit, sys; atexit.register(lambda: print("tensorflow" in sys.modules)); '
               'from mrcnn_tf.cli.main import main; main()')
    result = python(program, *arguments.split())
    assert (result.returncode, result.stdout.splitlines()[-1]) == (code, 'False'), result.stderr


def test_an_unknown_setting_is_an_error_of_one_line() -> None:
    result = mrcnn('train', 'nuclei_r18_fpn', 'solver.stepz=3')
    assert (result.exit_code, result.stdout) == (1, '')
    assert result.stderr == (
        "mrcnn: error: override 'solver.stepz=3': unknown key solver.stepz; did you mean solver.steps?\n")


@pytest.mark.slow
@pytest.mark.both_stacks
def test_train_evaluate_export_and_predict(tmp_path: pathlib.Path) -> None:
    write_data(tmp_path)
    train = ['train', 'base', '--model-dir', tmp_path / 'run', *SETTINGS, f'data.train={tmp_path}/train.json',
             'solver.steps=2', 'model.detections.score_threshold=0', 'model.detections.max_detections=5']
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 50, 3), np.uint8)).save(tmp_path / 'a.png')
    for command in (train, ['evaluate', '--model-dir', tmp_path / 'run', '--data', tmp_path / 'train.json'],
                    ['export', '--model-dir', tmp_path / 'run', '--output', tmp_path / 'saved']):
        result = mrcnn(*command)
        assert result.exit_code == 0, result.output
    for model in ('run', 'saved'):
        result = mrcnn('predict', tmp_path / 'a.png', '--model', tmp_path / model, '--output', tmp_path / f'of_{model}')
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in (tmp_path / f'of_{model}').iterdir()) == ['a.json', 'a.png']
    assert (tmp_path / 'run' / 'metrics.json').is_file() and (tmp_path / 'saved' / '1' / 'saved_model.pb').is_file()
