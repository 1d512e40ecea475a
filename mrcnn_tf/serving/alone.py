"""Predicts with an exported SavedModel and TensorFlow alone: proof that no part of this package is in it.

Run as a script: python -I alone.py SAVED_MODEL OUTPUT.npz IMAGE... Import of this package fails in it.
"""
from __future__ import annotations

import pathlib
import sys

BLOCKED = ('mrcnn_tf', 'data_tools')


def main(saved_model: str, output: str, *paths: str) -> None:
    """Writes the outputs of `serving_default` for a request of all the images to an npz file."""
    sys.modules.update(dict.fromkeys(BLOCKED))    # type: ignore[arg-type]    # None: not to be imported
    import numpy as np
    import tensorflow as tf

    signature = tf.saved_model.load(saved_model).signatures['serving_default']
    found = signature(image_bytes=tf.constant([pathlib.Path(path).read_bytes() for path in paths]))
    np.savez(output, **{name: value.numpy() for name, value in found.items()})


if __name__ == '__main__':
    main(*sys.argv[1:])
