"""`mrcnn benchmark`: what its commands pass on, and the JSON line."""
from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import pytest
from PIL import Image

from mrcnn_tf.cli.benchmark import data, networks
from tests.cli.runner import Recorder, mrcnn

WORK = (lambda: time.sleep(.001), {'images': 2})


def line(*arguments: object) -> dict[str, Any]:
    """Return the JSON line of a command."""
    result = mrcnn('benchmark', *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    load, inference = Recorder('predictor'), Recorder(WORK)
    monkeypatch.setattr(networks, 'load', load)
    monkeypatch.setattr(networks, 'inference', inference)
    found = line('inference', 'mine.yaml', 'data.exif=ignore', '--size', 64, 96, '--batch', 2, '--masks', 'pasted',
                 '--precision', 'bfloat16', '--runs', 3)
    assert load.calls == [('mine.yaml', ['data.exif=ignore'], (64, 96), 'best', 'bfloat16')]
    assert inference.calls == [('predictor', (64, 96), 2, True)]
    assert found['what'] == 'inference' and found['model'] == 'mine.yaml' and found['runs'] == 3
    assert found['precision'] == 'bfloat16'
    assert found['images_per_s'] > 0 and found['cores'] >= 1 and found['processor'] and found['tensorflow']


def test_train(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder(WORK)
    monkeypatch.setattr(networks, 'train', train)
    line('train', 'nuclei_r18_fpn', 'data.batch_size=2', '--size', 64, 96, '--objects', 5)
    (config, size, objects), = train.calls
    assert config.data.batch_size == 2 and size == (64, 96) and objects == 5


@pytest.mark.parametrize('command', ['inference', 'train'])
def test_on_request(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """The runner's standard input is empty, so the first run is never requested."""
    monkeypatch.setattr(networks, 'load', Recorder())
    monkeypatch.setattr(networks, command, Recorder(WORK))
    result = mrcnn('benchmark', command, 'nuclei_r18_fpn', '--on-request')
    assert result.exit_code == 1 and result.stdout.splitlines() == [
        '{"ready": true}', 'error: --on-request: standard input ended after 0 of 5 runs']


def test_a_canvas_of_an_odd_size() -> None:
    result = mrcnn('benchmark', 'train', 'nuclei_r18_fpn', '--size', 60, 96)
    assert result.exit_code == 1 and '--size 60 96: sides of canvases are multiples of 32' in result.stderr


def test_input_without_a_set() -> None:
    result = mrcnn('benchmark', 'input', 'base')
    assert result.exit_code == 1 and 'data.train is not set' in result.stderr


def test_evaluate_and_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, conversion = Recorder(WORK), Recorder(WORK)
    monkeypatch.setattr(data, 'metrics_of', metrics)
    monkeypatch.setattr(data, 'conversion_of', conversion)
    assert line('evaluate', 'a.json', '--images', 9)['what'] == 'evaluate'
    assert metrics.calls[0][:2] == (pathlib.Path('a.json'), 9)
    assert line('convert', 'a.json', 'folder', '--workers', 2)['what'] == 'convert'
    assert conversion.calls[0][:4] == (pathlib.Path('a.json'), pathlib.Path('folder'), 400, 2)


def test_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'psutil', None)
    monkeypatch.delitem(sys.modules, 'mrcnn_tf.cli.benchmark.measuring', raising=False)
    monkeypatch.delattr('mrcnn_tf.cli.benchmark.measuring', raising=False)
    result = mrcnn('benchmark', 'evaluate', 'a.json')
    assert result.exit_code == 1 and 'mrcnn benchmark needs the package psutil' in result.stderr


def test_a_server_that_does_not_start(tmp_path: pathlib.Path) -> None:
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    result = mrcnn('benchmark', 'serve', tmp_path / 'none', tmp_path / 'a.png')
    assert result.exit_code == 1 and 'none: the server did not start; see its message above' in result.stderr
