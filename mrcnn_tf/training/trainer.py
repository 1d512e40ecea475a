"""Training of a model directory from a config, on one device, several devices or several machines.

B: global batch size; R: replicas of this process. step: the number of optimizer updates done.
"""
from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from mrcnn_tf.config import Config, SolverConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.evaluation.validation import Evaluated, Validator
from mrcnn_tf.input.damage import explain
from mrcnn_tf.input.dataset import training_parts
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.input.survey import counted
from mrcnn_tf.layers.precision import precision_policy
from mrcnn_tf.training import fingerprint, loggers, resuming, schedules
from mrcnn_tf.training.averages import Copies, averages_of
from mrcnn_tf.training.callbacks import (
    DeferredSignals,
    SaveCheckpoints,
    StoppedBySignal,
    TerminateOnNonFinite,
    TerminateWithoutPositives,
    TrainingError,
    step_of,
)
from mrcnn_tf.training.checkpoints import Checkpoints
from mrcnn_tf.training.clusters import Cluster, Worker, cluster_of
from mrcnn_tf.training.heading import heading
from mrcnn_tf.training.input_service import InputServers
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.peers import Peers
from mrcnn_tf.training.reports import LogScalars, ProgressBar
from mrcnn_tf.training.sets import read_sets
from mrcnn_tf.training.strategies import input_strategy, join, make_strategy, naming_failures
from mrcnn_tf.training.validation import Evaluate, Evaluations, Outcome, Validation, evaluation_interval
from mrcnn_tf.weights.checkpoint_files import steps_in
from mrcnn_tf.weights.history import History
from mrcnn_tf.weights.keras_applications import load_imagenet
from mrcnn_tf.weights.model_directory import create, weights_reader


def train(config: Config, model_dir: str | os.PathLike[str], allow_changes: bool = False,
          has_dependents: bool = False) -> None:
    """Train a model to the last step of its schedule, or resume from the newest checkpoint of the directory.

    With train.strategy=multi_worker, each process calls this with the same `model_dir` on storage that all workers
    share; the first worker (the chief) writes.

    Args:
        config: all settings.
        model_dir: the model directory; created if it does not exist.
        allow_changes, has_dependents: which settings may change when a run is resumed, see `resuming.check`.

    Raises:
        ManifestError, InputError: a manifest or its records cannot be used.
        StrategyError: the devices are not available.
        ClusterError: the environment does not describe a cluster, or a port is in use.
        InputServerError: an input server cannot be reached, has other versions, or fails.
        PeerError: another worker of the cluster differs, has failed or does not answer.
        CheckpointError: settings differ that may not change, no checkpoint is complete, or none can be written.
        TrainingError: the sets do not match the settings or each other; too few devices; a loss is not finite; no step
            has a positive sample; out of memory.
        StoppedBySignal: a signal; everything is saved, and the same call resumes.
    """
    cluster = cluster_of(config.train)
    with join(cluster, config.train.timeout) as peers, naming_failures(peers):
        _train(config, pathlib.Path(model_dir), cluster, peers, lambda resolved: resuming.check(
            pathlib.Path(model_dir), resolved, allow_changes, has_dependents))


