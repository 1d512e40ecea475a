"""From a config and a manifest to a trained model directory, on one device, several, or several machines.

B: global batch; R: replicas of this process. step: optimizer updates done.
"""
from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.input.damage import explain
from mrcnn_tf.input.dataset import training_dataset
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.training import resuming, schedules
from mrcnn_tf.training.callbacks import (
    Interruption,
    NonFiniteStop,
    PositivesStop,
    Save,
    Scalars,
    Show,
    TrainingError,
    step_of,
)
from mrcnn_tf.training.checkpoints import Checkpoints
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.sets import read_sets
from mrcnn_tf.training.strategies import Worker, find_worker, make_strategy, mean_over_workers
from mrcnn_tf.weights.checkpoint_files import steps_in
from mrcnn_tf.weights.keras_applications import load_imagenet
from mrcnn_tf.weights.model_directory import create


def train(config: Config, model_dir: str | os.PathLike[str], allow_changes: bool = False, learnt: bool = False) -> None:
    """Trains to the last step of the schedule, from the newest checkpoint where the directory has one.

    Under multi_worker each process calls this, with one `model_dir` that all can read; the first one writes.

    Args:
        allow_changes, learnt: which settings may differ from those of a run that is resumed, see `resuming.check`.

    Raises:
        ManifestError, InputError: a manifest or records that cannot be used.
        StrategyError: the devices or the cluster are not there.
        CheckpointError: the directory holds a run with settings that may not change, or no checkpoint that is whole,
            or cannot be written.
        TrainingError: sets that do not fit the settings or each other, too few devices, a loss that is not finite,
            steps without a positive sample, too little memory, a signal (then all is saved, and the same call resumes).
    """
    directory = pathlib.Path(model_dir)
    manifest, categories = read_sets(config, directory)
    changes = resuming.check(directory, config, allow_changes, learnt)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    worker = find_worker(config.train)
    run = _Run(config, directory, worker, make_strategy(config.train), _labels(manifest, categories))
    run.check_batch()
    keras.utils.set_random_seed(config.train.seed)
    with _precision(config.train.precision):
        model = _build(run)
        checkpoints = Checkpoints(run.directory, model, config.train.keep_checkpoints, worker)
        _restore(run, checkpoints)
        if worker.is_chief:
            create(directory, config, categories)
        if changes:
            run.say(f'{directory / "config.yaml"}: changed: {resuming.described(changes)}')
        run.say(_heading(run, manifest, step_of(model)))
        begun = time.perf_counter()
        if step_of(model) < run.steps:
            _fit(run, model, checkpoints)
    took = datetime.timedelta(seconds=round(time.perf_counter() - begun))
    run.say(f'{run.directory} is trained: step {step_of(model)} of {run.steps}, {took} this time')


@dataclass(frozen=True)
class _Run:
    """What stays the same from the first step to the last."""
    config: Config
    directory: pathlib.Path
    worker: Worker
    strategy: tf.distribute.Strategy
    labels: list[int]      # of the model for each label of the data, 0 included

    @property
    def steps(self) -> int:
        return schedules.scaled(self.config.solver, self.config.data.batch_size).steps

    @property
    def schedule(self) -> LearningRateSchedule:
        return schedules.learning_rate(self.config.solver, self.config.data.batch_size)

    @property
    def jit_compile(self) -> bool:
        choice = self.config.train.jit_compile
        return choice == 'on' or (choice == 'auto' and bool(tf.config.list_physical_devices('GPU')))

    def check_batch(self) -> None:
        batch, replicas = self.config.data.batch_size, self.strategy.num_replicas_in_sync
        if batch % replicas:
            raise TrainingError(f'data.batch_size is {batch}: expected a multiple of the {replicas} replicas')

    def say(self, line: str) -> None:
        if self.worker.is_chief:
            print(line, flush=True)


