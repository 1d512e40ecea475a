"""The workers of a cluster and the place of this process among them, from the environment. Needs no TensorFlow."""
from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mrcnn_tf.config import TrainConfig
from mrcnn_tf.config.fields import is_address

_EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
_PORT = 2222                           # in Kubernetes, where each pod has an address of its own
# Ports of Slurm's jobs: below those that Linux gives to outgoing connections (32768 on). Jobs that share a node have
# other ports because their ids differ.
_SLURM_PORTS, _PORTS_OF_JOB = range(10000, 32400), 16


class ClusterError(ValueError):
    """The environment does not describe a cluster, or its workers cannot work together; the message is one line."""


@dataclass(frozen=True)
class Worker:
    """This process in its cluster. The first worker is the chief: it prints, and writes the model directory."""
    index: int = 0
    count: int = 1

    @property
    def is_chief(self) -> bool:
        return self.index == 0


SINGLE_WORKER = Worker()


@dataclass(frozen=True)
class Cluster:
    """The addresses of all workers, `host:port`, the chief first, and the place of this process.

    Attributes:
        gpus: the value of CUDA_VISIBLE_DEVICES for this process; None: it stays as it is.
    """
    addresses: tuple[str, ...] = ('localhost',)
    index: int = 0
    gpus: str | None = None

    @property
    def worker(self) -> Worker:
        return Worker(self.index, len(self.addresses))

    def name(self, index: int) -> str:
        """Return how messages call a worker, such as 'worker 1 (host2:2222)'."""
        return f'worker {index} ({self.addresses[index]})'


SINGLE = Cluster()


def cluster_of(train: TrainConfig) -> Cluster:
    """Return the cluster of this process: from the environment with multi_worker, otherwise it is alone.

    Raises:
        ClusterError: the environment does not describe a cluster and a place in it.
    """
    return find_cluster(train.cluster, os.environ) if train.strategy == 'multi_worker' else SINGLE


def find_cluster(source: str, environment: Mapping[str, str]) -> Cluster:
    """Return the cluster that the environment variables of a process describe.

    Args:
        source: of `train.cluster`: tf_config, slurm, kubernetes, or auto, the first of them that is there.
        environment: such as `os.environ`.

    Raises:
        ClusterError: variables are missing, malformed or contradictory.
    """
    if source == 'auto':
        source = next((name for name, (variable, _) in _SOURCES.items() if environment.get(variable, '').strip()), '')
    if not source:
        raise ClusterError('train.strategy=multi_worker needs the environment variable TF_CONFIG, such as '
                           f'{_EXAMPLE}, or a start by srun in Slurm or by an Indexed Job in Kubernetes; on a single '
                           'machine start `mrcnn launch`')
    return _SOURCES[source][1](environment)


def _of_tf_config(environment: Mapping[str, str]) -> Cluster:
    """Parse TF_CONFIG. TensorFlow numbers the chief first, then the workers."""
    text = environment.get('TF_CONFIG', '')
    if not text.strip():
        raise ClusterError(f'train.strategy=multi_worker needs the environment variable TF_CONFIG, such as {_EXAMPLE}')
    try:
        config = json.loads(text)
        chiefs, workers = _jobs(_member(config, 'cluster', 'TF_CONFIG'))
        index = _task(_member(config, 'task', 'TF_CONFIG'), chiefs, workers)
    except (ValueError, RecursionError) as error:
        raise ClusterError(f'TF_CONFIG: {error}; expected a JSON object such as {_EXAMPLE}') from None
    return Cluster((*chiefs, *workers), index)


def _member(value: Any, key: str, name: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f'{name} is {_short(value)}, not an object')
    if key not in value:
        raise ValueError(f'the key {key!r} of {name} is missing')
    return value[key]


def _jobs(cluster: Any) -> tuple[list[str], list[str]]:
    """Return the addresses of the jobs chief and worker."""
    if not isinstance(cluster, dict):
        raise ValueError(f'cluster is {_short(cluster)}, not an object')
    if unknown := sorted(set(cluster) - {'chief', 'worker'}):
        raise ValueError(f'cluster has the job {_short(unknown[0])}; expected only chief and worker')
    chiefs, workers = _addresses(cluster, 'chief'), _addresses(cluster, 'worker')
    if len(chiefs) > 1:
        raise ValueError(f'cluster.chief has {len(chiefs)} addresses; expected one')
    address, times = next(iter(Counter([*chiefs, *workers]).most_common(1)), ('', 0))
    if times > 1:
        raise ValueError(f'cluster has the address {address!r} {times} times')
    return chiefs, workers


