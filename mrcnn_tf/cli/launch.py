"""`mrcnn launch`: a cluster of processes on this machine. Needs no TensorFlow."""
from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Annotated

import typer

from mrcnn_tf.cli.command import one_line_errors
from mrcnn_tf.training.clusters import ClusterError, share_gpus

_LEAVE, _STOP = 45.0, 10.0    # s for the others to end by themselves after a failure, and after SIGTERM

Process = subprocess.Popen[bytes]


@one_line_errors
def launch(arguments: Annotated[list[str], typer.Argument(
               metavar='-- train ...', help='The command `train` or `train-alternating` with its arguments.')],
           processes: Annotated[int, typer.Option('--processes', '-n', min=1, help='Number of workers.')] = 2) -> None:
    """Train with several processes of this machine, as a cluster.

    Starts `mrcnn train` once for each worker with train.strategy=multi_worker, and a TF_CONFIG with free ports. Each
    line of a worker is printed behind its number. GPUs are shared evenly. If a worker fails, the others are stopped,
    and the exit code is that of the first which failed. Ctrl-C and SIGTERM are passed on: they save, and the same
    command resumes.

    For several GPUs in one machine, train.strategy=mirrored is simpler and as fast. This command tries out what
    will run on several machines.

    \b
    Example:
      mrcnn launch --processes 2 -- train nuclei_r18_fpn --model-dir runs/nuclei data.train=data/nuclei/train.json
    """
    if arguments[0] not in ('train', 'train-alternating'):
        raise ClusterError('mrcnn launch: expected `train` or `train-alternating` and its arguments, not '
                           f'{arguments[0]!r}; see `mrcnn launch --help`')
    raise typer.Exit(run([sys.executable, '-m', 'mrcnn_tf.cli.main', *arguments, 'train.strategy=multi_worker',
                          'train.cluster=tf_config'], processes))


def run(command: Sequence[str], count: int) -> int:
    """Run a command in `count` processes that are a cluster; return the exit code of the first which fails, or 0."""
    environments = [{**os.environ, **each} for each in _places(count)]
    # In sessions of their own: a terminal would send Ctrl-C to them as well, and a second one acts at once.
    lock = threading.Lock()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True))
            for environment in environments]
        stack.enter_context(_passing_signals(workers))
        readers = [threading.Thread(target=_print, args=(index, worker.stdout, lock))
                   for index, worker in enumerate(workers)]
        for reader in readers:
            reader.start()
        code = _wait(workers)
        for reader in readers:
            reader.join()
    return code


def _places(count: int) -> Iterator[dict[str, str]]:
    """Yield the environment variables of each worker."""
    addresses = [f'localhost:{port}' for port in free_ports(count)]
    gpus = _visible_gpus()
    for index in range(count):
        place = {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}}
        share = share_gpus(gpus, index, count)
        yield {'TF_CONFIG': json.dumps(place), 'PYTHONUNBUFFERED': '1',
               **({} if share is None else {'CUDA_VISIBLE_DEVICES': share})}


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(('localhost', 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _visible_gpus() -> list[str]:
    """Return the GPUs of CUDA_VISIBLE_DEVICES, or of the machine, without starting CUDA."""
    if (visible := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return [each for each in visible.split(',') if each.strip()]
    found = [re.fullmatch('nvidia([0-9]+)', path.name) for path in pathlib.Path('/dev').glob('nvidia*')]
    return sorted((match[1] for match in found if match), key=int)


def _print(index: int, stream: IO[bytes], lock: threading.Lock) -> None:
    """Print the lines of a worker behind its number."""
    for line in stream:
        with lock:
            sys.stdout.write(f'[{index}] {line.decode(errors="backslashreplace").rstrip()}\n')
            sys.stdout.flush()


@contextlib.contextmanager
def _passing_signals(workers: Sequence[Process]) -> Iterator[None]:
    """A context in which the workers receive the signals that this process receives."""
    def pass_on(number: int, frame: FrameType | None) -> None:
        _send(workers, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _send(workers, signal.SIGKILL)      # nothing, unless an exception has left workers behind
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(workers: Sequence[Process], number: int) -> None:
    for worker in workers:
        worker.send_signal(number)


def _wait(workers: Sequence[Process]) -> int:
    """Wait for all workers. After the first failure, stop those that do not end by themselves."""
    code, failed = 0, 0.0
    stages = [(_LEAVE, signal.SIGTERM), (_LEAVE + _STOP, signal.SIGKILL)]
    while running := [worker for worker in workers if worker.poll() is None]:
        if not code and (code := _failure(workers)):
            failed = time.monotonic()
        if code and stages and time.monotonic() - failed > stages[0][0]:
            _send(running, stages.pop(0)[1])
        time.sleep(0.1)
    return code or _failure(workers)


def _failure(workers: Sequence[Process]) -> int:
    """Return the exit code of a worker that has failed, as a shell gives it; 0 if there is none."""
    for index, worker in enumerate(workers):
        if worker.returncode:
            code = worker.returncode if worker.returncode > 0 else 128 - worker.returncode
            typer.echo(f'mrcnn: launch: worker {index} ended with exit code {code}', err=True)
            return code
    return 0