def _labels(manifest: Manifest, categories: Sequence[Category]) -> list[int]:
    of_id = {category.id: category.label for category in categories}
    return [0, *(of_id[category.id] for category in manifest.categories)]


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    """The policy is global in Keras: a model built after training should not inherit it."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _build(run: _Run) -> Detector:
    """The compiled model, with initial weights and optimizer slots."""
    config = run.config
    with run.strategy.scope():
        model = build_detector(config.model, engine='xla' if run.jit_compile else 'op')
        if config.model.backbone.weights == 'imagenet' and not steps_in(run.directory / 'checkpoints'):
            load_imagenet(model)
        model.compile(optimizer=build_optimizer(config.solver, run.schedule, model), clip_norm=config.solver.clip_norm,
                      seed=config.train.seed, jit_compile=run.jit_compile)
    return model


def _restore(run: _Run, checkpoints: Checkpoints) -> None:
    step = checkpoints.restore()
    if mean_over_workers(run.strategy, step) != step:
        raise TrainingError(f'worker {run.worker.index} finds step {step} in {run.directory} and another does not; '
                            'give a --model-dir on storage that all workers share')
    if step > run.steps:
        raise TrainingError(f'{run.directory} is at step {step}, beyond the {run.steps} that solver.steps comes to; '
                            'give more solver.steps to train on')


def _heading(run: _Run, manifest: Manifest, step: int) -> str:
    images = f'{manifest.counts.images} images of {run.config.data.train}'
    steps = f'resumes at step {step} of {run.steps}' if step else f'{run.steps} steps'
    batch = f'of {run.config.data.batch_size} images on {run.strategy.num_replicas_in_sync} replica(s)'
    return f'{images}: {steps} {batch}, {run.config.train.precision}{", XLA" if run.jit_compile else ""}'


def _fit(run: _Run, model: Detector, checkpoints: Checkpoints) -> None:
    start = step_of(model)
    with Interruption() as interruption, contextlib.ExitStack() as stack:
        save = Save(checkpoints, run.config.train.checkpoint_every, run.steps, _stop_test(run, interruption))
        callbacks = [NonFiniteStop(), PositivesStop(run.config.train.stop_without_positives), save,
                     *(_reports(run, stack) if run.worker.is_chief else [])]
        with _explained(run, model):
            # Everything here counts in steps, so all of them are one epoch of Keras's.
            model.fit(_distributed(run, start), steps_per_epoch=run.steps - start, callbacks=callbacks,
                      shuffle=False, verbose=0)
    if step_of(model) < run.steps:
        raise TrainingError(f'stopped by {interruption.name or "another worker"} at step {step_of(model)} of '
                            f'{run.steps}, which is saved in {run.directory}; the same command goes on from there')


def _reports(run: _Run, stack: contextlib.ExitStack) -> list[keras.callbacks.Callback]:
    every = (run.config.train.log_every, run.steps, run.config.data.batch_size)
    return [Scalars(run.directory / 'logs', run.schedule, *every), stack.enter_context(Show(*every))]


def _stop_test(run: _Run, interruption: Interruption) -> Callable[[int], bool]:
    """Whether to stop after a step: at once when alone; workers ask each other every `train.log_every` steps."""
    def stop(step: int) -> bool:
        ask = run.worker.count == 1 or step % run.config.train.log_every == 0
        return ask and mean_over_workers(run.strategy, float(bool(interruption.name))) > 0
    return stop


def _distributed(run: _Run, start: int) -> tf.data.Dataset:
    """This worker's batches from step `start` on, cut into one part a replica: all replicas get the same canvas."""
    parts = run.strategy.num_replicas_in_sync // run.worker.count

    def local(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        dataset = training_dataset(str(run.config.data.train), run.config, start, (run.worker.index, run.worker.count))
        if run.labels != list(range(len(run.labels))):
            dataset = dataset.map(lambda batch: {**batch, 'labels': tf.gather(run.labels, batch['labels'])})
        return dataset if parts == 1 else dataset.map(lambda batch: _cut(batch, parts)).unbatch().prefetch(parts)

    return local() if run.strategy.num_replicas_in_sync == 1 else run.strategy.distribute_datasets_from_function(local)


def _cut(batch: dict[str, tf.Tensor], parts: int) -> dict[str, tf.Tensor]:
    """[B, ...] -> [R, B / R, ...], R = parts."""
    return {key: tf.reshape(value, tf.concat([[parts, value.shape[0] // parts], tf.shape(value)[1:]], axis=0))
            for key, value in batch.items()}


@contextlib.contextmanager
def _explained(run: _Run, model: Detector) -> Iterator[None]:
    """Turns what TensorFlow raises in a step into one line, where the user can mend it."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise TrainingError(f'out of memory after {step_of(model)} steps; lower data.batch_size, or data.short_sides, '
                            'data.long_side and data.canvases') from None
    except tf.errors.UnavailableError:
        raise TrainingError('another worker is gone, its own output tells why; start all again with the same command, '
                            'they go on from the newest checkpoint') from None
    except tf.errors.OpError as error:
        explained = explain(error, str(run.config.data.train))
        if explained is error:
            raise
        raise explained from None