def _train(config: Config, directory: pathlib.Path, cluster: Cluster, peers: Peers,
           compare: Callable[[Config], list[resuming.Difference]]) -> None:
    """Train as one of the workers of a cluster; `compare` returns the settings that differ from those of the run."""
    manifest, categories = read_sets(config, directory)
    if peers.count > 1:
        peers.agree('settings', fingerprint.of_settings(config), 'start all workers with the same command, data and '
                    'versions')
    strategy = make_strategy(config.train, cluster)
    config = _in_steps(config, manifest)
    changes = compare(config)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    servers = InputServers(config.train.input_servers, config.train.timeout)
    run = _Run(config, directory, peers, cluster.worker, strategy, _labels(manifest, categories), servers)
    run.check_batch()
    run.check_compilation()
    if run.worker.is_chief:
        loggers.check(config.train.loggers)
    keras.utils.set_random_seed(config.train.seed)
    with servers, precision_policy(config.train.precision):
        model, history = _build(run), History(directory, config.train.best_metric)
        evaluate = _evaluate_function(run, categories)
        averages = averages_of(model, run.solver)
        further = _further_parts(model, averages)
        checkpoints = Checkpoints(directory, model, config.train.keep_checkpoints, run.worker, history, further)
        _restore(run, checkpoints, lambda: fingerprint.of_model(model, further))
        if step_of(model) == 0:
            for each in averages:    # the weights may be imported ones
                each.reset()
        if run.worker.is_chief:
            create(directory, config, categories)
            history.remove_after(step_of(model))
        if changes:
            run.say(f'{directory / "config.yaml"}: changed: {resuming.describe(changes)}')
        for line in heading(config, manifest, model, run.strategy, step_of(model)) if run.worker.is_chief else ():
            run.say(line)
        begun = time.perf_counter()
        _fit(run, model, checkpoints, history, evaluate, averages)
    took = datetime.timedelta(seconds=round(time.perf_counter() - begun))
    run.say(f'{_ending(run, history, step_of(model))}, {took} this time')


@dataclass(frozen=True)
class _Run:
    """The constants of a training run.

    Attributes:
        labels: the model's label for each label of the records, including 0 (background).
    """
    config: Config
    directory: pathlib.Path
    peers: Peers
    worker: Worker
    strategy: tf.distribute.Strategy
    labels: list[int]
    servers: InputServers

    @property
    def solver(self) -> SolverConfig:
        return schedules.scaled(self.config.solver, self.config.data.batch_size)

    @property
    def steps(self) -> int:
        return self.solver.steps

    @property
    def schedule(self) -> LearningRateSchedule:
        return schedules.learning_rate(self.config.solver, self.config.data.batch_size)

    @property
    def evaluation_interval(self) -> int:
        return evaluation_interval(self.config.train, self.config.data.validation, self.steps)

    @property
    def jit_compile(self) -> bool:
        train = self.config.train
        return train.jit_compile == 'on' or (train.jit_compile == 'auto' and _has_gpu() and not train.deterministic
                                             and not self.synchronizes)

    @property
    def engine(self) -> str:
        """The engine of RoIAlign: the op engine's gradient has no deterministic kernel on a GPU."""
        return 'xla' if self.jit_compile or (self.config.train.deterministic and _has_gpu()) else 'op'

    @property
    def synchronizes(self) -> bool:
        """Whether replicas exchange statistics of batch normalization in each forward pass."""
        return self.strategy.num_replicas_in_sync > 1 and 'sync' in self.config.model.norms

    def check_compilation(self) -> None:
        """Raise TrainingError for XLA with synchronized batch normalization on several replicas."""
        if self.jit_compile and self.synchronizes:
            raise TrainingError('train.jit_compile is on: XLA cannot compile synchronized batch normalization, which '
                                'exchanges statistics between replicas in the middle of a pass; set '
                                'train.jit_compile=auto or off, or use the norm group or frozen instead of sync')

    def check_batch(self) -> None:
        """Raise TrainingError if the batch cannot be split evenly among the replicas."""
        batch, replicas = self.config.data.batch_size, self.strategy.num_replicas_in_sync
        parts = self.config.train.accumulation_steps
        if batch % (replicas * parts):
            raise TrainingError(f'data.batch_size is {batch}: expected a multiple of the {replicas} replicas'
                                f'{f" times train.accumulation_steps={parts}" if parts > 1 else ""}')

    def say(self, line: str) -> None:
        """Print a line, on the chief only."""
        if self.worker.is_chief:
            print(line, flush=True)


def _in_steps(config: Config, manifest: Manifest) -> Config:
    """Return the config with `solver.steps` for `solver.epochs`, of the images that training uses."""
    images = counted(str(config.data.train), manifest, config).usable if config.solver.epochs else 0
    solver = schedules.in_steps(config.solver, images, config.data.batch_size)
    return dataclasses.replace(config, solver=solver)


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices('GPU'))


