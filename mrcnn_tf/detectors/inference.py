"""Functions of a detector's batches as graphs for inference, whose weights may be final."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from mrcnn_tf.detectors.trainable import traced
from mrcnn_tf.layers.normalization import FoldedWeights, folded_normalization, folded_weights

Trace = Callable[[Callable[..., Any], bool], Callable[..., Any]]    # as `traced`


def tracer(layer: keras.layers.Layer, final: bool) -> Trace:
    """Return `traced`, or a function like it that folds batch normalization into the convolutions before it.

    Args:
        layer: the detector, or another layer whose parts the functions are.
        final: fold. The weights of the layer must not change after the first call. All functions share the folded
            kernels, which stay variables: constants take three times the memory (docs/performance.md).
    """
    if not final:
        return traced
    weights: FoldedWeights = {}

    def folded(function: Callable[..., Any], each_shape: bool) -> Callable[..., Any]:
        graph = traced(function, each_shape)

        def call(*args: Any) -> Any:
            if not weights:
                weights.update(folded_weights(layer))
            with folded_normalization(weights):    # for its first call, which traces
                return graph(*args)

        return call

    return folded
