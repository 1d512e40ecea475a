"""Training on replicas equals training on one device: two devices of one process, and two processes on loopback."""
from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from mrcnn_tf.cli.launch import free_ports
from tests.training.tiny import write_data

TIMEOUT = 900    # s: compiling a detector takes half a minute on an idle machine
DETECTOR = ('solver.steps=3', 'data.batch_size=2', 'solver.scale_with_batch=false', 'solver.learning_rate=0.01',
            'solver.clip_norm=1', 'model.backbone.norm=sync')
TOY = ('model.backbone.norm=frozen', 'solver.clip_norm=1', 'solver.ema_decay=0.5', 'solver.lookahead_steps=2')


class Replica(NamedTuple):
    """A process and the file of its output."""
    process: subprocess.Popen[bytes]
    log: pathlib.Path


class Replicas:
    """Starts processes of `replica` on one data set; workers share a model directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        write_data(directory)

    def run(self, name: str, kind: str, *overrides: str, **environment: str) -> Replica:
        model_dir = self.directory / name.split('-')[0]
        arguments = [kind, str(self.directory), str(model_dir), str(self.directory / f'{name}.npz'), *overrides]
        # To a file: workers wait for each other, so one that blocks on a full pipe would block all.
        with (self.directory / f'{name}.log').open('w') as log:
            process = subprocess.Popen(
                [sys.executable, '-m', f'{__package__}.replica', *arguments], stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), **environment})
        return Replica(process, pathlib.Path(log.name))

    def run_workers(self, name: str, kind: str, *overrides: str, sent: str = '') -> list[Replica]:
        """Start two processes; the second sends itself the signal `sent`, such as SIGTERM@2, in that step."""
        cluster = {'worker': [f'localhost:{port}' for port in free_ports(2)]}
        return [self.run(
            f'{name}-{index}', kind, 'train.strategy=multi_worker', *overrides,
            TF_CONFIG=json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': index}}),
            **({'SIGNAL': sent} if sent and index else {})) for index in range(2)]

    def trained(self, name: str) -> dict[str, np.ndarray]:
        """Return step, and before_i and after_i of each weight i, as a process wrote them."""
        with np.load(self.directory / f'{name}.npz') as arrays:
            return dict(arrays)


def finish(*replicas: Replica, codes: tuple[int, ...] = ()) -> list[str]:
    """Wait for the processes, check their exit codes (default: 0), and return their outputs."""
    try:
        for replica in replicas:
            replica.process.wait(timeout=TIMEOUT)
    finally:
        for replica in replicas:
            replica.process.kill()
    outputs = [replica.log.read_text() for replica in replicas]
    for replica, output, code in zip(replicas, outputs, codes or (0,) * len(replicas), strict=True):
        assert replica.process.returncode == code, output[-5000:]
    return outputs


def assert_trained_equally(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float) -> None:
    """Check that initial weights are equal and their changes differ by at most `tolerance` of their norm."""
    assert one.keys() == other.keys() and len(one) > 8
    assert one['step'] == other['step']
    for key, before in one.items():
        if key.startswith('before_'):
            np.testing.assert_array_equal(before, other[key])
            a, b = (each[key.replace('before', 'after')] for each in (one, other))
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(a - before) + 1e-6, key


@pytest.fixture(scope='module')
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Replicas:
    return Replicas(tmp_path_factory.mktemp('replicas'))


@pytest.fixture(scope='module')
def one(replicas: Replicas) -> dict[str, np.ndarray]:
    """The weights of the toy model after six steps on one device."""
    finish(replicas.run('one', 'toy', *TOY))
    trained = replicas.trained('one')
    assert trained['step'] == 6
    assert np.abs(trained['after_0'] - trained['before_0']).max() > 1e-3
    return trained


def test_replicas_train_as_one_device_does(replicas: Replicas, one: dict[str, np.ndarray]) -> None:
    """Also where images on one replica have no samples, with clipped gradients, averages and parts of a batch."""
    finish(*replicas.run_workers('cluster', 'toy', *TOY),
           replicas.run('mirrored', 'toy', *TOY, 'train.strategy=mirrored', 'train.accumulation_steps=2'))
    for name in ('cluster-0', 'cluster-1', 'mirrored'):
        assert_trained_equally(replicas.trained(name), one, 1e-5)


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_and_all_resume(replicas: Replicas, one: dict[str, np.ndarray]) -> None:
    outputs = finish(*replicas.run_workers('stopped', 'toy', *TOY, sent='SIGTERM@1'), codes=(75, 75))
    for output in outputs:
        assert re.search(r'\nmrcnn: error: stopped by SIGTERM of worker 1 \(localhost:\d+\) at step [345] of 6', output)
    finish(*replicas.run_workers('stopped', 'toy', *TOY))
    for name in ('stopped-0', 'stopped-1'):
        assert_trained_equally(replicas.trained(name), one, 1e-4)


@pytest.mark.slow
def test_a_killed_worker_stops_the_other_and_both_resume(replicas: Replicas, one: dict[str, np.ndarray]) -> None:
    outputs = finish(*replicas.run_workers('killed', 'toy', *TOY, sent='SIGKILL@4'), codes=(1, -9))
    assert re.search(r'\nmrcnn: error: worker 1 \(localhost:\d+\) ended without a message', outputs[0])
    finish(*replicas.run_workers('killed', 'toy', *TOY))
    for name in ('killed-0', 'killed-1'):
        assert_trained_equally(replicas.trained(name), one, 1e-4)


@pytest.mark.slow
@pytest.mark.both_stacks
def test_workers_with_different_canvases_keep_equal_weights(replicas: Replicas) -> None:
    """Each worker batches its own canvases, so in one step their graphs may differ, but their weights must not."""
    finish(*replicas.run_workers('canvases', 'toy', 'data.short_sides=[64,96]', 'data.long_side=96',
                                 'data.canvases=[[64,64],[96,96]]'))
    assert_trained_equally(replicas.trained('canvases-0'), replicas.trained('canvases-1'), 0.0)


@pytest.mark.slow
def test_two_workers_train_the_detector_as_two_devices_do(replicas: Replicas) -> None:
    """One image per replica: both split the global batch and sample anchors and RoIs equally."""
    finish(replicas.run('devices', 'detector', 'train.strategy=mirrored', *DETECTOR))
    finish(*replicas.run_workers('workers', 'detector', *DETECTOR))
    assert replicas.trained('devices')['step'] == 3
    for name in ('workers-0', 'workers-1'):
        assert_trained_equally(replicas.trained(name), replicas.trained('devices'), 0.02)