def _labels(manifest: Manifest, categories: Sequence[Category]) -> list[int]:
    of_id = {category.id: category.label for category in categories}
    return [0, *(of_id[category.id] for category in manifest.categories)]


def _build(run: _Run) -> Detector:
    """Return the compiled model with initial weights and optimizer slots."""
    config = run.config
    with run.strategy.scope():
        model = build_detector(config.model, engine=run.engine)
        if config.model.backbone.weights == 'imagenet' and not steps_in(run.directory / 'checkpoints'):
            load_imagenet(model)
        model.compile(optimizer=build_optimizer(config.solver, run.schedule, model), clip_norm=config.solver.clip_norm,
                      seed=config.train.seed, jit_compile=run.jit_compile,
                      accumulation_steps=config.train.accumulation_steps, recompute=config.train.recompute)
    return model


def _further_parts(model: Detector, averages: Sequence[Copies]) -> dict[str, dict[str, tf.Variable]]:
    """Return the parts of a checkpoint besides weights and optimizer slots."""
    scale = getattr(model, 'loss_scale', None)
    return {**{each.name: each.by_path for each in averages}, **({'loss_scale': scale.by_name} if scale else {})}


def _evaluate_function(run: _Run, categories: Sequence[Category]) -> Evaluate | None:
    """Return the function that evaluates a checkpoint, in a detector of its own; None if this worker does not."""
    if not run.worker.is_chief or not run.evaluation_interval:
        return None
    with precision_policy('float32'):    # as in `mrcnn evaluate`
        validator = Validator(build_detector(run.config.model), run.config, categories)
    read_weights = weights_reader(validator.detector)

    def evaluate(prefix: pathlib.Path, progress: Callable[[float], None]) -> Evaluated:
        with run.peers.pause():
            read_weights(prefix)
            return validator(progress)

    return evaluate


def _restore(run: _Run, checkpoints: Checkpoints, compared: Callable[[], dict[str, str]]) -> None:
    """Restore the newest checkpoint, if any, and check that all workers have the same weights."""
    step = checkpoints.restore()
    if run.worker.count > 1:
        run.peers.agree('weights', compared(), 'give a --model-dir on storage that all workers share')
    if step > run.steps:
        raise TrainingError(f'{run.directory} is at step {step}, after the last step {run.steps} of the schedule; '
                            'raise solver.steps to train longer')


def _fit(run: _Run, model: Detector, checkpoints: Checkpoints, history: History, evaluate: Evaluate | None,
         averages: Sequence[Copies]) -> None:
    """Train to the last step, or until evaluations no longer improve."""
    start = step_of(model)
    with DeferredSignals() as signals, contextlib.ExitStack() as stack, _one_line_errors(run, model):
        run.peers.on_signal = signals.receive
        logs = stack.enter_context(loggers.opened(run.config, run.directory)) if run.worker.is_chief else []
        evaluations = Evaluations(evaluate, run.directory, history, run.config.train.patience, signals, run.say, logs
                                  ) if evaluate else None
        validation = Validation(run.evaluation_interval, run.steps, evaluations, run.strategy, run.worker.count)
        validation.resume(start)
        if start < run.steps and validation.outcome is Outcome.CONTINUE:
            reports = _reports(run, stack, logs) if run.worker.is_chief else []
            if evaluations:
                evaluations.reports = reports
            save = SaveCheckpoints(checkpoints, _save_condition(run, validation),
                                   lambda step: run.peers.stops_at(step, signals.name),
                                   lambda: run.peers.timed('has been writing a checkpoint'))
            model.input_context = lambda: run.peers.timed('has waited for its input')
            model.step_context = run.peers.step
            model.take_batch = run.servers.take if run.config.train.input == 'service' else next
            stack.enter_context(run.peers.watched(start))
            guards = [TerminateOnNonFinite(), TerminateWithoutPositives(run.config.train.stop_without_positives)]
            # All intervals are counted in steps, so the whole run is one epoch for Keras.
            model.fit(_distributed(run, start, model.needs), steps_per_epoch=run.steps - start,
                      callbacks=[*guards, *averages, save, *reports, validation], shuffle=False, verbose=0)
    if step_of(model) < run.steps and validation.outcome is not Outcome.END:
        run.peers.leave()
        raise StoppedBySignal(f'stopped by {run.peers.signal or signals.name or "another worker"} at step '
                            f'{step_of(model)} of {run.steps}, which is saved in {run.directory}; resume with the same '
                            'command')


