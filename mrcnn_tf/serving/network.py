"""A detector as a function of one image, for export: batch normalization folded, weights as variables or constants."""
from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.layers.normalization import folded_normalization, folded_weights
from mrcnn_tf.serving.signatures import Detections, Network

WEIGHTS = ('variables', 'constants')


class ExportError(ValueError):
    """A model that cannot be exported; the message is one line: what is wrong, the remedy."""


def network(detector: Detector, paste: str, weights: str = 'variables') -> Network:
    """Return a detector as a function of one image, with batch normalization folded into the convolutions.

    Args:
        detector: with the 'op' engine.
        paste: the dialect of pasting masks.
        weights: one of `WEIGHTS`.

    Raises:
        ExportError: the detector needs proposals or has the 'xla' engine.
    """
    check_exportable(detector, 'op', 'for images of any size')
    specs = [tf.TensorSpec([1, None, None, 3], name='images'), tf.TensorSpec([1, 2], name='sizes')]
    call = tf.function(lambda images, sizes: detector({'images': images, 'sizes': sizes}, training=False), specs,
                       autograph=False)
    folded = folded_weights(detector)
    with folded_normalization(folded):
        function = call.get_concrete_function()
        variables = list(function.graph.variables)
        if weights == 'constants':
            return Network(_with_constants(function), detector.output_spec(), paste)
    return Network(function, detector.output_spec(), paste, variables)


def check_exportable(detector: Detector, engine: str, reason: str) -> None:
    """Raise ExportError if a detector needs proposals or has another engine than the export needs.

    Args:
        detector: the detector to export.
        engine: that it needs.
        reason: why, for the message.
    """
    if 'proposals' in detector.inputs_read:
        raise ExportError('a fast_rcnn needs the proposals of each image, which no request holds; export a faster_rcnn')
    if detector.engine != engine:
        raise ExportError(f"the detector has the '{detector.engine}' engine; build it with engine='{engine}' {reason}")


def _with_constants(function: Any) -> Any:
    """Return a concrete function whose variables are constants of its graph."""
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)    # which returns a list

    def call(images: tf.Tensor, sizes: tf.Tensor) -> Detections:
        return tf.nest.pack_sequence_as(function.structured_outputs, frozen(images, sizes))

    return call
