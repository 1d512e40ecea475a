"""What TensorFlow Serving needs beside an exported model: warm-up requests, and the commands to start and ask a server.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests` when it loads a version, before it answers. It is a
TFRecord file of `PredictionLog` messages, written by their field numbers: an export does not need the package
tensorflow-serving-api.
"""
from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from mrcnn_tf.serving import light_client
from mrcnn_tf.serving.network import ExportError

WARMUP = 'assets.extra/tf_serving_warmup_requests'
XLA_FLAGS = '--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit'    # TensorFlow chooses the operations that XLA compiles
Request = tuple[str, Mapping[str, np.ndarray]]    # the signature, and the inputs by name
_PREDICT_LOG, _REQUEST = 6, 1    # field numbers of tensorflow_serving/apis/prediction_log.proto


def write_warmup(version: pathlib.Path, model: str, requests: Iterable[Request]) -> None:
    """Write the requests that TensorFlow Serving replays when it loads a version.

    Args:
        version: directory of the SavedModel.
        model: its name in TensorFlow Serving.
        requests: the signature and the inputs of each.
    """
    (version / WARMUP).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / WARMUP)) as writer:
        for signature, inputs in requests:
            writer.write(prediction_log(model, signature, inputs))


def replay(version: pathlib.Path, requests: Iterable[Request]) -> None:
    """Ask a SavedModel requests, as TensorFlow Serving does: by the tensors of its graph.

    Raises:
        ExportError: it cannot be loaded, or fails on a request.
    """
    options = tf.compat.v1.ConfigProto()
    options.graph_options.rewrite_options.disable_meta_optimizer = True    # it takes longer than two requests
    try:
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph, config=options) as session:
            meta = SavedModelLoader(str(version)).load(session, [tf.saved_model.SERVING])
            for signature, inputs in requests:
                asked = meta.signature_def[signature]
                outputs = [each.name for each in asked.outputs.values()]
                session.run(outputs, {asked.inputs[name].name: value for name, value in inputs.items()})
    except tf.errors.OpError as error:
        raise ExportError(f'the exported model fails on a warm-up request ({type(error).__name__}) and is not kept; '
                          'give the export more memory, or choose other options') from error


def prediction_log(model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """Return a serialized `PredictionLog` of a request."""
    request = light_client.predict_request(model, signature, inputs)
    return light_client.field(_PREDICT_LOG, light_client.field(_REQUEST, request))


def commands(version: pathlib.Path, engine: str = 'op') -> str:
    """Return the lines that start a server of a version in Docker, and that ask it by curl and Python.

    Args:
        version: directory of the SavedModel.
        engine: 'op', or 'xla' for a server that compiles the network.
    """
    model, folder = version.parent.name, version.parent.resolve()
    url = f'http://localhost:8501/v1/models/{model}:predict'
    start, environment, image = 'Start a server', f'-e MODEL_NAME={model}', 'tensorflow/serving'
    if engine == 'xla':
        start += ' that compiles the network with XLA (for a GPU: --gpus all and tensorflow/serving:latest-gpu)'
        environment += f' -e TF_XLA_FLAGS="{XLA_FLAGS}"'
        image += ' --xla_cpu_compilation_enabled'
    return f"""{start}:
  docker run -p 8500:8500 -p 8501:8501 -v {folder}:/models/{model} {environment} {image}
Ask it by curl:
  (printf '{{"instances": [{{"b64": "'; base64 -w 0 photo.jpg; printf '"}}]}}') | curl -d @- {url}
Ask it by Python:
  import base64, json, urllib.request
  image = base64.b64encode(open('photo.jpg', 'rb').read()).decode()
  body = json.dumps({{'instances': [{{'b64': image}}]}}).encode()
  detections = json.load(urllib.request.urlopen('{url}', body))['predictions'][0]"""
