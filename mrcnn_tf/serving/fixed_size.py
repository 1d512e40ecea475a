"""A detector as a function of one image on a canvas of fixed size, which LiteRT and ONNX files hold.

H, W: the canvas, px. All shapes are static and the operations are those of the 'xla' engine, which other runtimes have
too. The function normalizes the image itself; decoding and resizing are not in it.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.input import images
from mrcnn_tf.layers.normalization import FoldedWeights, folded_normalization, folded_weights
from mrcnn_tf.serving.network import ExportError, check_exportable

_MULTIPLE = 32    # the coarsest stride
_RESIZE = ('test_short_side', 'test_long_side', 'round_sides', 'antialias')    # the fields of the resize rule

# How weights are stored: in 32, 16 or 8 bits. All else is float32, but LiteRT rounds the inputs of convolutions by int8
# weights too.
QUANTIZED = ('none', 'float16', 'int8')

Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]    # a network, see `FixedNetwork.call`


class FixedNetwork(NamedTuple):
    """A detector as a function of one image on a canvas of fixed size.

    call: images float32 [1, H, W, 3] RGB 0..255 and sizes float32 [1, 2], the rows and columns of the image on it, ->
        detections [1, D, ...], boxes in px of the canvas.
    specs: of images and sizes.
    variables: those that `call` reads.
    """
    call: Any
    specs: Sequence[tf.TensorSpec]
    variables: Sequence[tf.Variable]


def fixed_network(detector: Detector, size: tuple[int, int], pad_multiple: int, weights: FoldedWeights | None = None
                  ) -> FixedNetwork:
    """Return a detector as a function of images of one size, with batch normalization folded into the convolutions.

    Args:
        detector: with the 'xla' engine.
        size: H, W.
        pad_multiple: `data.pad_multiple`. Where the canvas is larger than the one that an image would have alone, the
            rest proposes nothing, as in evaluation on fixed canvases.
        weights: `folded_weights` that several networks share; None: of this network alone.

    Raises:
        ExportError: the detector needs proposals or has the 'op' engine, or the size is no multiple of 32.
    """
    check_exportable(detector, 'xla', 'for images of fixed size')
    if any(side < 1 or side % _MULTIPLE for side in size):
        nearest = ' '.join(str(max(round(side / _MULTIPLE), 1) * _MULTIPLE) for side in size)
        raise ExportError(f'size {size[0]} {size[1]}: height and width must be multiples of {_MULTIPLE}, such as '
                          f'{nearest}')
    specs = [tf.TensorSpec([1, *size, 3], name='images'), tf.TensorSpec([1, 2], name='sizes')]
    limit = [float(side) for side in size]    # no tensor: tf2onnx would make it an input

    def detect(images: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        own = tf.minimum(tf.math.ceil(sizes / pad_multiple) * pad_multiple, limit)
        return dict(detector({'images': images, 'sizes': sizes, 'padded_sizes': own}, training=False))

    call = tf.function(detect, specs, autograph=False)
    folded = weights or folded_weights(detector)
    with folded_normalization(folded):
        variables = list(call.get_concrete_function().graph.variables)    # the folded ones belong to nothing else
    return FixedNetwork(call, specs, variables)


def default_size(data: DataConfig) -> tuple[int, int]:
    """Return the smallest canvas that holds each image, landscape or portrait, at its size of evaluation."""
    side = -(-data.test_long_side // _MULTIPLE) * _MULTIPLE
    return side, side


def resize_rule(data: DataConfig) -> dict[str, Any]:
    """Return the settings that `batch_of_one` reads, for JSON."""
    return {name: getattr(data, name) for name in _RESIZE}


def data_config(rule: dict[str, Any]) -> DataConfig:
    """Return the settings of a `resize_rule`; the others are the defaults.

    Raises:
        TypeError: the rule has an unknown field.
    """
    return dataclasses.replace(DataConfig(), **rule)


def batch_of_one(pixels: tf.Tensor, data: DataConfig, size: Sequence[int]) -> dict[str, tf.Tensor]:
    """Return the Batch of one image on a canvas, without objects.

    Args:
        pixels: uint8 or float32 [h, w, 3].
        data: its resize rule applies. An image that would not fit on the canvas then becomes as large as it allows.
        size: H, W.
    """
    original = tf.shape(pixels)[:2]
    shape = images.inference_shape(original, data)
    # Of each scale, that of the height and that of the width, all sides; integers, so that no pixel is lost.
    fitting = original[None] * tf.constant(size)[:, None] // original[:, None]
    largest = tf.maximum(tf.reduce_min(fitting, axis=0), 1)
    shape = tf.where(tf.reduce_all(shape <= tf.constant(size)), shape, largest)
    entry = images.batch_entry(images.resize(pixels, shape, data.antialias), size, original)
    return {name: value[None] for name, value in entry.items()}
