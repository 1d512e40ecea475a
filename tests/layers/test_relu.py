"""ReLU and its gradient for XLA; the references are worked by hand."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.layers import tracing
from mrcnn_tf.layers.relu import gradient_from_output, relu
from tests.modes import MODES, with_gradient


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('active', [False, True])
def test_result_and_gradient(mode, dtype, active) -> None:
    smallest = 2. ** -14     # of float16's normal numbers
    x = tf.constant([-3., -smallest, -0., 0., smallest, 3.], dtype)
    with gradient_from_output(active):
        y, gradient = MODES[mode](lambda x: with_gradient(relu, x, cotangent=np.full(6, 2., x.dtype.as_numpy_dtype)))(x)
    assert y.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(tf.cast(y, tf.float32), [0, 0, 0, 0, smallest, 3])
    np.testing.assert_array_equal(tf.cast(gradient, tf.float32), [0, 0, 0, 0, 2, 2])


@pytest.mark.parametrize('active', [False, True])
def test_the_gradient_of_the_gradient(active) -> None:
    """d2/dx2 of relu(x)^2 is 2 where x > 0, else 0."""
    x = tf.constant([-1., 3.])
    with gradient_from_output(active), tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = relu(x) ** 2
        first = tape.gradient(y, x)
    np.testing.assert_array_equal(outer.gradient(first, x), [0, 2])


def test_the_comparison_that_xla_gets() -> None:
    """Only with this one does XLA keep the maximum in the gradient, for a GPU (`tests/test_run_hlo.py`)."""
    def gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        with gradient_from_output(True), tf.GradientTape() as tape:
            tape.watch(x)
            y = relu(x)
        return tape.gradient(y, x, upstream)

    spec = tf.TensorSpec([8], tf.float32)
    compiled = tf.function(gradient, autograph=False, jit_compile=True)
    program = compiled.experimental_get_compiler_ir(spec, spec)(stage='optimized_hlo')
    assert 'direction=NE' in program and 'direction=GT' not in program


def test_the_context_has_no_effect_where_passes_are_apart() -> None:
    x = tf.constant([1.])
    with tracing.within(tracing.apart, True), gradient_from_output(True):
        graph = tf.function(relu, autograph=False).get_concrete_function(x).graph
    assert [each.type for each in graph.get_operations()][1:-1] == ['Relu']
