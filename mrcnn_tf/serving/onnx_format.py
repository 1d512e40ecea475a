"""ONNX files: conversion of a network by tf2onnx, and running it with ONNX Runtime.

The description is in the model's metadata, under the key `mrcnn`.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from mrcnn_tf.files.extras import install
from mrcnn_tf.serving.fixed_size import FixedNetwork, Run
from mrcnn_tf.serving.network import ExportError
from mrcnn_tf.serving.sources import InferenceError

OPSET = 17
_KEY = 'mrcnn'
_LARGE = 2 ** 14    # bytes
_MISSING = f'{{}} needs the packages of the extra `onnx`: {install("onnx")}'
_CHANNEL_AXES = {'Conv': 0, 'ConvTranspose': 1, 'Gemm': 1, 'MatMul': 1}    # of the output channels in the second input


def converter() -> Any:
    """Return the module of tf2onnx that converts.

    Raises:
        ExportError: the extra `onnx` is not installed.
    """
    try:
        from tf2onnx import convert
    except ImportError:
        raise ExportError(_MISSING.format('export to ONNX')) from None
    return convert


def convert(network: FixedNetwork, description: dict[str, Any], quantize: str = 'none') -> bytes:
    """Return the content of a file that runs a network.

    Args:
        network: to convert.
        description: what a predictor needs besides, for JSON.
        quantize: as `fixed_size.QUANTIZED`.

    Raises:
        ExportError: as `converter`.
    """
    model, _ = converter().from_function(network.call, network.specs, opset=OPSET)
    leave_out_zeros(model.graph)
    if quantize != 'none':
        shrink(model.graph, quantize)
    model.metadata_props.add(key=_KEY, value=json.dumps(description))
    content: bytes = model.SerializeToString()
    return content


def load(content: bytes) -> tuple[dict[str, Any], Run]:
    """Return the description in a file, and its network as a function of images and sizes.

    Raises:
        InferenceError: ONNX Runtime is not installed.
        ValueError, LookupError, RuntimeError: `convert` did not make the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InferenceError(_MISSING.format('a model in ONNX')) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3    # errors
    session = onnxruntime.InferenceSession(content, options)
    description = json.loads(session.get_modelmeta().custom_metadata_map[_KEY])
    names = [each.name for each in session.get_outputs()]

    def call(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {'images': images, 'sizes': sizes}), strict=True))

    return description, call


def leave_out_zeros(graph: Any) -> None:
    """Replace large constants of zeros, such as the initial values of RoIAlign's loops, by operations."""
    import onnx

    for constant in [each for each in graph.initializer if len(each.raw_data) > _LARGE and not any(each.raw_data)]:
        shape = onnx.numpy_helper.from_array(np.array(constant.dims, np.int64), f'{constant.name}:shape')
        zero = onnx.numpy_helper.from_array(np.zeros(1, onnx.helper.tensor_dtype_to_np_dtype(constant.data_type)))
        graph.node.insert(0, onnx.helper.make_node('ConstantOfShape', [shape.name], [constant.name], value=zero))
        graph.initializer.append(shape)
        graph.initializer.remove(constant)


def shrink(graph: Any, quantize: str) -> None:
    """Store the weights of an ONNX graph as float16 or int8; operations convert them back to float32.

    int8 has a scale for each output channel: the largest magnitude is 127.
    """
    import onnx

    for weights, axis in list(_weights(graph)):
        values, stored = onnx.numpy_helper.to_array(weights), f'{weights.name}:{quantize}'
        if quantize == 'float16':
            added = [onnx.numpy_helper.from_array(values.astype(np.float16), stored)]
            node = onnx.helper.make_node('Cast', [stored], [weights.name], to=onnx.TensorProto.FLOAT)
        else:
            others = tuple(each for each in range(values.ndim) if each != axis)
            scale = np.maximum(np.abs(values).max(others, keepdims=True), 1e-30).astype(np.float32) / 127
            integers = np.rint(values / scale).astype(np.int8)
            added = [onnx.numpy_helper.from_array(integers, stored),
                     onnx.numpy_helper.from_array(scale.reshape(-1), f'{stored}:scale')]
            node = onnx.helper.make_node('DequantizeLinear', [each.name for each in added], [weights.name], axis=axis)
        graph.initializer.remove(weights)
        graph.initializer.extend(added)
        graph.node.insert(0, node)


def _weights(graph: Any) -> Iterator[tuple[Any, int]]:
    """Yield the kernels of a graph, once each, with the axis of their output channels."""
    stored, seen = {each.name: each for each in graph.initializer}, set()
    for node in graph.node:
        if node.op_type in _CHANNEL_AXES and node.input[1] in stored and node.input[1] not in seen:
            seen.add(node.input[1])
            transposed = any(each.name == 'transB' and each.i for each in node.attribute)
            yield stored[node.input[1]], 0 if transposed else _CHANNEL_AXES[node.op_type]
