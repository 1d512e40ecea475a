"""Interrupts alternating training with two workers in each of its phases, starts it again each time, and compares the
weights of the last model with those of a run that nobody has interrupted. Prints the table of docs/clusters.md.

python -m benchmarks.alternating_kills

Run it at the top of a checkout. A small Faster R-CNN is trained without GPUs by `mrcnn launch`; that takes about ten
minutes on two cores.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf.weights.checkpoint_files import find_newest, steps_in
from tests.training.tiny import SETTINGS, write_data

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 20
OVERRIDES = (
    *(each for each in SETTINGS if not each.startswith(('model.mask_head.', 'train.strategy', 'solver.milestones'))),
    'model.kind=faster_rcnn', 'model.backbone.maps=c4', 'model.backbone.norm=frozen', 'model.anchors.sizes=[[16,32]]',
    'model.box_head.pool_size=4', 'model.box_head.fully_connected=0', 'data.batch_size=2', 'solver.reference_batch=2',
    f'solver.steps={STEPS}', 'solver.milestones=[]', 'solver.learning_rate=0.001', 'solver.clip_norm=1',
    'train.checkpoint_every=2', 'train.deterministic=true')
MARK = 'MRCNN_ALTERNATING_KILLS'     # an environment variable of all processes of a run


class Run:
    """A model directory, and the processes that train it."""

    def __init__(self, directory: pathlib.Path, data: pathlib.Path) -> None:
        self.directory, self.data, self.log = directory, data, pathlib.Path(f'{directory}.log')

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open('w') as log:
            return subprocess.Popen(
                [sys.executable, '-m', 'mrcnn_tf.cli.main', 'launch', '--processes', '2', '--', 'train-alternating',
                 'base', '--model-dir', str(self.directory), *OVERRIDES, f'data.train={self.data}/train.json'],
                stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONPATH': str(ROOT), MARK: str(self.directory)})

    def is_at(self, step: str) -> bool:
        """Return whether a step is half trained."""
        return any(STEPS // 2 <= number < STEPS for number in steps_in(self.directory / step / 'checkpoints'))

    def proposes(self, step: str) -> bool:
        """Return whether the proposals of a step are being written."""
        proposals = self.directory / 'proposals'
        return (proposals / f'.{step}.npz.journal').exists() and not (proposals / f'{step}.npz').exists()

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights of the last model."""
        reader = tf.train.load_checkpoint(str(find_newest(self.directory / 'faster_rcnn' / 'checkpoints')))
        return {name: reader.get_tensor(name) for name, kind in reader.get_variable_to_dtype_map().items()
                if kind == tf.float32}


def process_of(run: Run, worker: int, trains: bool) -> int:
    """Return a process of a worker: the one that trains the present step, or the one that starts it."""
    for path in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            words, environment = ((path / name).read_bytes().decode() for name in ('cmdline', 'environ'))
        except OSError:
            continue
        if f'{MARK}={run.directory}\0' in environment and f'"index": {worker}' in environment and (
                'spawn_main' if trains else 'train-alternating') in words:
            return int(path.name)
    raise AssertionError(f'worker {worker} has no such process')


class Fault(NamedTuple):
    """A fault, when it is provoked, and which process gets which signal: (run, the process of `mrcnn launch`) -> id."""
    provoked: str
    when: Callable[[Run], bool]
    process: Callable[[Run, int], int]
    number: signal.Signals


FAULTS = [
    Fault('SIGTERM to `mrcnn launch` in step 1', lambda run: run.is_at('step1_rpn'), lambda _, launch: launch,
          signal.SIGTERM),
    Fault('SIGKILL to worker 0, which computes the proposals of step 1', lambda run: run.proposes('step1_rpn'),
          lambda run, _: process_of(run, 0, True), signal.SIGKILL),
    Fault('SIGKILL to worker 1 in step 2', lambda run: run.is_at('step2_fast_rcnn'),
          lambda run, _: process_of(run, 1, True), signal.SIGKILL),
    Fault('SIGKILL to the process that starts the steps of worker 0, in step 3', lambda run: run.is_at('step3_rpn'),
          lambda run, _: process_of(run, 0, False), signal.SIGKILL),
    Fault('SIGTERM to `mrcnn launch` while worker 0 computes the proposals of step 3',
          lambda run: run.proposes('step3_rpn'), lambda _, launch: launch, signal.SIGTERM),
    Fault('SIGTERM to worker 1 in step 4', lambda run: run.is_at('step4_fast_rcnn'),
          lambda run, _: process_of(run, 1, False), signal.SIGTERM)]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data = pathlib.Path(directory)
        write_data(data)
        whole, interrupted = Run(data / 'whole', data), Run(data / 'interrupted', data)
        print('| fault | exit code | after | what the workers printed last |\n|---|---|---|---|', flush=True)
        for fault in FAULTS:
            provoke(fault, interrupted)
        for run in (interrupted, whole):
            code = run.start().wait()
            assert code == 0, run.log.read_text()[-3000:]
        one, other = whole.weights(), interrupted.weights()
        equal = sum(np.array_equal(one[name], other[name]) for name in one)
        print(f'\nafter these {len(FAULTS)} faults, {equal} of {len(one)} arrays of the last model are in all bits '
              'those of a run without faults')
        raise SystemExit(equal < len(one))


def provoke(fault: Fault, run: Run) -> None:
    """Train until a fault is due, provoke it, and print a row."""
    launch = run.start()
    while not fault.when(run):
        assert launch.poll() is None, run.log.read_text()[-3000:]
        time.sleep(.02)
    begun = time.monotonic()
    os.kill(fault.process(run, launch.pid), fault.number)
    code = launch.wait()
    print(f'| {fault.provoked} | {code} | {time.monotonic() - begun:.0f} s | {printed(run)} |', flush=True)


def printed(run: Run) -> str:
    """Return the error lines of the workers, and whether there is a traceback."""
    text = run.log.read_text(errors='replace')
    lines = re.findall(r'^\[([01])\] mrcnn: error: (.*)$', text, re.MULTILINE)
    shown = '; '.join(f'{index}: `{line}`' for index, line in sorted(lines)).replace(str(run.directory), 'DIRECTORY')
    return re.sub(r'localhost:\d+', 'HOST:PORT', shown or 'nothing') + ' (and a traceback)' * ('Traceback' in text)


if __name__ == '__main__':
    main()
