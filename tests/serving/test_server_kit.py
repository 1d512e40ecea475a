"""The files and commands for TensorFlow Serving; the bytes of a request are put together by hand."""
from __future__ import annotations

import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.serving import server_kit
from mrcnn_tf.serving.network import ExportError

TENSOR = b'\x08\x07' + b'\x12\x04\x12\x02\x08\x01' + b'\x42\x01x'    # of dtype string, shape [1] and the value x
INPUTS = b'\x0a\x0bimage_bytes' + b'\x12\x0b' + TENSOR
MODEL = b'\x0a\x04mine' + b'\x1a\x0fserving_default'
EXPECTED = b'\x32\x37' + b'\x0a\x35' + b'\x0a\x17' + MODEL + b'\x12\x1a' + INPUTS


def test_a_warm_up_request(tmp_path: pathlib.Path) -> None:
    request = 'serving_default', {'image_bytes': np.array([b'x'], object)}
    server_kit.write_warmup(tmp_path, 'mine', [request, request])
    records = tf.data.TFRecordDataset(str(tmp_path / 'assets.extra' / 'tf_serving_warmup_requests'))
    assert list(records.as_numpy_iterator()) == [EXPECTED] * 2


class Lengths(tf.Module):
    """Returns the number of bytes of each image; fails on an empty one."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, 'image_bytes')])
    def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        lengths = tf.strings.length(image_bytes)
        tf.debugging.assert_positive(lengths, 'empty')
        return {'lengths': lengths}


def test_requests_are_replayed(tmp_path: pathlib.Path) -> None:
    module = Lengths()
    tf.saved_model.save(module, str(tmp_path), signatures={'detect': module.serve})
    server_kit.replay(tmp_path, [('detect', {'image_bytes': np.array([b'x'], object)})])
    with pytest.raises(ExportError, match=r'fails on a warm-up request \(InvalidArgumentError\) and is not kept'):
        server_kit.replay(tmp_path, [('detect', {'image_bytes': np.array([b'x', b''], object)})])


def test_the_commands(tmp_path: pathlib.Path) -> None:
    text = server_kit.commands(tmp_path / 'mine' / '3')
    assert f'-v {tmp_path}/mine:/models/mine -e MODEL_NAME=mine tensorflow/serving' in text
    curl, = (line for line in text.splitlines() if 'curl -d' in line)
    (tmp_path / 'photo.jpg').write_bytes(b'abc')
    made = subprocess.run(['bash', '-c', curl.partition(' | curl')[0]], cwd=tmp_path, capture_output=True, check=True)
    assert made.stdout == b'{"instances": [{"b64": "YWJj"}]}'
    compile(text.partition('Python:\n')[2].replace('\n  ', '\n').strip(), 'python', 'exec')
