"""An exported file as a predictor, and what cannot be exported as a file."""
from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mrcnn_tf.config import Config
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import export_file as exporting
from mrcnn_tf.serving.network import ExportError
from mrcnn_tf.serving.predictor import load_predictor
from mrcnn_tf.serving.sources import InferenceError
from tests.serving import fixed_networks

CATEGORIES = [Category(1, 7, 'cat')]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A small network in place of a restored detector; returns the sizes that it is asked for."""
    config, sizes = Config(), []
    config.data.test_short_side, config.data.test_long_side, config.data.max_pixels = 32, 64, 9000

    def network(detector: None, size: tuple[int, int], pad_multiple: int) -> object:
        sizes.append((*size, pad_multiple))
        return fixed_networks.network()

    monkeypatch.setattr(exporting, 'restore_model', lambda *_: (None, config, CATEGORIES))
    monkeypatch.setattr(exporting.fixed_size, 'fixed_network', network)
    return sizes


def test_a_file_is_a_predictor(light: list[tuple[int, int]], tmp_path: pathlib.Path) -> None:
    path = exporting.export_file('run', tmp_path / 'pets.tflite')
    assert light == [(64, 64, 32)] and [each.name for each in tmp_path.iterdir()] == ['pets.tflite']
    predictor = load_predictor(path)
    assert list(predictor.categories) == CATEGORIES
    found, = predictor([np.full([50, 100, 3], 90, np.uint8)])
    assert (found.size, found.names) == ((50, 100), ['cat'])
    np.testing.assert_allclose(found.boxes, [[0, 0, 50, 100]], atol=1e-4)    # resized to 32 x 64 and back
    with pytest.raises(InferenceError, match='10000 pixels; make it smaller, or raise max_pixels, which is 9000'):
        predictor(np.zeros([100, 100, 3], np.uint8))


def test_a_size(light: list[tuple[int, int]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting.formats.FORMATS['.tflite'], 'convert', lambda network, description, quantize: (
        f'{description["size"]} {quantize}'.encode()))
    path = exporting.export_file('run', tmp_path / 'pets.tflite', size=(32, 96), quantize='int8')
    assert path.read_bytes() == b'(32, 96) int8' and light == [(32, 96, 32)]


@pytest.mark.usefixtures('light')
def test_an_export_that_fails_leaves_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(exporting.formats.FORMATS['.tflite'], 'convert', fail)
    with pytest.raises(OSError, match='No space left'):
        exporting.export_file('run', tmp_path / 'out' / 'pets.tflite')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name, quantize, message', [
    ('pets.pb', 'none', 'pets.pb: the name of a file ends in .tflite or .onnx; rename it'),
    ('pets.onnx', 'int4', "quantize is 'int4'; expected one of none, float16, int8")], ids=['suffix', 'quantization'])
def test_options_that_do_not_exist(name: str, quantize: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        exporting.export_file('run', name, quantize=quantize)


@pytest.mark.parametrize('content, reason', [
    (b'TFL3 and more', 'File is not a zip file'), (None, 'No such file or directory')], ids=['another file', 'no file'])
def test_a_file_that_is_no_model(tmp_path: pathlib.Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / 'pets.tflite'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InferenceError, match=rf'pets.tflite: cannot be loaded \(.*{reason}.*\); give a .tflite file'):
        load_predictor(path)
