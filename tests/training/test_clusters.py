"""Clusters from TF_CONFIG, Slurm and Kubernetes; the expected values are worked by hand."""
from __future__ import annotations

import json
from typing import Any

import pytest

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.training.clusters import (
    Cluster,
    ClusterError,
    Worker,
    cluster_of,
    expand_counts,
    expand_hosts,
    find_cluster,
    share_gpus,
)

TASK = {'type': 'worker', 'index': 0}
# Three tasks: two on node01, one on node02. 10000 + 42 * 16 = 10672.
SLURM = {'SLURM_JOB_ID': '42', 'SLURM_STEP_NODELIST': 'node[01-02]', 'SLURM_STEP_TASKS_PER_NODE': '2,1',
         'SLURM_PROCID': '1', 'SLURM_NODEID': '0', 'SLURM_LOCALID': '1'}
KUBERNETES = {'JOB_COMPLETION_INDEX': '2', 'HOSTNAME': 'r50-2', 'MRCNN_SERVICE': 'workers', 'MRCNN_WORKERS': '3'}


def tf_config(task: Any = TASK, **cluster: Any) -> dict[str, str]:
    return {'TF_CONFIG': json.dumps({'cluster': cluster, 'task': task})}


def worker(index: Any) -> dict[str, Any]:
    return {'type': 'worker', 'index': index}


@pytest.mark.parametrize('environment, expected', [
    (tf_config(worker(1), worker=['a:1', 'b:1']), Cluster(('a:1', 'b:1'), 1)),
    (tf_config(worker('1'), worker=['a:1', 'b:1']), Cluster(('a:1', 'b:1'), 1)),
    (tf_config(chief=['a:1'], worker=['b:1', 'c:1']), Cluster(('a:1', 'b:1', 'c:1'), 1)),
    (tf_config({'type': 'chief', 'index': 0}, chief=['a:1'], worker=['b:1']), Cluster(('a:1', 'b:1'), 0)),
    (tf_config(worker=['[fd00::1]:65535', '10.0.0.2:1']), Cluster(('[fd00::1]:65535', '10.0.0.2:1'), 0)),
    (SLURM, Cluster(('node01:10672', 'node01:10673', 'node02:10672'), 1)),
    ({**SLURM, 'SLURM_PROCID': '2', 'SLURM_NODEID': '1', 'SLURM_LOCALID': '0'},
     Cluster(('node01:10672', 'node01:10673', 'node02:10672'), 2)),
    ({**SLURM, 'CUDA_VISIBLE_DEVICES': '0,1,2,3', 'SLURM_GPUS_ON_NODE': '4'},
     Cluster(('node01:10672', 'node01:10673', 'node02:10672'), 1, '2,3')),
    ({**SLURM, 'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_GPUS_ON_NODE': '4'},
     Cluster(('node01:10672', 'node01:10673', 'node02:10672'), 1)),
    ({**SLURM, 'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_GPUS_ON_NODE': '2', 'SLURM_GPUS_PER_TASK': 'a100:2'},
     Cluster(('node01:10672', 'node01:10673', 'node02:10672'), 1)),
    (KUBERNETES, Cluster(('r50-0.workers:2222', 'r50-1.workers:2222', 'r50-2.workers:2222'), 2)),
    ({**KUBERNETES, **SLURM, **tf_config(worker=['a:1'])}, Cluster(('a:1',), 0))],
    ids=['second worker', 'index as text', 'worker after the chief', 'chief', 'IPv6', 'Slurm', 'Slurm, second node',
         'Slurm shows all GPUs to each task', 'Slurm binds GPUs by cgroup', 'Slurm binds GPUs by task', 'Kubernetes',
         'auto prefers TF_CONFIG'])
def test_the_cluster_of_an_environment(environment: dict[str, str], expected: Cluster) -> None:
    assert find_cluster('auto', environment) == expected
    assert expected.worker == Worker(expected.index, len(expected.addresses))
    assert expected.worker.is_chief == (expected.index == 0)


