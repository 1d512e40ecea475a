"""What must be equal on all workers of a cluster, as texts by name, short enough to send and to print."""
from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mrcnn_tf
from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.files.text import one_line
from mrcnn_tf.weights.rules import variable_path


def of_settings(config: Config) -> dict[str, str]:
    """Return versions, all settings by dotted name, and the checksums of the manifests."""
    values = {'the version of mrcnn-tf': mrcnn_tf.__version__, 'the version of TensorFlow': tf.__version__,
              'the version of Keras': keras.__version__}
    values |= dict(_flat(dataclasses.asdict(config), ''))
    for name in ('train', 'validation'):
        if path := getattr(config.data, name):
            values[f'the sha256 of the manifest data.{name}'] = _digest(files.read_bytes(path))
    return values


def of_model(model: keras.Model, further: Mapping[str, Mapping[str, tf.Variable]] | None = None) -> dict[str, str]:
    """Return the step, and the checksums of all weights and optimizer slots as this worker has them.

    Args:
        model: compiled.
        further: other parts of a checkpoint by name, each variables by name: averages of the weights, the loss scale.
    """
    step = model.optimizer.iterations
    values = {'the step of the newest checkpoint': str(int(step.numpy()))}
    named = [(variable_path(variable), variable) for variable in [*model.variables, *model.optimizer.variables]
             if variable is not step]
    named += [(f'{part}/{name}', variable) for part, variables in (further or {}).items()
              for name, variable in variables.items()]
    for name, variable in named:
        values[f'the sha256 of {name}'] = _digest(_local(model, variable).tobytes())
    return values


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', one_line(value, 100)


def _local(model: keras.Model, variable: Any) -> np.ndarray:
    """Return the value on the first replica of this worker. Keras reads some variables as a mean over all workers."""
    inner = getattr(variable, 'value', variable)    # Keras 3's variable, or TensorFlow's
    inner = variable if callable(inner) else inner
    return np.asarray(model.distribute_strategy.experimental_local_results(inner)[0])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
