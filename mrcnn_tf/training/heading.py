"""The first lines of a training's log: devices, data, model, schedule, and what the settings were scaled to."""
from __future__ import annotations

import collections
import math
import os
import pathlib
import shutil
from collections.abc import Iterator

import keras
import tensorflow as tf

from mrcnn_tf.config import Config
from mrcnn_tf.files.cores import CORES
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.training import schedules

_DRIVER = pathlib.Path('/proc/driver/nvidia')


def heading(config: Config, manifest: Manifest, model: keras.Model, strategy: tf.distribute.Strategy, step: int
            ) -> Iterator[str]:
    """Yield a line each about devices, data, model and schedule.

    Args:
        config: of the run.
        manifest: of `data.train`.
        model: compiled, in the scope of the strategy.
        strategy: of the training.
        step: at which the run begins; 0 if it is new.
    """
    yield f'device: {_devices(strategy)}, {config.train.precision}{", XLA" if model.jit else ""}'
    if model.engine == 'xla' and not model.jit:
        yield ('determinism: RoIAlign uses the xla engine, which is slower, because the op engine has no deterministic '
               'gradient on a GPU; XLA is off because it has none of max pooling (train.deterministic)')
    if gpu := unused_gpu():
        yield gpu
    counts, validation = manifest.counts, config.data.validation
    yield (f'data: {counts.images} images with {counts.objects} objects of {config.data.train}; '
           f'{f"validation on {validation}" if validation else "no validation, data.validation is not set"}')
    if servers := config.train.input_servers:
        yield f'input: batches of {len(servers)} input server{"s" * (len(servers) > 1)} ({", ".join(servers)})'
    total, trained = (sum(math.prod(variable.shape) for variable in variables)
                      for variables in (model.weights, model.trainable_weights))
    yield (f'model: {config.model.kind}, {config.model.backbone.name} with {config.model.backbone.maps}, '
           f'{total:,} parameters, {trained:,} of them trained')
    yield schedule_line(config, counts.images, step)


def schedule_line(config: Config, images: int, step: int) -> str:
    """Return the line about the schedule; scaled numbers are shown with the numbers of the config.

    Args:
        config: of the run.
        images: of `data.train`.
        step: at which the run begins.
    """
    given, batch = config.solver, config.data.batch_size
    used, reference = schedules.scaled(given, batch), given.reference_batch
    steps, rate = f'{used.steps} steps', f'{used.learning_rate:g}'
    if given.scale_with_batch and batch != reference:
        steps += f' = {given.steps} {_times(reference, batch)}'
        rate += f' = {given.learning_rate:g} {_times(batch, reference)} (solver.scale_with_batch)'
    return (f'schedule: {steps} of {batch} images = {used.steps * batch / max(1, images):.1f} epochs; learning rate '
            f'{rate}, {given.optimizer}, {given.schedule}, {used.warmup_steps} steps of warm-up'
            f'{f"; resumes at step {step} of {used.steps}" if step else ""}')


def unused_gpu() -> str:
    """Return a line if the machine has an NVIDIA GPU and TensorFlow sees none; else ''."""
    present = _DRIVER.exists() or shutil.which('nvidia-smi')
    if not present or tf.config.list_physical_devices('GPU'):
        return ''
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    reason = f'CUDA_VISIBLE_DEVICES is {visible!r}' if visible is not None else (
        "install CUDA's libraries with `pip install 'tensorflow[and-cuda]'`, and check the driver with `nvidia-smi`")
    return f'device: this machine has an NVIDIA GPU, but TensorFlow sees none and trains on the CPU: {reason}'


def _devices(strategy: tf.distribute.Strategy) -> str:
    """Return the number and names of the devices, such as '2 x NVIDIA H100'."""
    gpus = tf.config.list_physical_devices('GPU')
    if strategy.num_replicas_in_sync == 1:
        gpus = gpus[:1]
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = collections.Counter(each.get('device_name', 'GPU') for each in details)
    here = ', '.join(f'{count} x {name}' for name, count in names.items()) or f'CPU, {CORES} cores'
    replicas = strategy.num_replicas_in_sync
    return f'{here}; {replicas} replicas' if replicas > 1 else here


def _times(numerator: int, denominator: int) -> str:
    """Return a factor: 'x 8', '/ 8' or 'x 16 / 6'."""
    if numerator % denominator == 0:
        return f'x {numerator // denominator}'
    return f'/ {denominator // numerator}' if denominator % numerator == 0 else f'x {numerator} / {denominator}'
