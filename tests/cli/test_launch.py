"""`mrcnn launch`, with short programs in place of training."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mrcnn_tf.cli import launch
from tests.cli.runner import Recorder, mrcnn

PLACE = """
import json, os, sys, time
place = json.loads(os.environ['TF_CONFIG'])
index, workers = place['task']['index'], place['cluster']['worker']
"""


def run(code: str, count: int = 2) -> int:
    return launch.run([sys.executable, '-c', PLACE + code], count)


def test_workers_get_their_places_and_print_behind_their_numbers(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1,2,3')
    code = "print(index, len({*workers}), os.environ['CUDA_VISIBLE_DEVICES']); print('error', file=sys.stderr)"
    assert run(code) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ['[0] 0 2 0,1', '[0] error', '[1] 1 2 2,3', '[1] error']


def test_the_first_failure_stops_the_others(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launch, '_LEAVE', .1)
    begun = time.monotonic()
    assert run('sys.exit(7) if index == 1 else time.sleep(60)') == 7
    assert time.monotonic() - begun < 30
    assert capsys.readouterr().err == 'mrcnn: launch: worker 1 ended with exit code 7\n'


def test_a_worker_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, '_LEAVE', .1)
    monkeypatch.setattr(launch, '_STOP', .1)
    ignore = 'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(index, flush=True)\n'
    assert run(ignore + 'os.kill(os.getpid(), 9) if index == 0 else time.sleep(60)') == 137


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    # Short waits: a signal that arrives just before a wait does not end it.
    code = ("import signal\ndef end(number, frame): print('received', signal.Signals(number).name); sys.exit(75)\n"
            f'signal.signal({int(number)}, end); print("ready", flush=True)\nwhile True: time.sleep(.1)')
    with subprocess.Popen(
            [sys.executable, '-c', 'import sys; from mrcnn_tf.cli import launch; '
                                   'sys.exit(launch.run([sys.executable, "-c", sys.argv[1]], 2))', PLACE + code],
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and [process.stdout.readline()[4:] for _ in range(2)] == ['ready\n'] * 2
        process.send_signal(number)
        output = process.communicate(timeout=30)[0]
    assert process.returncode == 75
    assert sorted(output.splitlines()) == [f'[0] received {number.name}', f'[1] received {number.name}']


def test_the_command_trains_as_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorder(result=3)
    monkeypatch.setattr(launch, 'run', run)
    result = mrcnn('launch', '--processes', '4', '--', 'train', 'base', '--model-dir', 'here', 'solver.steps=1')
    assert result.exit_code == 3
    (command, count), = run.calls
    assert count == 4 and command == [sys.executable, '-m', 'mrcnn_tf.cli.main', 'train', 'base', '--model-dir', 'here',
                                      'solver.steps=1', 'train.strategy=multi_worker', 'train.cluster=tf_config']


def test_other_commands_are_refused() -> None:
    result = mrcnn('launch', '--', 'evaluate')
    assert result.exit_code == 1
    assert "expected `train` or `train-alternating` and its arguments, not 'evaluate'" in result.output