def test_only_multi_worker_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TF_CONFIG', 'malformed')
    assert cluster_of(TrainConfig(cluster='tf_config')).worker == Worker(0, 1)
    with pytest.raises(ClusterError, match='TF_CONFIG: Expecting value'):
        cluster_of(TrainConfig(strategy='multi_worker'))


@pytest.mark.parametrize('text, reason', [
    ('', 'needs the environment variable TF_CONFIG'),
    ('{"cluster"', 'TF_CONFIG: Expecting'),
    ('[' * 100000, 'TF_CONFIG: maximum recursion'),
    ('["127.0.0.1"]', "TF_CONFIG is ['127.0.0.1'], not an object"),
    ('[1,2]', 'TF_CONFIG is [1, 2], not an object'),
    ('{}', "the key 'cluster' of TF_CONFIG is missing"),
    (json.dumps({'cluster': {'worker': ['a:1']}}), "the key 'task' of TF_CONFIG is missing"),
    (json.dumps({'cluster': 3, 'task': TASK}), 'cluster is 3, not an object'),
    (tf_config([], worker=['a:1'])['TF_CONFIG'], 'task is [], not an object'),
    (tf_config({'type': 'worker'}, worker=['a:1'])['TF_CONFIG'], "the key 'index' of task is missing"),
    (tf_config(worker(2), worker=['a:1', 'b:1'])['TF_CONFIG'], 'task.index is 2 and cluster.worker has 2 tasks'),
    (tf_config(worker(-1), worker=['a:1'])['TF_CONFIG'], 'task.index is -1 and cluster.worker has 1 tasks'),
    (tf_config(worker(0.7), worker=['a:1'])['TF_CONFIG'], 'task.index is 0.7, not a whole number'),
    (tf_config(worker(True), worker=['a:1'])['TF_CONFIG'], 'task.index is True, not a whole number'),
    (tf_config(chief=['a:1'])['TF_CONFIG'], 'task.index is 0 and cluster.worker has 0 tasks'),
    (tf_config(worker='a:1')['TF_CONFIG'], "cluster.worker is 'a:1', not a list"),
    (tf_config(worker=['127.0.0.1'])['TF_CONFIG'], "cluster.worker[0] is '127.0.0.1', not host:port"),
    (tf_config(worker=['a:1', 2])['TF_CONFIG'], 'cluster.worker[1] is 2, not host:port'),
    (tf_config(worker=['http://'])['TF_CONFIG'], "cluster.worker[0] is 'http://', not host:port"),
    (tf_config(worker=['http://a:1'])['TF_CONFIG'], "cluster.worker[0] is 'http://a:1', not host:port"),
    (tf_config(worker=['a:0'])['TF_CONFIG'], "cluster.worker[0] is 'a:0', not host:port"),
    (tf_config(worker=['a:65536'])['TF_CONFIG'], "cluster.worker[0] is 'a:65536', not host:port"),
    (tf_config(worker=['a:1', 'b:1', 'a:1'])['TF_CONFIG'], "cluster has the address 'a:1' 2 times"),
    (tf_config(chief=['a:1', 'b:1'], worker=['c:1'])['TF_CONFIG'], 'cluster.chief has 2 addresses; expected one'),
    (tf_config(worker=['a:1'], ps=['b:1'])['TF_CONFIG'], "cluster has the job 'ps'; expected only chief and worker"),
    (tf_config({'type': 'evaluator', 'index': 0}, worker=['a:1'])['TF_CONFIG'], "task.type is 'evaluator'; expected"),
    (tf_config({'type': ['worker'], 'index': 0}, worker=['a:1'])['TF_CONFIG'], "task.type is ['worker']; expected")],
    ids=['empty', 'no json', 'deep', 'a list of an address', 'a list of numbers', 'no cluster', 'no task',
         'cluster is a number', 'task is a list', 'no index', 'index too large', 'negative index', 'fractional index',
         'index true', 'index of an empty job', 'address is no list', 'address without port', 'address is a number',
         'scheme only', 'scheme', 'port 0', 'port too large', 'duplicate', 'two chiefs', 'unknown job', 'unknown task',
         'task is a list of names'])
