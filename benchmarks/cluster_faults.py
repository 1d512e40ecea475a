"""Provokes each fault of a cluster of two workers and of its input servers, and prints the table of docs/clusters.md.

python -m benchmarks.cluster_faults [FAULT ...]

Run it at the top of a checkout. Workers and servers are processes of this machine; the workers train the small model of
tests/training/toy.py. After faults that interrupt training, the same command runs again, with all servers, and must
reach the last step. Times include the start of
Python and TensorFlow, about 10 s on an idle machine.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mrcnn_tf.cli.launch import free_ports
from tests.training.tiny import write_data

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMEOUT = 30              # s, train.timeout where a fault has to time out
LONGEST = 600             # s


@dataclass
class Workers:
    """Two workers, each in a directory of its own with the data, and a model directory that both share.

    Attributes:
        overrides: the settings of both.
        servers: the input servers by address, None before they are started.
        begun: when the first worker started.
        fault: when a hang, or the end of an input server, was seen.
    """
    directory: pathlib.Path
    addresses: list[str] = field(default_factory=lambda: [f'localhost:{port}' for port in free_ports(2)])
    shared: str = ''
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    servers: dict[str, subprocess.Popen[bytes] | None] = field(default_factory=dict)
    begun: float = 0.0
    fault: float = 0.0

    def __post_init__(self) -> None:
        for index in range(2):
            self.place(index).mkdir(parents=True)
            write_data(self.place(index))
        self.shared = str(self.directory / 'model')

    def place(self, index: int) -> pathlib.Path:
        return self.directory / f'worker{index}'

    def log(self, index: int) -> pathlib.Path:
        return self.directory / f'{index}.log'

    def start(self, index: int, *overrides: str, **environment: str) -> None:
        self.begun = self.begun or time.monotonic()
        place = {'cluster': {'worker': self.addresses}, 'task': {'type': 'worker', 'index': index}}
        with self.log(index).open('w') as log:
            self.processes[index] = subprocess.Popen(
                [sys.executable, '-m', 'tests.training.replica', 'toy', '.', self.shared, f'{index}.npz',
                 'train.strategy=multi_worker', f'train.timeout={TIMEOUT}', *self.overrides, *overrides],
                cwd=self.place(index), stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONPATH': str(ROOT), 'TF_CONFIG': json.dumps(place), **environment})

    def start_servers(self, *arguments: str) -> None:
        """Start the input servers that do not run, and wait until they listen."""
        for number, (address, server) in enumerate(self.servers.items()):
            if server and server.poll() is None and not _is_stopped(server.pid):
                continue
            _end(server)
            log = self.directory / f'server{number}.log'
            with log.open('w') as stream:
                self.servers[address] = started = subprocess.Popen(
                    [sys.executable, *(arguments or ('-m', 'mrcnn_tf.cli.main')), 'input-server', '--host', 'localhost',
                     '--port', address.partition(':')[2]], stdout=stream, stderr=subprocess.STDOUT,
                    env={**os.environ, 'PYTHONPATH': str(ROOT)})
            while 'Ctrl-C stops it' not in log.read_text() and started.poll() is None:
                time.sleep(.1)

    def start_both(self, *overrides: str, sent: str = '', to: int = 1) -> None:
        for index in range(2):
            self.start(index, *overrides, **({'SIGNAL': sent} if index == to and sent else {}))

    def wait(self) -> None:
        """Wait until all have ended, except those that were stopped by SIGSTOP, which are killed."""
        deadline = time.monotonic() + LONGEST
        while (running := [i for i in self.processes if i not in self.ends]) and time.monotonic() < deadline:
            self.ends |= {i: time.monotonic() for i in running if self.processes[i].poll() is not None}
            hanging = [i for i in running if _is_stopped(self.processes[i].pid)]
            failed = hanging or any(server and (server.poll() is not None or _is_stopped(server.pid))
                                    for server in self.servers.values())
            self.fault = self.fault or (time.monotonic() if failed else 0.0)
            if hanging == running:
                break
            time.sleep(0.05)
        for process in self.processes.values():
            _end(process)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process:
        process.kill()
        process.wait()


def _is_stopped(pid: int) -> bool:
    try:
        return ') T' in pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return False


def killed(workers: Workers) -> None:
    workers.start_both(sent='SIGKILL@4')


def chief_killed(workers: Workers) -> None:
    workers.start_both(sent='SIGKILL@4', to=0)


def stalled(workers: Workers) -> None:
    workers.start_both(sent='SIGSTOP@4')


def chief_stalled(workers: Workers) -> None:
    workers.start_both(sent='SIGSTOP@4', to=0)


def stuck(workers: Workers) -> None:
    workers.start_both(sent='SLEEP@4')


def chief_stuck(workers: Workers) -> None:
    workers.start_both(sent='SLEEP@4', to=0)


def preempted(workers: Workers) -> None:
    workers.start_both(sent='SIGTERM@1')


def shard_missing(workers: Workers) -> None:
    (workers.place(1) / 'train-0.tfrecord').unlink()
    workers.start_both()


def manifest_missing(workers: Workers) -> None:
    (workers.place(1) / 'train.json').unlink()
    workers.start_both()


def other_setting(workers: Workers) -> None:
    workers.start(0)
    workers.start(1, 'solver.learning_rate=0.02')


def other_data(workers: Workers) -> None:
    path = workers.place(1) / 'train.json'
    manifest = json.loads(path.read_text())
    manifest['source']['kind'] = 'other'
    path.write_text(json.dumps(manifest))
    workers.start_both()


def directory_not_shared(workers: Workers) -> None:
    """Worker 0 has trained before, in a directory that worker 1 does not see."""
    first = Workers(workers.directory / 'first')
    first.start_both()
    first.wait()
    shutil.copytree(first.shared, workers.place(0) / 'model')
    workers.shared, workers.begun = 'model', 0.0
    workers.start_both('solver.steps=8', 'solver.schedule=constant')


def port_in_use(workers: Workers) -> None:
    listener = socket.create_server(('', int(workers.addresses[1].rpartition(':')[2])))
    workers.start_both()
    workers.processes[1].wait()
    listener.close()


def not_started(workers: Workers) -> None:
    workers.start(0)


def chief_not_started(workers: Workers) -> None:
    workers.start(1)


def unknown_host(workers: Workers) -> None:
    workers.addresses[0] = 'no-such-host.invalid:2222'
    workers.start(1)


def _with_servers(workers: Workers, count: int = 2) -> Workers:
    """Return the workers, whose batches input servers compute; enough steps to use up the batches that are ready."""
    workers.servers = {f'localhost:{port}': None for port in free_ports(count)}
    workers.overrides = ('train.input=service', f'train.input_servers=[{",".join(workers.servers)}]', 'solver.steps=40')
    return workers


def _server_receives(workers: Workers, name: str) -> None:
    """Worker 0 sends a signal to the second of two servers in step 21."""
    _with_servers(workers).start_servers()
    server = list(workers.servers.values())[1]
    assert server
    workers.start(0, SIGNAL=f'{name}@20', SIGNAL_TO=str(server.pid))
    workers.start(1)


def server_killed(workers: Workers) -> None:
    _server_receives(workers, 'SIGKILL')


def server_stalled(workers: Workers) -> None:
    _server_receives(workers, 'SIGSTOP')


def server_not_started(workers: Workers) -> None:
    _with_servers(workers, 1).start_both()


def server_of_another_version(workers: Workers) -> None:
    _with_servers(workers, 1).start_servers('-c', 'import mrcnn_tf; mrcnn_tf.__version__ = "0.0"; '
                                            'from mrcnn_tf.cli.main import main; main()')
    workers.start_both()


@dataclass(frozen=True)
class Fault:
    provoked: str
    provoke: Callable[[Workers], None]
    resumes: bool = False


FAULTS = [
    Fault('worker 1 is killed (SIGKILL) in step 5', killed, True),
    Fault('worker 0 is killed (SIGKILL) in step 5', chief_killed, True),
    Fault('worker 1 hangs (SIGSTOP) in step 5', stalled, True),
    Fault('worker 0 hangs (SIGSTOP) in step 5', chief_stalled, True),
    Fault('worker 1 sleeps in step 5, and still gives signs of life', stuck, True),
    Fault('worker 0 sleeps in step 5, and still gives signs of life', chief_stuck, True),
    Fault('worker 1 receives SIGTERM in step 2', preempted, True),
    Fault('worker 1 has no shard', shard_missing),
    Fault('worker 1 has no manifest', manifest_missing),
    Fault('worker 1 has another learning rate', other_setting),
    Fault('worker 1 has another manifest', other_data),
    Fault('worker 1 does not see the checkpoints of worker 0', directory_not_shared),
    Fault('the port of worker 1 is in use', port_in_use),
    Fault('worker 1 is not started', not_started),
    Fault('worker 0 is not started', chief_not_started),
    Fault('the host of worker 0 is unknown', unknown_host),
    Fault('an input server is killed (SIGKILL) in step 21', server_killed, True),
    Fault('an input server hangs (SIGSTOP) in step 21', server_stalled, True),
    Fault('an input server is not started', server_not_started, True),
    Fault('an input server has another version', server_of_another_version)]


def main() -> None:
    by_name = {fault.provoke.__name__: fault for fault in FAULTS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # The default is a choice, because Python 3.11 checks an empty list, too.
    parser.add_argument('faults', nargs='*', metavar='FAULT', choices=[*by_name, 'all'], default='all',
                        help=f'of {", ".join(by_name)}; default: all')
    given = parser.parse_args()
    print('| fault | worker | exit code | after | what it printed | restart |\n|---|---|---|---|---|---|')
    for name in by_name if 'all' in given.faults else given.faults:
        with tempfile.TemporaryDirectory() as directory:
            _run(by_name[name], pathlib.Path(directory) / 'cluster')


def _run(fault: Fault, directory: pathlib.Path) -> None:
    """Provoke a fault and print its rows."""
    directory.mkdir()
    workers = Workers(directory)
    fault.provoke(workers)
    workers.wait()
    rows = [(index, _code(workers, index), _after(workers, index), _printed(workers.log(index)))
            for index in sorted(workers.processes)]
    resumed = _restart(workers) if fault.resumes else '-'
    for server in workers.servers.values():
        _end(server)
    for index, code, after, printed in rows:
        print(f'| {fault.provoked} | {index} | {code} | {after} | {printed} | {resumed} |', flush=True)


def _code(workers: Workers, index: int) -> str:
    code = workers.processes[index].returncode
    return signal.Signals(-code).name if code < 0 else str(code)


def _after(workers: Workers, index: int) -> str:
    """Return the time to the end, from the fault of the other worker or of a server; else from the start."""
    if index not in workers.ends:
        return '-'
    end, first = workers.ends[index], min(workers.ends.values())
    return f'{end - workers.fault:.0f} s' if workers.fault else (
        f'{end - workers.begun:.0f} s from the start' if end == first else f'{end - first:.0f} s')


def _printed(log: pathlib.Path) -> str:
    """Return the error line, or else how many lines of a traceback there are."""
    text = log.read_text(errors='replace')
    lines = re.findall(r'^mrcnn: error: (.*)$', text, re.MULTILINE)
    unexpected = '' if 'Traceback' not in text else ' (and a traceback)'
    return (re.sub(r'localhost:\d+', 'HOST:PORT', '; '.join(lines)) or 'nothing') + unexpected


def _restart(workers: Workers) -> str:
    """Run the same command again, with all servers; return how it ended."""
    for log in (workers.log(0), workers.log(1)):
        log.rename(f'{log}.first')
    workers.processes.clear()
    workers.ends.clear()
    workers.start_servers()
    workers.start_both('train.timeout=120')
    workers.wait()
    text = workers.log(0).read_text(errors='replace')
    found = re.search(r'resumes at step (\d+)', text)
    ended = [workers.processes[index].returncode for index in range(2)] == [0, 0] and re.search(
        r'is trained: step (\d+) of \1\b', text)
    return f'from step {found[1] if found else 0}, to the end' if ended else f'failed: {text[-500:]!r}'


if __name__ == '__main__':
    main()