def _ending(run: _Run, history: History, step: int) -> str:
    """Return the last line of the log: how far the run is trained, why it ended, and its best checkpoint."""
    best = history.best()
    found = f'; the best checkpoint is step-{best.step}, {history.metric} {best.values[str(history.metric)]:.4f}' if (
        best) else ''
    if step == run.steps:
        return f'{run.directory} is trained: step {step} of {run.steps}{found}'
    return (f'{run.directory}: training ended at step {step} of {run.steps}, after {history.since_best()} evaluations '
            f'without improvement (train.patience){found}')


def _reports(run: _Run, stack: contextlib.ExitStack, logs: Sequence[loggers.Logger]
             ) -> list[keras.callbacks.Callback]:
    """Return the callbacks that only the chief uses."""
    intervals = (run.config.train.log_every, run.steps, run.config.data.batch_size)
    return [LogScalars(logs, run.schedule, *intervals), stack.enter_context(ProgressBar(*intervals))]


def _save_condition(run: _Run, validation: Validation) -> Callable[[int], bool]:
    """Return a function of the step that is true if its checkpoint is saved; evaluations read it."""
    every = run.config.train.checkpoint_every
    return lambda step: step % every == 0 or step == run.steps or validation.is_due(step)


def _distributed(run: _Run, start: int, needs: Sequence[str]) -> tf.data.Dataset:
    """Return this worker's batches from step `start` on.

    Each batch is split into one part per replica, so that all replicas of a step have the same canvas.
    """
    parts = run.strategy.num_replicas_in_sync // run.worker.count

    def local(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        shard = run.worker.index, run.worker.count
        dataset = run.servers.dataset(run.config, start, shard, needs) if run.config.train.input == 'service' else (
            training_parts(str(run.config.data.train), run.config, start, shard, needs)[0])
        if run.labels != list(range(len(run.labels))):
            dataset = dataset.map(lambda batch: {**batch, 'labels': tf.gather(run.labels, batch['labels'])})
        if parts > 1:
            dataset = dataset.map(lambda batch: _split(batch, parts)).unbatch().prefetch(parts)
        # Otherwise the workers ask each other before each step whether all still have a batch.
        return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    strategy = input_strategy(run.strategy)
    if strategy and run.strategy.num_replicas_in_sync == 1:
        run.servers.device = strategy.extended.worker_devices[0]
    return strategy.distribute_datasets_from_function(local) if strategy else local()


def _split(batch: dict[str, tf.Tensor], parts: int) -> dict[str, tf.Tensor]:
    """[B, ...] -> [R, B / R, ...], R = parts."""
    return {key: tf.reshape(value, tf.concat([[parts, value.shape[0] // parts], tf.shape(value)[1:]], axis=0))
            for key, value in batch.items()}


@contextlib.contextmanager
def _one_line_errors(run: _Run, model: Detector) -> Iterator[None]:
    """Replace TensorFlow's errors in a step by errors of one line where the user can fix the cause."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise TrainingError(f'out of memory after {step_of(model)} steps; lower data.batch_size, or data.short_sides, '
                            'data.long_side and data.canvases') from None
    except tf.errors.OpError as error:
        if 'deterministic XLA implementation' in error.message:
            raise TrainingError('XLA has no deterministic form of an operation of this model, such as the gradient of '
                                'max pooling; set train.jit_compile=off or train.deterministic=false') from None
        diagnosed = explain(error, str(run.config.data.train))
        if diagnosed is error:
            raise
        raise diagnosed from None
