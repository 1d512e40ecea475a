"""The strategy of each name, and statistics over replicas."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.training.clusters import Cluster
from mrcnn_tf.training.strategies import StrategyError, make_strategy

# Two replicas see 0 and 8 with momentum 1/2, so their moving means are 0 and 4.
_STATISTICS = """
import keras, tensorflow as tf
from mrcnn_tf.layers.normalization import Norm
from mrcnn_tf.training.strategies import average_statistics
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
with strategy.scope():
    model = keras.Sequential([keras.Input([1, 1, 1]), Norm('batch', momentum=.5).layer('norm')])
    model.compile()
@tf.function
def step():
    def on_replica():
        index = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
        model(tf.fill([2, 1, 1, 1], 8. * index), training=True)
    strategy.run(on_replica)
step()
average_statistics(model)
mean = model.layers[-1].moving_mean
print(*(float(v[0]) for v in strategy.experimental_local_results(strategy.run(lambda: tf.identity(mean)))))
"""
MULTI = TrainConfig(strategy='multi_worker')


def test_multi_worker_after_tensorflow_has_started_is_an_error() -> None:
    tf.zeros([])
    with pytest.raises(StrategyError, match='multi_worker: .*startup'):
        make_strategy(MULTI, Cluster(('localhost:1', 'localhost:2'), 0))


@pytest.mark.parametrize('name, replicated', [('auto', False), ('one_device', False), ('mirrored', True)],
                         ids=['auto', 'one_device', 'mirrored'])
def test_strategies_by_name(name: str, replicated: bool) -> None:
    strategy = make_strategy(TrainConfig(strategy=name))
    assert isinstance(strategy, tf.distribute.MirroredStrategy) == replicated


def test_statistics_are_averaged_over_replicas() -> None:
    result = subprocess.run([sys.executable, '-c', _STATISTICS], capture_output=True, text=True, timeout=300,
                            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert result.stdout.split() == [str(2.)] * 2, result.stderr[-2000:]
