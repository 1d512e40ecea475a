"""`mrcnn export`: the arguments of the functions that it calls, and what it prints."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.serving.export import ExportOptions
from tests.cli.runner import Recorder, mrcnn


def test_export(monkeypatch: pytest.MonkeyPatch) -> None:
    export = Recorder(pathlib.Path('saved/pets/3'))
    monkeypatch.setattr('mrcnn_tf.serving.export.export', export)
    result = mrcnn('export', '--model-dir', 'run', '--output', 'saved/pets', '--checkpoint', 'last')
    assert result.exit_code == 0 and result.stdout == 'saved/pets/3\n'
    assert '/saved/pets:/models/pets -e MODEL_NAME=pets tensorflow/serving' in result.stderr
    mrcnn('export', '--model-dir', 'run', '--output', 'x', '--masks', 'rle', '--input-type', 'tf_example', '--weights',
          'constants', '--precision', 'bfloat16', '--warmup', 'all')
    assert export.calls == [
        (pathlib.Path('run'), pathlib.Path('saved/pets'), 'last', ExportOptions(), 'float32', 'op'),
        (pathlib.Path('run'), pathlib.Path('x'), 'best', ExportOptions('rle', 'tf_example', 'constants', 'all'),
         'bfloat16', 'op')]


def test_export_for_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    export = Recorder(pathlib.Path('saved/pets/3'))
    monkeypatch.setattr('mrcnn_tf.serving.export.export', export)
    result = mrcnn('export', '--model-dir', 'run', '--output', 'saved/pets', '--engine', 'xla')
    assert export.calls[0][-1] == 'xla'
    assert ('-e MODEL_NAME=pets -e TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit" tensorflow/serving '
            '--xla_cpu_compilation_enabled\n') in result.stderr


@pytest.mark.parametrize('arguments, expected', [
    (['--output', 'pets.tflite'], (None, 'none')),
    (['--output', 'pets.tflite', '--engine', 'xla'], (None, 'none')),
    (['--output', 'pets.onnx', '--format', 'onnx', '--size', '64', '96', '--quantize', 'int8'], ((64, 96), 'int8'))],
    ids=['by suffix', 'the engine of files', 'by option'])
def test_export_of_a_file(monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: tuple[object, ...]) -> None:
    export = Recorder(pathlib.Path('the file'))
    monkeypatch.setattr('mrcnn_tf.serving.export_file.export_file', export)
    result = mrcnn('export', '--model-dir', 'run', *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (0, 'the file\n', '')
    assert export.calls == [(pathlib.Path('run'), pathlib.Path(arguments[1]), 'best', *expected)]


@pytest.mark.parametrize('arguments, message', [
    (['x.onnx', '--format', 'tflite'], '--output x.onnx does not fit --format tflite; give --output NAME.tflite'),
    (['x', '--format', 'onnx'], '--output x does not fit --format onnx; give --output NAME.onnx'),
    (['x.tflite', '--engine', 'op'], '--engine op has operations that a .tflite file cannot hold; leave out --engine, '
                                     'or give --output NAME of a directory for a SavedModel'),
    (['x', '--size', '64', '64'], '--size and --quantize are for files; give --output NAME.tflite or NAME.onnx'),
    (['x.tflite', '--masks', 'rle'], '--masks, --input-type, --weights, --warmup and --precision are for SavedModels; '
                                     'a file has masks as float32, and --quantize makes it smaller')],
    ids=['another suffix', 'no suffix', 'engine of a file', 'size of a SavedModel', 'masks of a file'])
def test_export_with_options_that_do_not_fit(arguments: list[str], message: str) -> None:
    result = mrcnn('export', '--model-dir', 'run', '--output', *arguments)
    assert result.exit_code == 1 and result.stderr == f'mrcnn: error: {message}\n'
