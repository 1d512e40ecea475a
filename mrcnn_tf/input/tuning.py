"""tf.data without the thread that tunes a pipeline while it runs. All pipelines of this package do without it.

The thread sleeps for up to a minute. The end of an iterator wakes it just before it marks it as cancelled (TF 2.21,
Model::OptimizeLoop). If the thread looks in between, it sleeps again, and the process stands still for the rest of the
minute, with all its threads of Python.
"""
from __future__ import annotations

import tensorflow as tf

from mrcnn_tf.files.cores import CORES

# Records that are processed in parallel: as many as there are cores, because nothing tunes the number.
PARALLEL = CORES


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset without the tuning thread. Give its `map`s `PARALLEL` calls, not `tf.data.AUTOTUNE`."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
