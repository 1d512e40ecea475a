"""The base class of layers that are made of layers."""
from __future__ import annotations

from typing import Any

import keras


class CompositeLayer(keras.layers.Layer):
    """A layer whose sublayers create their weights in its first call.

    If a layer has no `build`, Keras 3 traces its `call` to create the weights of its sublayers, and does so at each
    level of nesting: a convolution in a block in a stage of a backbone was traced five times, and building a detector
    took more than twice as long.
    """

    def build(self, input_shape: Any = None) -> None:
        """Create nothing: the sublayers do."""
        self.built = True

    def get_build_config(self) -> None:
        """Return None: Keras then builds a loaded layer by calling it, not by `build`."""
