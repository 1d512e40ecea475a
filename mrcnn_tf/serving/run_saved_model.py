"""A script that runs a SavedModel with TensorFlow only, to show that the export does not need this package.

Usage: python -I run_saved_model.py SAVED_MODEL OUTPUT.npz IMAGE... Importing this package fails in the script.
"""
from __future__ import annotations

import pathlib
import sys

BLOCKED = ('mrcnn_tf', 'data_tools')


def main(saved_model: str, output: str, *paths: str) -> None:
    """Write the outputs of the signature `detect` for one request with all images to an npz file."""
    sys.modules.update(dict.fromkeys(BLOCKED))    # type: ignore[arg-type]    # None makes their import fail
    import numpy as np
    import tensorflow as tf
    from absl import logging

    logging.set_verbosity(logging.ERROR)    # it warns of custom gradients, which a SavedModel does not need
    signature = tf.saved_model.load(saved_model).signatures['detect']
    outputs = signature(image_bytes=tf.constant([pathlib.Path(path).read_bytes() for path in paths]))
    np.savez(output, **{name: value.numpy() for name, value in outputs.items()})


if __name__ == '__main__':
    main(*sys.argv[1:])
