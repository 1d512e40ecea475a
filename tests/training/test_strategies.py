"""Reading TF_CONFIG, and the strategy of each name."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import tensorflow as tf

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.training.strategies import StrategyError, Worker, find_worker, make_strategy

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


def tf_config(kind: str, index: int, **cluster: Any) -> str:
    return json.dumps({'cluster': cluster, 'task': {'type': kind, 'index': index}})


@pytest.mark.parametrize('text, expected', [
    (tf_config('worker', 1, worker=['a:1', 'b:1']), Worker(1, 2)),
    (tf_config('worker', 0, chief=['a:1'], worker=['b:1', 'c:1']), Worker(1, 3)),
    (tf_config('chief', 0, chief=['a:1'], worker=['b:1']), Worker(0, 2))],
    ids=['second worker', 'worker after the chief', 'chief'])
def test_the_worker_of_tf_config(text: str, expected: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TF_CONFIG', text)
    assert find_worker(MULTI) == expected
    assert expected.is_chief == (expected.index == 0)


@pytest.mark.parametrize('text, reason', [
    ('', 'needs the environment variable TF_CONFIG'),
    ('{"cluster"', 'TF_CONFIG: Expecting'),
    ('[]', 'TF_CONFIG: list indices'),
    ('{}', "TF_CONFIG: key or value 'cluster' is missing"),
    (json.dumps({'cluster': {'worker': ['a:1']}}), "key or value 'task' is missing"),
    (json.dumps({'cluster': 3, 'task': {'type': 'worker', 'index': 0}}), 'not a list of host:port'),
    (tf_config('worker', 2, worker=['a:1', 'b:1']), 'task.index is 2 and cluster.worker has 2 tasks'),
    (tf_config('worker', 0, chief=['a:1']), 'task.index is 0 and cluster.worker has 0 tasks'),
    (tf_config('worker', 0, worker='a:1'), "cluster.worker is 'a:1', not a list"),
    (tf_config('ps', 0, ps=['a:1']), "key or value 'ps' is missing")],
    ids=['empty', 'no json', 'a list', 'no cluster', 'no task', 'cluster is a number', 'index too large',
         'index of an empty kind', 'address is no list', 'unknown kind'])
def test_an_invalid_tf_config_is_an_error_of_one_line(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TF_CONFIG', text)
    with pytest.raises(StrategyError) as error:
        make_strategy(MULTI)
    assert reason in str(error.value)
    assert 'host1:2222' in str(error.value)    # the remedy: an example
    assert '\n' not in str(error.value)


def test_multi_worker_after_tensorflow_has_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tf.zeros([])
    monkeypatch.setenv('TF_CONFIG', tf_config('worker', 0, worker=['localhost:1', 'localhost:2']))
    with pytest.raises(StrategyError, match='multi_worker: .*startup'):
        make_strategy(MULTI)


def test_other_strategies_ignore_tf_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TF_CONFIG', 'ignored')
    assert find_worker(TrainConfig()) == Worker(0, 1)


@pytest.mark.parametrize('name, replicated', [('auto', False), ('one_device', False), ('mirrored', True)],
                         ids=['auto', 'one_device', 'mirrored'])
def test_strategies_by_name(name: str, replicated: bool) -> None:
    strategy = make_strategy(TrainConfig(strategy=name))
    assert isinstance(strategy, tf.distribute.MirroredStrategy) == replicated


def test_statistics_are_averaged_over_replicas() -> None:
    result = subprocess.run([sys.executable, '-c', _STATISTICS], capture_output=True, text=True, timeout=300,
                            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert result.stdout.split() == [str(2.)] * 2, result.stderr[-2000:]
