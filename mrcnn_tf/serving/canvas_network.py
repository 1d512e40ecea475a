"""A detector with the 'xla' engine as a function of one image, for exports whose network XLA compiles.

H, W: the sides of an image in px, padded or not. XLA compiles static shapes only, so the image is put on the smallest
of `data.canvases` that holds it, as in evaluation on fixed canvases. The graph has the network once for each canvas;
all of them read the same variables. It has no attribute for XLA: a server without XLA runs it too, and one whose
settings ask for XLA compiles it.
"""
from __future__ import annotations

import functools

import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.input import images as image_ops
from mrcnn_tf.layers.normalization import folded_weights
from mrcnn_tf.serving.fixed_size import FixedNetwork, fixed_network
from mrcnn_tf.serving.signatures import Detections, Network, not_compiled


def canvas_network(detector: Detector, data: DataConfig, paste: str) -> Network:
    """Return a detector as a function of one image on any of `data.canvases`.

    Args:
        detector: with the 'xla' engine.
        data: the function reads `canvases`, `pad_multiple` and the sides of evaluation.
        paste: the dialect of pasting masks.

    Raises:
        ConfigError: an image may be larger than all canvases.
        ExportError: the detector needs proposals or has the 'op' engine.
    """
    image_ops.check_canvases(data, training=False)
    weights = folded_weights(detector)
    networks = [fixed_network(detector, (height, width), data.pad_multiple, weights)
                for height, width in data.canvases]

    def call(images: tf.Tensor, sizes: tf.Tensor) -> Detections:
        with not_compiled():
            shape = tf.cast(sizes[0], tf.int32)
            image = images[0, :shape[0], :shape[1]]
        number = tf.cast(image_ops.canvas_index(shape, data.canvases), tf.int32)
        found: Detections = tf.switch_case(number, [
            functools.partial(_on_canvas, network, image, sizes) for network in networks])
        return found

    # A variable that all networks read is listed once.
    variables = {id(variable): variable for network in networks for variable in network.variables}
    return Network(call, detector.output_spec(), paste, list(variables.values()))


def _on_canvas(network: FixedNetwork, image: tf.Tensor, sizes: tf.Tensor) -> Detections:
    """Return the detections in an image float32 [H, W, 3], RGB 0..255, at most as large as the network's canvas."""
    _, *canvas, _ = network.specs[0].shape
    with not_compiled():
        padded = image_ops.pad(image, canvas)
    found: Detections = network.call(padded[None], sizes)
    return found
