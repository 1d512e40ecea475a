"""Layers made of layers are traced once, however deep they are nested."""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.layers.composite import CompositeLayer

calls: list[str] = []


class Inner(keras.layers.Dense):
    def call(self, inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        calls.append(self.name)
        return super().call(inputs)


class Nested(CompositeLayer):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner = Nested(depth - 1) if depth else Inner(2)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.inner(inputs)


def test_the_first_call_calls_each_layer_once() -> None:
    calls.clear()
    layer = Nested(4)
    layer(tf.zeros([1, 3]))
    assert len(calls) == 1 and layer.built and [tuple(weight.shape) for weight in layer.weights] == [(3, 2), (2,)]
