"""The formats of model files by suffix: modules with the functions `convert` and `load`."""
from __future__ import annotations

from types import ModuleType

from mrcnn_tf.serving import litert, onnx_format

FORMATS: dict[str, ModuleType] = {'.tflite': litert, '.onnx': onnx_format}
