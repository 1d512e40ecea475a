"""When XLA computes what: results that the gradient needs are recomputed instead of kept, and zeros are made late.

XLA orders a program by its data alone. It merges equal expressions, moves what does not change out of loops, and starts
early on what has no inputs. Each function here adds a dependency that it cannot remove.
"""
from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.layers import tracing

SEGMENT = 4    # blocks that are recomputed together: their results are in memory at once
Function = Callable[[tf.Tensor], tf.Tensor]
_active = contextvars.ContextVar('recomputation', default=False)


def recomputation(active: bool) -> AbstractContextManager[None]:
    """Return a context in which `recomputed` recomputes if `active`."""
    return tracing.within(_active, active)


def run_stage(layers: Sequence[keras.layers.Layer], x: tf.Tensor, training: bool) -> tf.Tensor:
    """Return `x` after layers, each called with `training`; within `recomputation(True)`, segment by segment."""
    def of(part: Sequence[keras.layers.Layer]) -> Function:
        def function(x: tf.Tensor) -> tf.Tensor:
            for layer in part:
                x = layer(x, training=training)
            return x

        return function

    if not any(layer.trainable for layer in layers):    # nothing is kept for them
        return of(layers)(x)
    for start in range(0, len(layers), SEGMENT):
        x = recomputed(of(layers[start:start + SEGMENT]), x)
    return x


def detached(x: tf.Tensor, layers: Sequence[keras.layers.Layer]) -> tf.Tensor:
    """Return `x`, which these layers have made of images; where it costs something, as a constant if all are frozen.

    A program of its own for the backward pass computes the gradients of frozen weights too. Elsewhere, what is not used
    is not computed, and a gradient of the images can be taken.
    """
    return tf.stop_gradient(x) if tracing.apart.get() and not any(layer.trainable for layer in layers) else x


def recomputed(function: Function, x: tf.Tensor) -> tf.Tensor:
    """Return function(x); within `recomputation(True)`, only `x` is kept for the gradient (1604.06174).

    The gradient calls the function again. It must give the same result and have no side effects, such as the moving
    averages of batch normalization.
    """
    if not _active.get():
        return function(x)
    settings = contextvars.copy_context()    # of this trace; the gradient is traced outside of them

    @tf.custom_gradient
    def forward(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def backward(upstream: tf.Tensor, variables: Sequence[Any] = ()) -> tuple[tf.Tensor, list[tf.Tensor]]:
            of_x, *of_variables = settings.copy().run(_gradients, function, x, variables, upstream)
            return of_x, of_variables

        return function(x), backward

    return forward(x)


def _gradients(function: Function, x: tf.Tensor, variables: Sequence[Any], upstream: tf.Tensor) -> list[tf.Tensor]:
    """Return the gradients of function(x) with respect to `x` and variables, computed in a loop of one iteration.

    XLA does not merge a loop's body with the forward pass, and does not compute it early. It cannot know the number of
    iterations, which would be two if `upstream` began with NaN, nor that `x` is the same in both.
    """
    def once(number: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            again = x + tf.cast(tf.where(number > 1, float('nan'), 0.), x.dtype)
            tape.watch([again, *variables])
            y = function(again)
        return number + 1, *tape.gradient(y, [again, *variables], upstream, tf.UnconnectedGradients.ZERO)

    zero = zero_after(upstream)
    start = [tf.fill(each.shape, tf.cast(zero, each.dtype)) for each in (x, *variables)]
    return tf.while_loop(lambda number, *_: number < tf.where(zero == 0., 1, 2), once, (0, *start),
                         parallel_iterations=1)[1:]


def zero_after(x: tf.Tensor) -> tf.Tensor:
    """Return 0, float32 [], or NaN if the first value of `x` is NaN: a zero that cannot be made before `x`.

    XLA makes constant zeros at the start of the program and keeps them; so does TensorFlow without XLA.
    """
    first = tf.cast(tf.reduce_max(tf.reshape(x, [-1])[:1]), tf.float32)      # of an empty tensor: the lowest number
    return tf.where(tf.math.is_nan(first), first, 0.)