def test_a_malformed_tf_config_is_an_error_of_one_line(text: str, reason: str) -> None:
    with pytest.raises(ClusterError) as error:
        find_cluster('tf_config', {'TF_CONFIG': text})
    assert reason in str(error.value)
    assert 'host1:2222' in str(error.value)    # the remedy: an example
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('source, environment, reason', [
    ('auto', {}, 'or a start by srun in Slurm or by an Indexed Job in Kubernetes'),
    ('slurm', {'SLURM_JOB_ID': '42', 'SLURM_PROCID': '0'}, "'SLURM_STEP_NODELIST' is missing; start the workers"),
    ('slurm', {**SLURM, 'SLURM_STEP_TASKS_PER_NODE': '3'}, 'has 2 nodes and SLURM_STEP_TASKS_PER_NODE has 1'),
    ('slurm', {**SLURM, 'SLURM_LOCALID': '0', 'SLURM_NODEID': '1'}, 'task 1 is task 0 of node 1, not in block order'),
    ('slurm', {**SLURM, 'SLURM_PROCID': 'x'}, "SLURM_PROCID is 'x', not a whole number"),
    ('slurm', {**SLURM, 'CUDA_VISIBLE_DEVICES': '0,1,2'}, '2 workers on one machine cannot share its 3 GPUs (0,1,2)'),
    ('kubernetes', {'JOB_COMPLETION_INDEX': '0'}, "'MRCNN_WORKERS' is missing; start the workers as an Indexed Job"),
    ('kubernetes', {**KUBERNETES, 'MRCNN_WORKERS': '2'}, 'JOB_COMPLETION_INDEX is 2 and MRCNN_WORKERS is 2; set'),
    ('kubernetes', {**KUBERNETES, 'HOSTNAME': 'r50-x7k'}, "HOSTNAME is 'r50-x7k', which does not end in -2")],
    ids=['nothing', 'without srun', 'other nodes', 'cyclic', 'no number', 'uneven GPUs', 'no count', 'too few',
         'no index'])
def test_a_wrong_environment_is_an_error_with_a_remedy(source: str, environment: dict[str, str], reason: str) -> None:
    with pytest.raises(ClusterError) as error:
        find_cluster(source, environment)
    assert reason in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text, hosts', [
    ('gpu1', ['gpu1']), ('a-b.example,c', ['a-b.example', 'c']), ('n[1,3-4]', ['n1', 'n3', 'n4']),
    ('n[08-11]-ib', ['n08-ib', 'n09-ib', 'n10-ib', 'n11-ib']), ('r[1-2]n[1,5]', ['r1n1', 'r1n5', 'r2n1', 'r2n5']),
    ('n[01-02],m[9-10],x', ['n01', 'n02', 'm9', 'm10', 'x'])],
    ids=['one', 'names', 'numbers', 'zeros and suffix', 'two brackets', 'several lists'])
def test_node_lists(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize('text', ['', 'n[', 'n[]', 'n[1-]', 'n[a-b]', 'a,,b', 'n]1[', 'a b'])
def test_a_wrong_node_list_is_an_error(text: str) -> None:
    with pytest.raises(ClusterError, match='not a list of nodes'):
        expand_hosts(text)


def test_counts_of_tasks() -> None:
    assert expand_counts('2(x3),1') == [2, 2, 2, 1]
    assert expand_counts('4') == [4]
    with pytest.raises(ClusterError, match=r"is '2\(x\)', not counts"):
        expand_counts('2(x)')


def test_gpus_are_shared_in_order() -> None:
    assert [share_gpus(['0', '1', '2', '3'], i, 2) for i in range(2)] == ['0,1', '2,3']
    assert share_gpus(['0', '1'], 0, 1) is None and share_gpus([], 1, 2) is None and share_gpus(['-1'], 1, 2) is None