def _addresses(cluster: Mapping[str, Any], job: str) -> list[str]:
    addresses = cluster.get(job, [])
    if not isinstance(addresses, list):
        raise ValueError(f'cluster.{job} is {_short(addresses)}, not a list of host:port')
    for number, address in enumerate(addresses):
        if not is_address(address):
            raise ValueError(f'cluster.{job}[{number}] is {_short(address)}, not host:port')
    return addresses


def _task(task: Any, chiefs: list[str], workers: list[str]) -> int:
    """Return the number of this process, of its `task.type` and `task.index`."""
    job, index = _member(task, 'type', 'task'), _member(task, 'index', 'task')
    if job not in ('chief', 'worker'):
        raise ValueError(f'task.type is {_short(job)}; expected chief or worker')
    if isinstance(index, bool) or not re.fullmatch('-?[0-9]{1,9}', str(index)):
        raise ValueError(f'task.index is {_short(index)}, not a whole number')
    tasks = chiefs if job == 'chief' else workers
    if not 0 <= int(index) < len(tasks):
        raise ValueError(f'task.index is {index} and cluster.{job} has {len(tasks)} tasks')
    return int(index) + (len(chiefs) if job == 'worker' else 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _of_slurm(environment: Mapping[str, str]) -> Cluster:
    """Return the cluster of the tasks of a Slurm step: one worker for each task that srun starts."""
    try:
        nodes = expand_hosts(environment['SLURM_STEP_NODELIST'])
        tasks = expand_counts(environment['SLURM_STEP_TASKS_PER_NODE'])
        job, index, node, local = (_number(environment, f'SLURM_{name}') for name in (
            'JOB_ID', 'PROCID', 'NODEID', 'LOCALID'))
    except KeyError as error:
        raise ClusterError(f'train.cluster=slurm: the environment variable {error} is missing; start the workers with '
                           '`srun mrcnn train ...` inside the job') from None
    if len(nodes) != len(tasks):
        raise ClusterError(f'SLURM_STEP_NODELIST has {len(nodes)} nodes and SLURM_STEP_TASKS_PER_NODE has {len(tasks)}')
    places = [(number, task) for number, count in enumerate(tasks) for task in range(count)]
    if not 0 <= index < len(places) or places[index] != (node, local):
        raise ClusterError(f'Slurm: task {index} is task {local} of node {node}, not in block order; start the '
                           'workers with `srun --distribution=block`')
    first = _SLURM_PORTS[job * _PORTS_OF_JOB % len(_SLURM_PORTS)]
    addresses = tuple(f'{nodes[number]}:{first + task}' for number, task in places)
    return Cluster(addresses, index, _gpus_of_task(environment, local, tasks[node]))


def _number(environment: Mapping[str, str], variable: str) -> int:
    text = environment[variable]
    if not re.fullmatch('[0-9]{1,18}', text):
        raise ClusterError(f'{variable} is {_short(text)}, not a whole number')
    return int(text)


def _gpus_of_task(environment: Mapping[str, str], local: int, tasks: int) -> str | None:
    """Return the GPUs of a task where Slurm shows all GPUs of the node to each of its tasks."""
    visible = [gpu for gpu in environment.get('CUDA_VISIBLE_DEVICES', '').split(',') if gpu.strip()]
    of_task = environment.get('SLURM_GPUS_PER_TASK', '').rpartition(':')[2]        # '2' or 'a100:2'
    of_node = environment.get('SLURM_GPUS_ON_NODE', str(len(visible)))
    if str(len(visible)) == of_task or str(len(visible)) != of_node:
        return None                                                                # Slurm has bound them to tasks
    return share_gpus(visible, local, tasks)


def share_gpus(visible: list[str], local: int, processes: int) -> str | None:
    """Return the GPUs of one of several processes of a machine, for CUDA_VISIBLE_DEVICES; None: as it is.

    Raises:
        ClusterError: the GPUs cannot be shared evenly.

    Example:
        >>> share_gpus(['0', '1', '2', '3'], local=1, processes=2)
        '2,3'
    """
    if processes == 1 or not visible or visible == ['-1']:
        return None
    if len(visible) % processes:
        raise ClusterError(f'{processes} workers on one machine cannot share its {len(visible)} GPUs '
                           f'({",".join(visible)}) evenly; start as many workers as GPUs, or one')
    count = len(visible) // processes
    return ','.join(visible[local * count:(local + 1) * count])


def expand_hosts(text: str) -> list[str]:
    """Return the host names of a Slurm node list.

    Raises:
        ClusterError: the text is not a node list.

    Example:
        >>> expand_hosts('node[01-03,07],gpu1')
        ['node01', 'node02', 'node03', 'node07', 'gpu1']
    """
    if not re.fullmatch(_HOSTS, text):
        raise ClusterError(f'SLURM_STEP_NODELIST is {_short(text)}, not a list of nodes such as node[01-03,07],gpu1')
    hosts = []
    for item in re.findall(r'(?:\[[^]]*\]|[^,[])+', text):
        literals_and_ranges = re.split(r'\[([^]]*)\]', item)
        choices = [_expand_range(part) if number % 2 else [part] for number, part in enumerate(literals_and_ranges)]
        hosts += [''.join(parts) for parts in itertools.product(*choices)]
    return hosts


_RANGES = r'\[[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*\]'
_HOST = rf'(?:[A-Za-z0-9._-]|{_RANGES})+'
_HOSTS = f'{_HOST}(?:,{_HOST})*'


def _expand_range(text: str) -> list[str]:
    """Return the numbers of '01-03,07', with their leading zeros."""
    numbers = []
    for part in text.split(','):
        low, _, high = part.partition('-')
        numbers += [f'{number:0{len(low)}}' for number in range(int(low), int(high or low) + 1)]
    return numbers


def expand_counts(text: str) -> list[int]:
    """Return the numbers of tasks of a Slurm step, one for each node.

    Raises:
        ClusterError: the text is not a list of counts.

    Example:
        >>> expand_counts('2(x3),1')
        [2, 2, 2, 1]
    """
    counts: list[int] = []
    for part in text.split(','):
        found = re.fullmatch(r'([0-9]{1,6})(?:\(x([0-9]{1,6})\))?', part)
        if not found:
            raise ClusterError(f'SLURM_STEP_TASKS_PER_NODE is {_short(text)}, not counts such as 2(x3),1')
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _of_kubernetes(environment: Mapping[str, str]) -> Cluster:
    """Return the cluster of an Indexed Job: its pods are JOB-0, JOB-1, ... in the domain of a headless service."""
    try:
        index, count = (_number(environment, name) for name in ('JOB_COMPLETION_INDEX', 'MRCNN_WORKERS'))
        host, service = environment['HOSTNAME'], environment['MRCNN_SERVICE']
    except KeyError as error:
        raise ClusterError(f'train.cluster=kubernetes: the environment variable {error} is missing; start the workers '
                           'as an Indexed Job that sets MRCNN_WORKERS (its completions) and MRCNN_SERVICE (its '
                           'headless service)') from None
    if not index < count:
        raise ClusterError(f'JOB_COMPLETION_INDEX is {index} and MRCNN_WORKERS is {count}; set MRCNN_WORKERS to the '
                           'completions of the Job')
    if not host.endswith(f'-{index}'):
        raise ClusterError(f'HOSTNAME is {_short(host)}, which does not end in -{index}, the completion index; set '
                           'completionMode: Indexed, and no hostname of your own')
    job = host.removesuffix(f'-{index}')
    return Cluster(tuple(f'{job}-{number}.{service}:{_PORT}' for number in range(count)), index)


# The variable that shows that a source is there, and its function.
_SOURCES: dict[str, tuple[str, Callable[[Mapping[str, str]], Cluster]]] = {
    'tf_config': ('TF_CONFIG', _of_tf_config), 'slurm': ('SLURM_JOB_ID', _of_slurm),
    'kubernetes': ('JOB_COMPLETION_INDEX', _of_kubernetes)}
