"""`mrcnn predict`: the arguments of the function that it calls, and what it prints."""
from __future__ import annotations

import pathlib

import pytest
import tensorflow as tf

from mrcnn_tf.serving import predict_files
from tests.cli.runner import Recorder, mrcnn
from tests.serving.test_predict_files import FakePredictor, save


def test_predict_without_a_model_is_an_error(tmp_path: pathlib.Path) -> None:
    result = mrcnn('predict', 'a.png', '--model', tmp_path, '--output', tmp_path / 'out')
    assert result.exit_code == 1 and result.stderr.startswith(f'mrcnn: error: {tmp_path}: no model; give a directory')
    assert not (tmp_path / 'out').exists()


def test_predict_reports_images_without_detections_and_failures(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [tmp_path / 'a.png', tmp_path / 'b.png']
    failed = {pathlib.Path('c.jpg'): 'c.jpg: the file is damaged'}
    report = predict_files.PredictionReport(pictures, failed, [tmp_path / 'b.jpg'], .4)
    monkeypatch.setattr('mrcnn_tf.serving.predictor.load_predictor', Recorder())
    monkeypatch.setattr('mrcnn_tf.serving.predict_files.predict_to_directory', Recorder(report))
    result = mrcnn('predict', 'a.jpg', 'b.jpg', 'c.jpg', '--model', 'm', '--output', 'out')
    assert result.exit_code == 1 and result.stdout.splitlines() == [
        '2 pictures and json files in out',
        f'1 of them without a detection of score 0.5 or more (best score: 0.400), such as {tmp_path}/b.jpg']
    assert result.stderr.splitlines() == [
        'mrcnn: c.jpg: the file is damaged', 'mrcnn: error: 1 of 3 files could not be used, see above']


def test_predict_to_one_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / 'in' / 'a.png')
    (tmp_path / 'in' / 'b.png').write_bytes(b'hello')
    monkeypatch.setattr('mrcnn_tf.serving.predictor.load_predictor', lambda *_: FakePredictor())
    arguments = ('predict', tmp_path / 'in', '--model', 'm', '--output', tmp_path / 'found.json')
    result = mrcnn(*arguments, '--pictures', tmp_path / 'drawn')
    assert result.exit_code == 1 and result.stdout.splitlines()[-1] == f'{tmp_path}/found.json: 1 images'
    assert result.stderr.splitlines() == [f'mrcnn: {tmp_path}/in/b.png: neither a JPEG nor a PNG; convert it to one',
                                          'mrcnn: error: 1 of 2 files could not be used, see above']
    assert [path.name for path in (tmp_path / 'drawn').iterdir()] == ['a.png']
    again = mrcnn(*arguments)
    assert again.stdout.splitlines()[-1] == f'{tmp_path}/found.json: 0 images, 1 were done before'


@pytest.mark.parametrize('option', [['--pictures', 'x'], ['--batch-size', '2']], ids=['pictures', 'batches'])
def test_options_of_one_file(option: list[str]) -> None:
    result = mrcnn('predict', 'a.png', '--model', 'm', '--output', 'out', *option)
    assert result.exit_code == 1
    assert result.stderr == 'mrcnn: error: --pictures and --batch-size are for --output NAME.json\n'


def test_the_precision_of_a_model_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / 'a.png')
    load = Recorder(FakePredictor())
    monkeypatch.setattr('mrcnn_tf.serving.predictor.load_predictor', load)
    arguments = ('predict', tmp_path / 'a.png', '--precision', 'bfloat16', '--output')
    assert mrcnn(*arguments, tmp_path / 'out', '--model', 'm').exit_code == 0
    assert load.calls == [(pathlib.Path('m'), 'best', 'bfloat16', [])]
    result = mrcnn(*arguments, tmp_path / 'out', '--server', 'grpc://localhost:1/m')
    assert result.exit_code == 1 and 'a server has the precision of its export' in result.stderr


def test_one_file_is_not_continued_in_another_precision(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / 'a.png')
    monkeypatch.setattr('mrcnn_tf.serving.predictor.load_predictor', lambda *_: FakePredictor())
    arguments = ('predict', tmp_path / 'a.png', '--model', 'm', '--output', tmp_path / 'found.json')
    assert mrcnn(*arguments, '--precision', 'float32').exit_code == 0
    result = mrcnn(*arguments, '--precision', 'bfloat16')
    assert result.exit_code == 1 and 'has detections of m with threshold 0.5' in result.stderr
    assert mrcnn(*arguments).exit_code == 0


@pytest.mark.parametrize(('gpus', 'used'), [([], []), (['GPU:0'], []), (['GPU:0', 'GPU:1'], ['GPU:0', 'GPU:1'])])
def test_one_file_is_made_on_all_gpus(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, gpus: list[str], used: list[str]) -> None:
    save(tmp_path / 'a.png')
    (tmp_path / 'config.yaml').touch()
    load = Recorder(FakePredictor())
    monkeypatch.setattr('mrcnn_tf.serving.predictor.load_predictor', load)
    monkeypatch.setattr(tf.config, 'list_logical_devices',
                        lambda kind: [tf.config.LogicalDevice(name, kind) for name in gpus])
    assert mrcnn('predict', tmp_path / 'a.png', '--model', tmp_path, '--output', tmp_path / 'a.json').exit_code == 0
    assert load.calls == [(tmp_path, 'best', None, used)]
