"""Kills training at random moments (SIGKILL) and starts it again, until it has reached the last step; then compares its
checkpoint, bit for bit, with that of a run that nobody has killed.

python -m benchmarks.random_kills [--kills 20] [--workers 1] [--seed 0]

The toy model of tests/training/toy.py, with two canvases, flips, a moving average and Lookahead, writes a checkpoint
every second step. The moments are spread over the whole of a run. Every second kill waits for the writing of a
checkpoint; the output says how many kills left an unfinished one.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback
from typing import NoReturn

import click
import numpy as np
import tensorflow as tf
import typer

from mrcnn_tf.cli.launch import free_ports
from mrcnn_tf.weights.checkpoint_files import find_newest, number_of, steps_in
from tests.training import replica
from tests.training.tiny import write_data

REPLICA = typer.Typer()
REPLICA.command()(replica.main)
STEPS = 400
SETTINGS = ('model.backbone.norm=frozen', 'solver.clip_norm=1', 'solver.ema_decay=0.5', 'solver.lookahead_steps=2',
            'train.deterministic=true', f'solver.steps={STEPS}', 'train.checkpoint_every=2',
            'data.flip_horizontal=0.5', 'data.short_sides=[32,64]', 'data.canvases=[[32,32],[64,64]]')


class Process:
    """A fork of this process that is a worker: Python and TensorFlow are imported once, for all of them."""

    def __init__(self, arguments: list[str], log: pathlib.Path, place: dict[str, object]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.environ['TF_CONFIG'] = json.dumps(place)
            _train(arguments)

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(.01)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _train(arguments: list[str]) -> NoReturn:
    """Train as `python -m tests.training.replica` does, and end."""
    code = 1
    try:
        typer.main.get_command(REPLICA)(arguments, standalone_mode=False)
        code = 0
    except click.exceptions.Exit as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(directory: pathlib.Path, name: str, workers: int) -> list[Process]:
    """Start all workers of a run."""
    addresses = [f'localhost:{port}' for port in free_ports(workers)]
    strategy = ['train.strategy=multi_worker'] if workers > 1 else []
    return [Process(
        ['toy', str(directory), str(directory / name), str(directory / f'{name}-{index}.npz'), *SETTINGS, *strategy],
        directory / f'{name}-{index}.log',
        {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}}) for index in range(workers)]


def run(directory: pathlib.Path, name: str, workers: int) -> float:
    """Train to the end; return the seconds between the first checkpoint and the end."""
    processes, first = start(directory, name, workers), 0.
    while any(process.poll() is None for process in processes):
        first = first or (time.monotonic() if steps_in(directory / name / 'checkpoints') else 0.)
        time.sleep(.02)
    assert all(process.returncode == 0 for process in processes), (directory / f'{name}-0.log').read_text()[-2000:]
    return time.monotonic() - first


def is_unfinished(checkpoints: pathlib.Path) -> bool:
    """Return whether a checkpoint was being written: there is a temporary name, or data without an index."""
    names = {path.name for path in checkpoints.glob('*')} | {path.name for path in checkpoints.glob('.*')}
    data = {name.partition('.data-')[0] for name in names if '.data-' in name}
    temporary = any('_temp' in name or name[0] == '.' for name in names)
    return temporary or any(f'{name}.index' not in names for name in data)


def kill_often(directory: pathlib.Path, workers: int, kills: int, seconds: float, generator: random.Random
               ) -> tuple[list[int], int]:
    """Kill a run that often, and finish it; return the steps at which it resumed, and how many kills hit a writing."""
    checkpoints, resumed, inside = directory / 'killed' / 'checkpoints', [], 0
    for number in range(kills):
        processes, before = start(directory, 'killed', workers), steps_in(checkpoints)
        while steps_in(checkpoints) == before and processes[0].poll() is None:
            time.sleep(.005)
        time.sleep(generator.uniform(0, seconds / kills))
        while number % 2 and not is_unfinished(checkpoints) and processes[0].poll() is None:
            pass
        victim = generator.randrange(workers)
        processes[victim].kill()
        for process in processes:
            process.wait()
        inside += is_unfinished(checkpoints)
        newest = find_newest(checkpoints)
        resumed.append(number_of(newest) if newest else 0)
    run(directory, 'killed', workers)
    return resumed, inside


def values(directory: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    """Return all arrays of the last checkpoint by name."""
    reader = tf.train.load_checkpoint(str(directory / name / 'checkpoints' / f'step-{STEPS}'))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if 'OBJECT_GRAPH' not in key}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        write_data(directory)
        seconds = run(directory, 'whole', given.workers)
        resumed, inside = kill_often(directory, given.workers, given.kills, seconds, random.Random(given.seed))
        whole, killed = values(directory, 'whole'), values(directory, 'killed')
    different = [key for key in whole if whole[key].tobytes() != killed[key].tobytes()]
    print(f'{given.workers} worker(s), {given.kills} kills; resumed at steps {resumed}; {inside} kills left an '
          'unfinished checkpoint')
    print(f'{len(whole)} arrays after step {STEPS}: ' + (f'FAILED, {different} differ' if different or (
        whole.keys() != killed.keys()) else 'all bits are equal'))


if __name__ == '__main__':
    main()
