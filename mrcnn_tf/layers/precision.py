"""The precision policy of Keras, within a context."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from mrcnn_tf.ops.arguments import check_choice

# The precisions of an inference, and Keras' names of their policies.
PRECISIONS = {'float32': 'float32', 'bfloat16': 'mixed_bfloat16'}


@contextlib.contextmanager
def precision_policy(name: str) -> Iterator[None]:
    """Set Keras' dtype policy and restore it afterwards: it is global, and later models should not inherit it."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def inference_precision(owner: str, precision: str | None) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a model of a precision of `PRECISIONS` is made; None: of the policy as it is.

    Raises:
        ValueError: an unknown precision, of the function `owner`.
    """
    if precision is None:
        return contextlib.nullcontext()
    check_choice(owner, 'precision', precision, PRECISIONS)
    return precision_policy(PRECISIONS[precision])
