"""The light client's messages against TensorFlow Serving's protos, its tries, its masks. server/ asks a server."""
from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask
from tensorflow_serving.apis import predict_pb2

from mrcnn_tf.ops import paste
from mrcnn_tf.serving import light_client
from mrcnn_tf.serving.light_client import Model, RemoteError

RNG = np.random.default_rng(0)


def test_a_request_is_one_of_the_protos() -> None:
    images = RNG.integers(0, 256, (2, 3, 70, 3), np.uint8)
    inputs = {'image_bytes': [b'a\0', b''], 'images': images, 'sizes': np.int32([[-1, 300]])}
    request = predict_pb2.PredictRequest.FromString(light_client.predict_request('mine', 'detect', inputs))
    assert (request.model_spec.name, request.model_spec.signature_name) == ('mine', 'detect')
    assert tf.make_ndarray(request.inputs['image_bytes']).tolist() == [b'a\0', b'']
    for name in ('images', 'sizes'):
        found = tf.make_ndarray(request.inputs[name])
        np.testing.assert_array_equal(found, inputs[name])
        assert found.dtype == inputs[name].dtype


VALUES = {'float32': np.float32([[1.5, -2], [0, 1e30]]), 'int32': np.int32([0, -1, 127, 128, 2 ** 31 - 1, -2 ** 31]),
          'int64': np.int64([2 ** 62, -2 ** 63, 5]), 'uint8': np.arange(256, dtype=np.uint8).reshape(2, 128),
          'bool': np.array([[True, False]]), 'double': np.float64([.1]), 'empty': np.zeros([0, 4], np.float32),
          'strings': np.array([[b'a\0', b''], [b'\xff' * 200, b'x']], object), 'scalar': np.array(7, np.int32)}


def as_fields(value: np.ndarray) -> Any:
    """A tensor as TensorFlow Serving writes it: values in a field of their type, not as one string of bytes."""
    tensor = tf.make_tensor_proto(np.zeros([0], value.dtype), shape=value.shape) if not value.size else (
        tf.make_tensor_proto(value))
    names = {'float32': 'float_val', 'float64': 'double_val', 'int64': 'int64_val', 'bool': 'bool_val',
             'uint8': 'int_val', 'int32': 'int_val'}
    if value.dtype != object:
        tensor.ClearField('tensor_content')
        field = getattr(tensor, names[value.dtype.name])
        del field[:]
        field.extend(value.reshape(-1).tolist())
    return tensor


@pytest.mark.parametrize('write', [tf.make_tensor_proto, as_fields], ids=['content', 'fields'])
def test_answers_are_read(write: Callable[[np.ndarray], Any]) -> None:
    response = predict_pb2.PredictResponse()
    response.model_spec.version.value = 3
    for name, value in VALUES.items():
        response.outputs[name].CopyFrom(write(value))
    found = light_client.read_response(response.SerializeToString())
    assert found.keys() == VALUES.keys()
    for name, value in VALUES.items():
        np.testing.assert_array_equal(found[name], value, name)
        assert found[name].dtype == value.dtype and found[name].shape == value.shape


def test_equal_values_at_the_end_of_a_tensor_may_be_left_out() -> None:
    response = predict_pb2.PredictResponse()
    response.outputs['x'].CopyFrom(tf.make_tensor_proto(7., shape=[2, 3]))
    response.outputs['y'].CopyFrom(tf.compat.v1.make_tensor_proto(np.float32(0), shape=[4]))
    found = light_client.read_response(response.SerializeToString())
    assert found['x'].tolist() == [[7., 7., 7.]] * 2 and found['y'].tolist() == [0] * 4


@pytest.mark.parametrize('address', ['localhost:8500/mine', 'grpc://localhost:8500', 'http:///mine', 'ftp://host/mine',
                                     'http://host/v1/models/mine'])
def test_a_wrong_address(address: str) -> None:
    with pytest.raises(RemoteError, match=f'{re.escape(address)}: expected grpc://HOST:PORT/NAME'):
        Model(address)


def failing(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> list[float]:
    """Let requests over REST fail with these errors before one succeeds; return the list of pauses between them."""
    pauses: list[float] = []

    def post(url: str, body: bytes, seconds: float) -> bytes:
        assert url == 'http://host:1/v1/models/mine:predict' and json.loads(body)['signature_name'] == 'detect'
        if errors:
            raise errors.pop(0)
        return b'{"outputs": {"status": [0], "scores": [[0.5]]}}'

    monkeypatch.setattr(light_client, '_post', post)
    monkeypatch.setattr(light_client.time, 'sleep', pauses.append)
    return pauses


BUSY = RemoteError('busy', temporary=True)


def test_a_busy_server_is_asked_again_after_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = failing(monkeypatch, [BUSY] * 3)
    found = Model('http://host:1/mine').predict('detect', {'image_bytes': [b'x']})
    assert found['scores'].dtype == np.float32 and found['status'].dtype == np.int32
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, (.1, .2, .4), strict=True))


