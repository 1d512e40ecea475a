"""`mrcnn predict`: the arguments of the function that it calls, and what it prints."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.serving import predict_files
from tests.cli.runner import Recorder, mrcnn


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
