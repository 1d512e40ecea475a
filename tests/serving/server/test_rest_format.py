"""JSON of TensorFlow Serving's REST API, by the examples of its documentation and by hand."""
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.serving.server import rest_format
from mrcnn_tf.serving.server.versions import RequestError

FILES = {'image_bytes': tf.TensorSpec([None], tf.string)}
PIXELS = {'images': tf.TensorSpec([None, None, None, 3], tf.uint8), 'sizes': tf.TensorSpec([None, 2], tf.int32)}
PIXEL = [[[1, 2, 255]]]


def read(specs: Any, **body: Any) -> dict[str, Any]:
    found = rest_format.read_inputs(rest_format.read_body(json.dumps(body).encode()), specs)
    assert all(value.dtype == (object if specs[name].dtype == tf.string else specs[name].dtype.as_numpy_dtype)
               for name, value in found.items())
    return {name: value.tolist() for name, value in found.items()}


@pytest.mark.parametrize('body', [
    {'instances': [{'b64': 'AP8='}, 'text']},
    {'instances': [{'image_bytes': {'b64': 'AP8='}}, {'image_bytes': 'text'}]},
    {'inputs': [{'b64': 'AP8='}, 'text']}, {'inputs': {'image_bytes': [{'b64': 'AP8='}, 'text']}}],
    ids=['rows', 'named rows', 'column', 'named column'])
def test_files(body: Any) -> None:
    assert read(FILES, **body) == {'image_bytes': [b'\x00\xff', b'text']}


def test_bytes_with_zeros_at_the_end_keep_them() -> None:
    assert read(FILES, instances=[{'b64': 'YQAA'}]) == {'image_bytes': [b'a\x00\x00']}


def test_pixels() -> None:
    expected = {'images': [PIXEL], 'sizes': [[1, 1]]}
    assert read(PIXELS, instances=[{'images': PIXEL, 'sizes': [1, 1]}]) == expected
    assert read(PIXELS, inputs=expected) == expected


def test_no_images() -> None:
    assert read(FILES, instances=[]) == {'image_bytes': []} and read(PIXELS, inputs={'images': [], 'sizes': []}) == {
        'images': [], 'sizes': []}


@pytest.mark.parametrize('specs, body, message', [
    (FILES, '[1]', 'either'), (FILES, '{}', 'either'), (FILES, '{"instances": [], "inputs": []}', 'either'),
    (FILES, '{"instances": 3}', 'not a list'), (FILES, '{"instances": [1]}', 'expected a string'),
    (FILES, '{"instances": [{"b64": "!"}]}', 'not base64'), (FILES, '{"instances": [], "signature_name": 1}', 'string'),
    (FILES, '[' * 100_000, 'JSON Parse Error'), (FILES, '\xff', 'JSON Parse Error'),
    (PIXELS, '{"instances": [{"images": []}]}', 'expected the inputs images, sizes'),
    (PIXELS, '{"inputs": {"images": []}}', 'expected the inputs images, sizes'),
    (PIXELS, '{"inputs": {"images": [[[[256, 0, 0]]]], "sizes": [[1, 1]]}}', 'images: expected uint8'),
    (PIXELS, '{"inputs": {"images": [[[[0.5, 0, 0]]]], "sizes": [[1, 1]]}}', 'images: expected uint8'),
    (PIXELS, '{"inputs": {"images": [[[["a", 0, 0]]]], "sizes": [[1, 1]]}}', 'images: '),
    (PIXELS, '{"inputs": {"images": [[1], [1, 2]], "sizes": [[1, 1]]}}', 'images: '),
    (PIXELS, '{"inputs": {"images": [], "sizes": [[1e30, 99999999999999999999999]]}}', 'sizes: ')],
    ids=['list', 'empty', 'both', 'number', 'no string', 'base64', 'signature', 'deep', 'bytes', 'row', 'column',
         'range', 'fraction', 'text', 'ragged', 'large'])
def test_refused_bodies(specs: Any, body: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        rest_format.read_inputs(rest_format.read_body(body.encode('latin-1')), specs)
    assert error.value.code == 'INVALID_ARGUMENT'


OUTPUTS = {'scores': np.float32([.5, .25]), 'masks_bytes': np.array([[b'\xff'], [b'']], object),
           'masks_rle': np.array([[b'a'], [b'']], object)}


def test_answers_in_rows_and_columns() -> None:
    rows = [{'scores': .5, 'masks_bytes': [{'b64': '/w=='}], 'masks_rle': ['a']},
            {'scores': .25, 'masks_bytes': [{'b64': ''}], 'masks_rle': ['']}]
    assert json.loads(rest_format.write_outputs(OUTPUTS, rows=True)) == {'predictions': rows}
    assert json.loads(rest_format.write_outputs(OUTPUTS, rows=False)) == {
        'outputs': {name: [row[name] for row in rows] for name in OUTPUTS}}


@pytest.mark.parametrize('rows, key', [(True, 'predictions'), (False, 'outputs')], ids=['rows', 'columns'])
def test_an_only_output_has_no_name(rows: bool, key: str) -> None:
    assert json.loads(rest_format.write_outputs({'y': np.int32([1, 2])}, rows)) == {key: [1, 2]}
