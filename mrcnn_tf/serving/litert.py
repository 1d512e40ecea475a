"""LiteRT files (TensorFlow Lite): conversion of a network with built-in operations only, and running it.

The description is a zip archive behind the model, where TensorFlow Lite's metadata has its files too:
`unzip -p mine.tflite mrcnn.json` prints it.
"""
from __future__ import annotations

import io
import json
import tempfile
import threading
import warnings
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.files.cores import CORES
from mrcnn_tf.serving.fixed_size import FixedNetwork, Run

_DESCRIPTION = 'mrcnn.json'
_LARGE = 2 ** 14    # bytes


def convert(network: FixedNetwork, description: dict[str, Any], quantize: str = 'none') -> bytes:
    """Return the content of a file that runs a network.

    Args:
        network: to convert.
        description: what a predictor needs besides, for JSON.
        quantize: as `fixed_size.QUANTIZED`.
    """
    with tempfile.TemporaryDirectory() as directory:
        # By a SavedModel, because only that gives inputs and outputs their names in the file.
        module = tf.Module()
        module.variables_read = list(network.variables)
        tf.saved_model.save(module, directory, network.call.get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize != 'none':
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == 'float16':
            converter.target_spec.supported_types = [tf.float16]
        stream = io.BytesIO()
        stream.write(leave_out_zeros(converter.convert()))
    with zipfile.ZipFile(stream, 'a') as archive:
        archive.writestr(_DESCRIPTION, json.dumps(description))
    return stream.getvalue()


def load(content: bytes) -> tuple[dict[str, Any], Run]:
    """Return the description in a file, and its network as a function of images and sizes.

    Raises:
        ValueError, LookupError, zipfile.BadZipFile: `convert` did not make the file.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        description = json.loads(archive.read(_DESCRIPTION))
    with warnings.catch_warnings():    # that TensorFlow's interpreter will move to a package of its own
        warnings.filterwarnings('ignore', r'\s*Warning: tf.lite.Interpreter is deprecated', UserWarning)
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=CORES)
    run, lock = interpreter.get_signature_runner(), threading.Lock()    # one call at a time

    def call(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        with lock:
            return dict(run(images=images, sizes=sizes))

    return description, call


def leave_out_zeros(content: bytes) -> bytes:
    """Return a model whose large constants of zeros, the initial values of RoIAlign's loops, are made by operations."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    dtypes = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}
    zeros = {number for number, buffer in enumerate(model.buffers)
             if buffer.data is not None and len(buffer.data) > _LARGE and not np.any(buffer.data)}
    zeros -= {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors if tensor.type not in dtypes}
    if not zeros:
        return content
    fill = schema.OperatorCodeT()
    fill.deprecatedBuiltinCode = fill.builtinCode = schema.BuiltinOperator.FILL
    model.operatorCodes.append(fill)
    for graph in model.subgraphs:
        for number, tensor in [each for each in enumerate(graph.tensors) if each[1].buffer in zeros]:
            operator = schema.OperatorT()
            operator.opcodeIndex = len(model.operatorCodes) - 1
            operator.inputs = [_add_constant(model, graph, np.array(tensor.shape, np.int32), schema.TensorType.INT32),
                               _add_constant(model, graph, np.zeros([], dtypes[tensor.type]), tensor.type)]
            operator.outputs, tensor.buffer = [number], 0    # the buffer of tensors that are computed
            graph.operators.insert(0, operator)
    for number in zeros:
        model.buffers[number].data = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _add_constant(model: Any, graph: Any, value: np.ndarray, type_: int) -> int:
    """Add a constant to a graph of a model, and return its number."""
    from tensorflow.lite.python import schema_py_generated as schema

    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer, tensor.shape, tensor.type = len(model.buffers) - 1, list(value.shape), type_
    tensor.name = f'zeros_{tensor.buffer}'.encode()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
