"""JSON of TensorFlow Serving's REST API: requests in rows (`instances`) or columns (`inputs`), and their answers."""
from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf.files.text import error_line
from mrcnn_tf.serving.server.versions import Arrays, RequestError
from mrcnn_tf.serving.signatures import DEFAULT


class Body(NamedTuple):
    """A request: the signature, whether it is in rows, and its rows or columns."""
    signature: str
    rows: bool
    content: Any


def read_body(body: bytes) -> Body:
    """Return the parts of a request.

    Raises:
        RequestError: it is not JSON, or has neither or both of `instances` and `inputs`.
    """
    try:
        read = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError('INVALID_ARGUMENT', f'JSON Parse Error: {error_line(error)}') from None
    if not isinstance(read, dict) or ('instances' in read) == ('inputs' in read):
        raise RequestError('INVALID_ARGUMENT', "expected a JSON object with either 'instances' or 'inputs'")
    signature, rows = read.get('signature_name', DEFAULT), 'instances' in read
    if not isinstance(signature, str):
        raise RequestError('INVALID_ARGUMENT', "'signature_name' is not a string")
    return Body(signature, rows, read['instances' if rows else 'inputs'])


def read_inputs(body: Body, specs: Mapping[str, tf.TensorSpec]) -> Arrays:
    """Return the inputs of a request by name.

    Args:
        body: of the request.
        specs: of the signature's inputs. The name of an only input may be left out.

    Raises:
        RequestError: a name is missing, or a value does not fit.
    """
    columns = _columns(body.content, list(specs)) if body.rows else body.content
    if not body.rows and len(specs) == 1 and not (isinstance(columns, dict) and columns.keys() == specs.keys()):
        columns = dict.fromkeys(specs, columns)
    if not isinstance(columns, dict) or columns.keys() != specs.keys():
        raise RequestError('INVALID_ARGUMENT', f'expected the inputs {", ".join(specs)}')
    return {name: _array(name, value, specs[name]) for name, value in columns.items()}


def write_outputs(outputs: Mapping[str, np.ndarray], rows: bool) -> bytes:
    """Return the JSON of an answer. Strings of outputs whose names end in `_bytes` are base64."""
    columns = {name: _values(name, value) for name, value in outputs.items()}
    if len(columns) == 1:
        answer = next(iter(columns.values()))
    else:
        answer = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
                  ] if rows else columns
    return json.dumps({'predictions' if rows else 'outputs': answer}).encode()


def _columns(instances: Any, names: list[str]) -> dict[str, list[Any]]:
    if not isinstance(instances, list):
        raise RequestError('INVALID_ARGUMENT', "'instances' is not a list")
    named = [each if isinstance(each, dict) and each.keys() == set(names) else {names[0]: each} for each in instances]
    wrong = next((i for i, each in enumerate(named) if len(each) != len(names)), None)
    if wrong is not None:
        raise RequestError('INVALID_ARGUMENT', f"'instances' {wrong}: expected the inputs {', '.join(names)}")
    return {name: [each[name] for each in named] for name in names}


def _array(name: str, value: Any, spec: tf.TensorSpec) -> np.ndarray:
    """Return a value as an array of the type of an input; `Version.check` compares the shape."""
    try:
        if spec.dtype == tf.string:
            read = _strings(value)
            return np.array([*read, None], object)[:-1] if isinstance(read, list) else np.array(read, object)
        array, dtype = np.array(value), spec.dtype.as_numpy_dtype
        if array.size and not np.can_cast(array.dtype, dtype, 'same_kind') and array.dtype.kind not in 'iu':
            raise ValueError(f'expected {spec.dtype.name}')
        if array.size and np.issubdtype(dtype, np.integer) and (
                array.min() < np.iinfo(dtype).min or array.max() > np.iinfo(dtype).max):
            raise ValueError(f'expected {spec.dtype.name}')
        empty = [0 if side is None else side for side in spec.shape] if not array.size else array.shape
        return array.astype(dtype).reshape(empty)
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError('INVALID_ARGUMENT', f'input {name}: {error_line(error)}') from None


def _strings(value: Any) -> Any:
    """Return nested lists of strings, or of {'b64': ...}, with bytes."""
    if isinstance(value, list):
        return [_strings(each) for each in value]
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or value.keys() != {'b64'} or not isinstance(value['b64'], str):
        raise ValueError("expected a string or {'b64': '...'}")
    try:
        return base64.b64decode(value['b64'], validate=True)
    except binascii.Error as error:
        raise ValueError(f'not base64 ({error})') from None


def _values(name: str, array: np.ndarray) -> Any:
    if array.dtype != object:
        return array.tolist()
    write = _base64 if name.endswith('_bytes') else _text
    return np.frompyfunc(write, 1, 1)(array).tolist() if array.size else array.tolist()


def _base64(value: bytes) -> dict[str, str]:
    return {'b64': base64.b64encode(value).decode()}


def _text(value: bytes) -> str:
    return value.decode(errors='replace')
