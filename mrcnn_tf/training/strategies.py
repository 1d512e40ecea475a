"""Distribution strategies, and the place of this process in a cluster."""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.files.text import error_line

_EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'


class StrategyError(ValueError):
    """The devices or the cluster cannot be used; the message is one line."""


@dataclass(frozen=True)
class Worker:
    """This process in its cluster. The first worker is the chief: it prints, and writes the model directory."""
    index: int = 0
    count: int = 1

    @property
    def is_chief(self) -> bool:
        return self.index == 0


SINGLE_WORKER = Worker()


def find_worker(train: TrainConfig) -> Worker:
    """Return the worker that this process is: from TF_CONFIG with multi_worker, otherwise a single one.

    Raises:
        StrategyError: TF_CONFIG is missing or does not describe a cluster and a task in it.
    """
    return _worker_of(os.environ.get('TF_CONFIG', '')) if train.strategy == 'multi_worker' else SINGLE_WORKER


def make_strategy(train: TrainConfig) -> tf.distribute.Strategy:
    """Return the strategy of `train.strategy`; auto is mirrored if several GPUs are visible, otherwise one_device.

    With multi_worker, the call must precede every other operation of TensorFlow in the process, and blocks until all
    workers have joined.

    Raises:
        StrategyError: as `find_worker`, or multi_worker after TensorFlow has started.
    """
    if train.strategy == 'multi_worker':
        return _multi_worker(find_worker(train))
    several = len(tf.config.list_logical_devices('GPU')) > 1
    if train.strategy == 'mirrored' or (train.strategy == 'auto' and several):
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def mean_over_workers(strategy: tf.distribute.Strategy, value: float) -> float:
    """Return the mean of a value over all workers, each of which must call this at the same step."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return value
    each = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(value, tf.float64))
    return float(strategy.reduce('mean', each, axis=None))


def average_statistics(model: keras.Model) -> None:
    """Set the moving statistics of batch normalization on all replicas to their mean over the replicas.

    Each worker must call this at the same step. Keras 2 averages such variables one by one when they are read; Keras 3
    does not. Synchronized and frozen statistics are equal on all replicas already.
    """
    strategy = model.distribute_strategy
    statistics = [variable for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)
                  and layer.trainable and not layer.synchronized for variable in layer.non_trainable_variables]
    if strategy.num_replicas_in_sync == 1 or not statistics:
        return

    @tf.function(autograph=False)
    def mean() -> tf.Tensor:
        # Concatenated, for a single all-reduce.
        each = strategy.run(lambda: tf.concat([tf.convert_to_tensor(variable) for variable in statistics], axis=0))
        return strategy.reduce('mean', each, axis=None)

    with strategy.scope():
        for variable, value in zip(statistics, tf.split(mean(), [v.shape[0] for v in statistics]), strict=True):
            variable.assign(value)


def _multi_worker(worker: Worker) -> tf.distribute.Strategy:
    print(f'worker {worker.index + 1} of {worker.count}: waiting for all workers to join', flush=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise StrategyError(f'train.strategy=multi_worker: {error_line(error)}') from None


def _worker_of(text: str) -> Worker:
    """Parse TF_CONFIG. TensorFlow numbers the chief first, then the workers."""
    if not text.strip():
        raise StrategyError(f'train.strategy=multi_worker needs the environment variable TF_CONFIG, such as {_EXAMPLE}')
    try:
        config = json.loads(text)
        cluster, kind, index = config['cluster'], config['task']['type'], int(config['task']['index'])
        chiefs, workers = _addresses(cluster, 'chief'), _addresses(cluster, 'worker')
        tasks = {'chief': chiefs, 'worker': workers}[kind]
        if not 0 <= index < len(tasks):
            raise ValueError(f'task.index is {index} and cluster.{kind} has {len(tasks)} tasks')
    except (ValueError, TypeError, KeyError) as error:
        reason = f'key or value {error} is missing' if isinstance(error, KeyError) else error_line(error)
        raise StrategyError(f'TF_CONFIG: {reason}; expected a JSON object such as {_EXAMPLE}') from None
    return Worker(index + (len(chiefs) if kind == 'worker' else 0), len(chiefs) + len(workers))


def _addresses(cluster: dict[str, Any], kind: str) -> list[str]:
    addresses = cluster.get(kind, []) if isinstance(cluster, dict) else None
    if not isinstance(addresses, list):
        raise ValueError(f'cluster.{kind} is {addresses!r}, not a list of host:port')
    return addresses
