"""Functions of a detector's batches as graphs for inference, whose weights may be final."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from mrcnn_tf.detectors.trainable import traced
from mrcnn_tf.layers.normalization import FoldedWeights, folded_normalization, folded_weights
from mrcnn_tf.layers.winograd import winograd_convolutions

Trace = Callable[[Callable[..., Any], bool], Callable[..., Any]]    # as `traced`


def tracer(layer: keras.layers.Layer, final: bool) -> Trace:
    """Return a function like `traced`, for inference: on a CPU, with the fastest convolutions.

    Args:
        layer: the detector, or another layer whose parts the functions are.
        final: fold batch normalization into the convolutions before it. The weights of the layer must not change after
            the first call. All functions share the folded kernels, which stay variables: constants take three times
            the memory (docs/performance.md).
    """
    weights: FoldedWeights = {}

    def for_inference(function: Callable[..., Any], each_shape: bool) -> Callable[..., Any]:
        graph = traced(function, each_shape)

        def call(*args: Any) -> Any:
            if final and not weights:
                weights.update(folded_weights(layer))
            # They matter in the first call with each shape, which traces.
            with folded_normalization(weights), winograd_convolutions(getattr(layer, 'engine', 'op'), training=False):
                return graph(*args)

        return call

    return for_inference
