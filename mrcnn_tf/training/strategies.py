"""Distribution strategies, and the place of this process in a cluster."""
from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

import keras
import tensorflow as tf
from tensorflow.python.eager import context

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.files.text import error_line
from mrcnn_tf.training.clusters import SINGLE, Cluster
from mrcnn_tf.training.peers import RESTART, PeerError, Peers

# Errors of an operation that waits for another worker; the first two can have a cause on this one as well.
_LOCAL = (tf.errors.InternalError, tf.errors.UnknownError)
_COMMUNICATION = (*_LOCAL, tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError,
                  tf.errors.CancelledError)


class StrategyError(ValueError):
    """The devices cannot be used; the message is one line."""


def make_strategy(train: TrainConfig, cluster: Cluster = SINGLE) -> tf.distribute.Strategy:
    """Return the strategy of `train.strategy`; auto is mirrored if several GPUs are visible, otherwise one_device.

    With multi_worker, the call must precede every other operation of TensorFlow in the process, and blocks until all
    workers have joined.

    Raises:
        StrategyError: multi_worker after TensorFlow has started.
    """
    if train.strategy == 'multi_worker':
        return _multi_worker(cluster, train.timeout)
    several = len(tf.config.list_logical_devices('GPU')) > 1
    if train.strategy == 'mirrored' or (train.strategy == 'auto' and several):
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def input_strategy(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy | None:
    """Return the strategy whose datasets copy the next batch to the devices while a step runs.

    None: one replica computes on the CPU, so there is nothing to copy.
    """
    if strategy.num_replicas_in_sync > 1:
        return strategy
    # The strategy of one replica is often the default one, whose datasets do not copy ahead.
    gpus = tf.config.list_logical_devices('GPU')
    return tf.distribute.OneDeviceStrategy(gpus[0].name) if gpus else None


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


def join(cluster: Cluster, timeout: float) -> Peers:
    """Return the peers of this process; entering them as a context waits for all workers."""
    if cluster.worker.count > 1:
        print(f'worker {cluster.index} of {cluster.worker.count}: waiting for all workers to join', flush=True)
    return Peers(cluster, timeout)


@contextlib.contextmanager
def naming_failures(peers: Peers) -> Iterator[None]:
    """A context that ends a collective operation if another worker fails, and raises an error that names the worker."""
    def abort(reason: str) -> None:
        if context.context()._context_handle is not None:       # otherwise this call would start TensorFlow
            context.context().abort_collective_ops(tf.errors.UNAVAILABLE, reason)

    peers.on_failure = abort
    try:
        yield
    except _COMMUNICATION as error:
        reason = peers.explain() if peers.count > 1 else ''
        if not reason and (peers.count == 1 or isinstance(error, _LOCAL)):
            raise
        raise PeerError(reason or f'communication with the other workers failed ({error_line(error)}); see their '
                                  f'output, then {RESTART}') from None
    finally:
        if peers.failure:
            atexit.register(end_at_once)


def end_at_once(code: int = 1) -> None:
    """End this process without TensorFlow's own end, which may wait for another process or for a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _multi_worker(cluster: Cluster, timeout: float) -> tf.distribute.Strategy:
    if cluster.gpus is not None:
        os.environ['CUDA_VISIBLE_DEVICES'] = cluster.gpus
    _configure_heartbeats(cluster, timeout)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({'worker': list(cluster.addresses)}), task_type='worker', task_id=cluster.index,
        rpc_layer='grpc')
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except RuntimeError as error:
        raise StrategyError(f'train.strategy=multi_worker: {error_line(error)}') from None


def _configure_heartbeats(cluster: Cluster, timeout: float) -> None:
    """Let TensorFlow notice a dead worker later than `Peers`, whose message names it."""
    if len(cluster.addresses) > 1:
        job = context.coordination_config_pb2.CoordinatedJob(name='worker', num_tasks=len(cluster.addresses))
        context.context().configure_coordination_service(
            'standalone', '/job:worker/replica:0/task:0', coordinated_jobs=[job],
            cluster_register_timeout_in_ms=round(2000 * timeout), heartbeat_timeout_in_ms=round(2000 * timeout))
