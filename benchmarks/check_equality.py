"""Checks that training does not depend on how a batch is split: on replicas, in parts, with and without XLA.

A detector of 64 x 64 px is trained for five steps on six images, two of which have no objects, in several ways. The
table says how far the weights are from those of one replica, as a fraction of the way that they have moved:

    python -m benchmarks.check_equality [--gpu] [--deterministic]

Without --gpu, the CPU is split into three devices. With --deterministic, which XLA does not support, the same way twice
gives the same bits.
"""
from __future__ import annotations

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.schedules import Steps
from tests.detectors.small import make_batch, small_config

STEPS = 5
LIMIT = .01     # of the fraction
# name: replicas, accumulated parts, XLA, train.recompute
WAYS = {
    '1 replica': (1, 1, False, False), '1 replica, again': (1, 1, False, False), '2 replicas': (2, 1, False, False),
    '3 replicas': (3, 1, False, False), '1 replica, 3 parts': (1, 3, False, False),
    '2 replicas, XLA': (2, 1, True, False), '1 replica, XLA': (1, 1, True, False),
    '1 replica, 2 parts, XLA': (1, 2, True, False), '1 replica, recomputed': (1, 1, False, True),
    '2 replicas, XLA, recomputed': (2, 1, True, True), '1 replica, 2 parts, XLA, recomputed': (1, 2, True, True)}


def images() -> dict[str, tf.Tensor]:
    """Return a batch of six images; the last two, which one of three replicas gets, have no objects."""
    parts = [{name: value.numpy() for name, value in make_batch().items()} for _ in range(3)]
    for number, part in enumerate(parts):
        part['image_ids'] = part['image_ids'] + 100 * number
        part['images'] = np.roll(part['images'], 5 * number, axis=2)
        if number == 2:
            part['valid'][:], part['boxes'][:], part['has_mask'][:] = False, 0, False
    return {name: tf.constant(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def train(norm: str, replicas: int, parts: int, jit: bool, recompute: bool
          ) -> tuple[list[np.ndarray], list[np.ndarray], dict, float]:
    """Return the weights before and after, the last losses, and the seconds of the first step."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    devices = tf.config.list_logical_devices('GPU') or tf.config.list_logical_devices('CPU')
    # TensorFlow's collectives know one group of devices for each process.
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices[:replicas]],
                                              tf.distribute.ReductionToOneDevice()) if replicas > 1 else (
        tf.distribute.get_strategy())
    with strategy.scope():
        model = build_detector(small_config(backbone__norm=norm), 'xla' if jit else 'op')
        before = model.get_weights()
        model.compile(build_optimizer(SolverConfig(weight_decay=1e-4), Steps(.02, [], 1.), model), clip_norm=1., seed=3,
                      jit_compile=jit, accumulation_steps=parts, recompute=recompute)
    data = {name: value.numpy() for name, value in images().items()}

    def of_replica(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(data).batch(6 // replicas, drop_remainder=True).repeat()

    dataset = of_replica(None) if replicas == 1 else strategy.distribute_datasets_from_function(of_replica)
    iterator, step = iter(dataset), model.make_train_function()
    begun, first = time.perf_counter(), 0.
    for _ in range(STEPS):
        losses = step(iterator)
        first = first or time.perf_counter() - begun
    return before, model.get_weights(), {name: float(value) for name, value in losses.items()}, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--gpu', action='store_true', help='use GPUs')
    parser.add_argument('--deterministic', action='store_true', help='as train.deterministic')
    parser.add_argument('--norm', default='frozen', help='model.backbone.norm')
    parser.add_argument('--ways', nargs='+', default=WAYS, choices=WAYS, help='only these; the first is the reference')
    arguments = parser.parse_args()
    if arguments.deterministic:
        tf.config.experimental.enable_op_determinism()
    if not arguments.gpu:
        tf.config.set_visible_devices([], 'GPU')
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 3)
    reference = None
    for name in arguments.ways:
        before, after, losses, seconds = train(arguments.norm, *WAYS[name])
        reference = reference or after
        moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(reference, before, strict=True)))
        apart = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(reference, after, strict=True)))
        verdict = 'ok' if apart <= (0 if arguments.deterministic and 'again' in name else LIMIT) * moved else 'FAILED'
        print(f'{name:36} {verdict}: {apart / moved:8.1e} of the way {moved:.3f}; loss {losses["loss"]:.6f}, positives '
              f'{losses["positive_rois"]:.0f}; first step {seconds:.0f} s', flush=True)


if __name__ == '__main__':
    main()
