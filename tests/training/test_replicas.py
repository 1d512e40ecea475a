"""Several replicas learn what one does: two devices of a process, and two processes on loopback."""
from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from .tiny import write_data

TIMEOUT = 300    # s


class Replicas:
    """Starts `replica` processes over one data set and one model directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        write_data(directory)

    def run(self, name: str, kind: str, *overrides: str, **environment: str) -> subprocess.Popen[str]:
        model_dir = self.directory / name.split('-')[0]
        arguments = [kind, str(self.directory), str(model_dir), str(self.directory / f'{name}.npz'), *overrides]
        return subprocess.Popen(
            [sys.executable, '-m', f'{__package__}.replica', *arguments], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), **environment})

    def run_workers(self, name: str, kind: str, *overrides: str, signal_at: str = '') -> list[subprocess.Popen[str]]:
        """Two processes; `signal_at` is for the second."""
        cluster = {'worker': [f'localhost:{port}' for port in free_ports(2)]}
        return [self.run(
            f'{name}-{index}', kind, 'train.strategy=multi_worker', *overrides,
            TF_CONFIG=json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': index}}),
            **({'SIGNAL_AT': signal_at} if signal_at and index else {})) for index in range(2)]

    def weights(self, name: str) -> list[np.ndarray]:
        """The step, then the weights, that a process left."""
        with np.load(self.directory / f'{name}.npz') as arrays:
            return list(arrays.values())


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(('localhost', 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def finish(*processes: subprocess.Popen[str], code: int = 0) -> list[str]:
    """What the processes print, once all have ended with this code."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output[-5000:]
    return outputs


def assert_close(weights: list[np.ndarray], others: list[np.ndarray], tolerance: float) -> None:
    assert len(weights) == len(others) > 4
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.fixture
def replicas(tmp_path: pathlib.Path) -> Replicas:
    return Replicas(tmp_path)


def test_replicas_learn_what_one_device_does(replicas: Replicas) -> None:
    """The toy's loss is a mean over images, so equal batches mean equal weights however they are split."""
    finish(replicas.run('one', 'toy'), *replicas.run_workers('cluster', 'toy'),
           replicas.run('mirrored', 'toy', 'train.strategy=mirrored'))
    one = replicas.weights('one')
    assert one[0] == 6
    for name in ('cluster-0', 'cluster-1', 'mirrored'):
        assert_close(replicas.weights(name), one, 1e-6)


def test_a_signal_to_one_worker_stops_all_and_all_resume(replicas: Replicas) -> None:
    outputs = finish(*replicas.run_workers('cluster', 'toy', signal_at='2'), code=1)
    assert 'stopped by another worker at step 4 of 6' in outputs[0]    # workers ask each other every 2 steps
    assert 'stopped by SIGTERM at step 4 of 6' in outputs[1]
    finish(replicas.run('one', 'toy'), *replicas.run_workers('cluster', 'toy'))
    for name in ('cluster-0', 'cluster-1'):
        assert_close(replicas.weights(name), replicas.weights('one'), 1e-6)


@pytest.mark.slow
def test_two_workers_train_the_detector_as_two_devices_do(replicas: Replicas) -> None:
    """Three steps, and two canvases, so that the workers' graphs differ from step to step."""
    settings = ('solver.steps=3', 'data.batch_size=2', 'solver.scale_with_batch=false', 'solver.learning_rate=0.001',
                'solver.clip_norm=1', 'data.short_sides=[48,64]', 'data.canvases=[[64,64],[96,64]]')
    finish(*replicas.run_workers('cluster', 'detector', *settings))
    assert_close(replicas.weights('cluster-0'), replicas.weights('cluster-1'), 0.0)
