"""What TensorFlow Serving needs beside an exported model: warm-up requests, and the commands to start and ask a server.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests` when it loads a version, before it answers. It is a
TFRecord file of `PredictionLog` messages, which this module writes by their field numbers: the package
tensorflow-serving-api would be a dependency for four messages.
"""
from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

WARMUP = 'assets.extra/tf_serving_warmup_requests'
# Field numbers of tensorflow_serving/apis: prediction_log.proto, predict.proto, model.proto.
_PREDICT_LOG, _REQUEST, _MODEL_SPEC, _INPUTS, _NAME, _SIGNATURE, _KEY, _VALUE = 6, 1, 1, 2, 1, 3, 1, 2


def write_warmup(version: pathlib.Path, model: str, signature: str, requests: Iterable[Mapping[str, np.ndarray]]
                 ) -> None:
    """Write the requests that TensorFlow Serving replays when it loads a version.

    Args:
        version: directory of the SavedModel.
        model: its name in TensorFlow Serving.
        signature: that all requests ask.
        requests: the inputs of each, by name.
    """
    (version / WARMUP).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / WARMUP)) as writer:
        for inputs in requests:
            writer.write(prediction_log(model, signature, inputs))


def prediction_log(model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """Return a serialized `PredictionLog` of a request."""
    spec = _field(_NAME, model.encode()) + _field(_SIGNATURE, signature.encode())
    tensors = b''.join(_field(_INPUTS, _field(_KEY, name.encode()) + _field(
        _VALUE, tf.make_tensor_proto(value).SerializeToString())) for name, value in inputs.items())
    return _field(_PREDICT_LOG, _field(_REQUEST, _field(_MODEL_SPEC, spec) + tensors))


def _field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer whose content has a length."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return an integer, seven bits a byte, the lowest first."""
    head = b''
    while value >= 128:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])


def commands(version: pathlib.Path) -> str:
    """Return the lines that start a server of a version in Docker, and that ask it by curl and Python."""
    model, folder = version.parent.name, version.parent.resolve()
    url = f'http://localhost:8501/v1/models/{model}:predict'
    return f"""Start a server:
  docker run -p 8500:8500 -p 8501:8501 -v {folder}:/models/{model} -e MODEL_NAME={model} tensorflow/serving
Ask it by curl:
  (printf '{{"instances": [{{"b64": "'; base64 -w 0 photo.jpg; printf '"}}]}}') | curl -d @- {url}
Ask it by Python:
  import base64, json, urllib.request
  image = base64.b64encode(open('photo.jpg', 'rb').read()).decode()
  body = json.dumps({{'instances': [{{'b64': image}}]}}).encode()
  detections = json.load(urllib.request.urlopen('{url}', body))['predictions'][0]"""
