"""Trains a small detector for 50 steps in each precision and checks that losses and weights are finite and losses fall:

    python -m benchmarks.check_precision [--xla] [--gpu]
"""
from __future__ import annotations

import argparse

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.schedules import Steps, WarmUp
from tests.detectors.small import make_batch, small_config

STEPS = 50


def train(precision: str, jit: bool) -> str:
    """Return a line about the losses."""
    keras.utils.set_random_seed(1)
    keras.mixed_precision.set_global_policy(precision)
    model = build_detector(small_config(backbone__norm='group'), 'xla' if jit else 'op')
    model.compile(build_optimizer(SolverConfig(), WarmUp(Steps(.02, [], 1.), 10, .1), model), clip_norm=10.,
                  jit_compile=jit)
    step, batches = model.make_train_function(), iter(lambda: make_batch(), None)
    losses = [float(step(batches)['loss']) for _ in range(STEPS)]
    finite = np.isfinite(losses).all() and all(np.isfinite(w).all() for w in model.get_weights())
    scale = model.loss_scale
    scaled = f', loss scale {float(scale.scale):.0f}, {float(scale.skipped):.0f} steps skipped' if scale else ''
    verdict = 'ok' if finite and losses[-1] < losses[0] else 'FAILED'
    return f'{precision:16} loss {losses[0]:.3f} -> {losses[-1]:.3f}{scaled}: {verdict}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--xla', action='store_true', help='compile the step with XLA')
    parser.add_argument('--gpu', action='store_true', help='use a GPU')
    arguments = parser.parse_args()
    if not arguments.gpu:
        tf.config.set_visible_devices([], 'GPU')
    for precision in ('mixed_float16', 'mixed_bfloat16', 'float32'):
        print(train(precision, arguments.xla), flush=True)


if __name__ == '__main__':
    main()
