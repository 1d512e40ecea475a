"""LiteRT files (TensorFlow Lite): conversion of a network with built-in operations only, and running it.

The description is a zip archive behind the model, where TensorFlow Lite's metadata has its files too:
`unzip -p mine.tflite mrcnn.json` prints it.
"""
from __future__ import annotations

import io
import json
import os
import tempfile
import threading
import warnings
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.serving.fixed_size import FixedNetwork, Run

_DESCRIPTION = 'mrcnn.json'


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
        stream = io.BytesIO(converter.convert())
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
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=os.cpu_count())
    run, lock = interpreter.get_signature_runner(), threading.Lock()    # one call at a time

    def call(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        with lock:
            return dict(run(images=images, sizes=sizes))

    return description, call
