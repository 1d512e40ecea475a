"""The strategy of each name, and statistics over replicas."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.training.clusters import Cluster
from mrcnn_tf.training.strategies import StrategyError, input_strategy, make_strategy

# First: two replicas see 0 and 8 with momentum 1/2, so their moving means are 0 and 4. Then the second CPU is a GPU.
_TWO_DEVICES = """
import keras, tensorflow as tf
from mrcnn_tf.layers.normalization import Norm
from mrcnn_tf.training.strategies import average_statistics, input_strategy
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

tf.config.list_logical_devices = lambda kind: [tf.config.LogicalDevice('/device:CPU:1', kind)]
strategy = input_strategy(tf.distribute.get_strategy())
numbers = tf.data.Dataset.range(9).map(lambda number: {'images': tf.fill([number + 1], number), 'sizes': [.5]})
for batch in list(strategy.distribute_datasets_from_function(lambda _: numbers))[2:4]:
    print(batch['images'].device[-5:], batch['sizes'].device[-5:], batch['images'].numpy())
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


@pytest.fixture(scope='module')
def printed() -> list[str]:
    """The lines that _TWO_DEVICES prints in a process of its own."""
    result = subprocess.run([sys.executable, '-c', _TWO_DEVICES], capture_output=True, text=True, timeout=300,
                            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert not result.returncode, result.stderr[-2000:]
    return result.stdout.splitlines()


def test_statistics_are_averaged_over_replicas(printed: list[str]) -> None:
    assert printed[0] == '2.0 2.0'


def test_batches_of_one_replica_are_copied_to_its_gpu(printed: list[str]) -> None:
    assert printed[1:] == ['CPU:1 CPU:1 [2 2 2]', 'CPU:1 CPU:1 [3 3 3 3]']


def test_batches_of_one_replica_on_the_cpu_are_not_copied() -> None:
    assert input_strategy(tf.distribute.get_strategy()) is None
