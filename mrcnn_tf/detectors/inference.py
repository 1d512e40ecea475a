"""Functions of a detector's batches as graphs for inference, whose weights may be final."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mrcnn_tf.detectors.trainable import traced
from mrcnn_tf.layers.normalization import FoldedWeights, folded_normalization

Trace = Callable[[Callable[..., Any], bool], Callable[..., Any]]    # as `traced`


def tracer(final: bool) -> Trace:
    """Return `traced`, or a function like it that folds batch normalization into the convolutions before it.

    Args:
        final: fold. The weights of the detector must not change after the first call. All functions share the folded
            kernels, which stay variables: constants take three times the memory (docs/performance.md).
    """
    if not final:
        return traced
    weights: FoldedWeights = {}

    def folded(function: Callable[..., Any], each_shape: bool) -> Callable[..., Any]:
        graph = traced(function, each_shape)

        def call(*args: Any) -> Any:
            with folded_normalization(weights):    # for its first call, which traces
                return graph(*args)

        return call

    return folded
