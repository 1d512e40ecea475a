"""Dimensions: ints where the shape is static, scalars of the graph where it is not."""
from __future__ import annotations

import tensorflow as tf

from mrcnn_tf.ops.tensor_shapes import dimensions


def test_static_dimensions_are_ints() -> None:
    assert dimensions(tf.zeros([2, 3, 5])) == [2, 3, 5]


def test_unknown_dimensions_are_read_when_the_graph_runs() -> None:
    @tf.function(input_signature=[tf.TensorSpec([2, None, 5])])
    def sizes(x: tf.Tensor) -> tf.Tensor:
        found = dimensions(x)
        assert found[0] == 2 and found[2] == 5 and tf.is_tensor(found[1])
        return tf.stack(found)

    assert sizes(tf.zeros([2, 7, 5])).numpy().tolist() == [2, 7, 5]
