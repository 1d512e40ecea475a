"""Settings of what is traced."""
from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest
import tensorflow as tf

from mrcnn_tf.layers import tracing


def test_a_setting_is_that_of_its_thread_and_is_restored_after_an_error() -> None:
    variable, seen = ContextVar('variable', default=0), []
    with pytest.raises(KeyError), tracing.within(variable, 1), tracing.within(variable, 2):
        assert variable.get() == 2
        thread = threading.Thread(target=lambda: seen.append(variable.get()))
        thread.start()
        thread.join()
        raise KeyError
    assert seen == [0] and variable.get() == 0


def test_computations_in_turns() -> None:
    """Each begins after the last one, if that is of the same graph, and after its input."""
    def inputs(x: tf.Tensor) -> set[str]:
        return {each.name for each in x.op.control_inputs}

    turns = tracing.Turns()
    with tf.Graph().as_default():
        a, b = (tf.compat.v1.placeholder(tf.float32, [], name) for name in 'ab')
        with turns.wait(a):
            first = turns.done(tf.constant(1., name='first'))
        with turns.wait(b):
            second = tf.constant(2., name='second')
        assert inputs(first) == {'a'} and inputs(second) == {'b', 'first'}
    with tf.Graph().as_default():    # such as that of a loop
        c = tf.compat.v1.placeholder(tf.float32, [], 'c')
        with turns.wait(c):
            third = turns.done(tf.constant(3.))
        assert inputs(third) == {'c'}
    x = tf.constant(4.)
    with turns.wait(x):
        assert turns.done(x) is x


def test_outside_of_a_context_there_is_no_order() -> None:
    assert tracing.order().results is not tracing.order().results
    with tracing.in_order(True):
        assert tracing.order() is tracing.order() and tracing.order().results is not tracing.order().gradients
        with tracing.in_order(False):
            assert tracing.order() is not tracing.order()