@pytest.mark.parametrize('error, timeout, tries', [(BUSY, 60, 6), (BUSY, .04, 1), (RemoteError('no'), 60, 1)],
                         ids=['retries', 'timeout', 'for good'])
def test_when_it_gives_up(monkeypatch: pytest.MonkeyPatch, error: RemoteError, timeout: float, tries: int) -> None:
    errors: list[Exception] = [error] * 9
    failing(monkeypatch, errors)
    with pytest.raises(RemoteError, match=f'http://host:1/mine: {error}') as raised:
        Model('http://host:1/mine', timeout).predict('detect', {})
    assert len(errors) == 9 - tries and raised.value.temporary == error.temporary


@pytest.mark.parametrize('answer', [b'hello', b'{}', b'[]'], ids=['text', 'object', 'list'])
def test_an_answer_of_another_program(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(light_client, '_post', lambda *_: answer)
    with pytest.raises(RemoteError, match='not one of TensorFlow Serving'):
        Model('http://host:1/mine').predict('detect', {})


@pytest.mark.parametrize('code, temporary', [(503, True), (400, False)])
def test_errors_of_http(monkeypatch: pytest.MonkeyPatch, code: int, temporary: bool) -> None:
    def fail(*_: object, **__: object) -> None:
        raise urllib.error.HTTPError('url', code, 'reason', {}, io.BytesIO(b'{"error": "a\nb"}'))    # type: ignore

    monkeypatch.setattr(light_client.urllib.request, 'urlopen', fail)
    with pytest.raises(RemoteError, match=rf'HTTP status {code}: \{{"error": "a b"\}}') as error:
        light_client._post('http://host', b'', 1.)
    assert error.value.temporary == temporary


def test_too_large_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light_client, 'MAX_BYTES', 5)
    with pytest.raises(RemoteError, match='2 images have 6 bytes; send at most 5'):
        Model('http://host:1/mine').detect([b'abc', b'def'])


BOXES = [(2.3, 1.1, 17.9, 30.2), (-4, -3.5, 8, 9), (10.5, 20, 24.5, 44), (5, 5, 5, 9), (0, 0, 20, 40),
         (3.2, 7, 4.1, 8.4)]


@pytest.mark.parametrize('dialect', ['pixel_center', 'detectron'])
def test_masks_are_pasted_as_by_this_package(dialect: str) -> None:
    masks, boxes = RNG.random((len(BOXES), 28, 28)).astype(np.float32), np.float32(BOXES)
    expected = paste.paste(masks, boxes, 20, 40, dialect)
    for mask, box, pasted in zip(masks, boxes, expected, strict=True):
        np.testing.assert_array_equal(light_client.paste(mask, box, 20, 40, dialect), pasted.astype(bool))


@pytest.mark.parametrize('pixels', [RNG.random((37, 21)) < .5, np.zeros((9, 4), bool), np.ones((300, 200), bool)],
                         ids=['random', 'empty', 'full'])
def test_masks_from_run_lengths(pixels: np.ndarray) -> None:
    code = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    np.testing.assert_array_equal(light_client._runs(code['counts'], *pixels.shape), pixels)


@pytest.mark.parametrize('form', ['float32', 'uint8', 'bits', 'png', 'image_png', 'rle'])
def test_every_form_of_masks(form: str) -> None:
    mask = np.zeros((4, 4), np.float32)
    mask[1:3, 1:3] = 1.
    whole = np.zeros((8, 8), np.uint8)
    whole[2:6, 2:6] = 255
    value = {'float32': mask, 'uint8': (255 * mask).astype(np.uint8), 'bits': np.packbits(mask > 0),
             'png': tf.io.encode_png((255 * mask).astype(np.uint8)[..., None]).numpy(),
             'image_png': tf.io.encode_png(whole[..., None]).numpy(),
             'rle': coco_mask.encode(np.asfortranarray(whole > 0))['counts']}[form]
    found = light_client._mask(value, form, np.float32([0, 0, 8, 8]), (8, 8), 'pixel_center')
    corners = found.astype(int)[[2, 2, 5, 5], [2, 5, 2, 5]]    # interpolation takes the corners in the first four forms
    assert found.dtype == bool and found[3:5, 2:6].all() and found.sum() == 16 - 4 + corners.sum()


def test_it_needs_the_standard_library_and_numpy_only() -> None:
    code = 'import sys, runpy; runpy.run_path(sys.argv[1]); print([n for n in sys.modules if n in sys.argv])'
    names = ['mrcnn_tf', 'tensorflow', 'grpc', 'PIL', 'requests']
    done = subprocess.run([sys.executable, '-I', '-c', code, light_client.__file__, *names], capture_output=True,
                          text=True, check=True)
    assert done.stdout == '[]\n'


def test_the_command_without_arguments() -> None:
    done = subprocess.run([sys.executable, '-I', light_client.__file__], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, 'light_client.py ADDRESS IMAGE...\n')
