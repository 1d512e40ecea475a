"""Items in processes: results in order, errors, a process that dies, and the end of the one that started them."""
from __future__ import annotations

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mrcnn_tf.files import forkserver
from mrcnn_tf.files.processes import Processes


def work(number: int) -> tuple[int, int]:
    """Takes longer for the first numbers; -1 fails, -2 dies."""
    if number == -1:
        raise FileNotFoundError(2, 'gone', 'a.jpg')
    if number == -2:
        os._exit(3)
    time.sleep(max(0., .05 - .01 * number))
    return number, os.getpid()


@pytest.mark.parametrize('workers', [1, 2])
def test_results_in_order(workers: int) -> None:
    with Processes(workers) as processes:
        results = list(processes.map(work, range(12)))
        assert list(processes.map(work, [])) == []
    assert [number for number, _ in results] == list(range(12))
    assert all((process == os.getpid()) == (workers == 1) for _, process in results)


def test_items_are_taken_as_they_are_needed() -> None:
    """Four for each process ahead of the result."""
    taken = itertools.count()

    def endless() -> Iterator[int]:
        return iter(lambda: next(taken), -3)

    with Processes(2) as processes:
        assert next(processes.map(work, endless()))[0] == 0
    assert next(taken) == 9


@pytest.mark.parametrize('workers', [1, 2])
def test_an_error_reaches_the_caller(workers: int) -> None:
    with Processes(workers) as processes, pytest.raises(FileNotFoundError, match='gone') as error:
        list(processes.map(work, [1, -1, 2]))
    assert error.value.filename == 'a.jpg'


def test_a_process_that_dies() -> None:
    with Processes(2) as processes, pytest.raises(ChildProcessError, match='^a worker process died: use fewer workers'):
        list(processes.map(work, [1, -2]))


_MAIN = """
import os, signal, time
from mrcnn_tf.files.processes import Processes
from tests.files.test_processes import work
if __name__ == '__main__':
    with Processes(2) as processes:
        print(*{process for _, process in processes.map(work, range(8))}, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_process_outlives_the_one_that_started_it(tmp_path: pathlib.Path) -> None:
    program = tmp_path / 'program.py'
    program.write_text(_MAIN)
    # The worker processes hold the pipe too: it ends with the last of them.
    done = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, text=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL and done.stdout.split()


def test_no_workers() -> None:
    with pytest.raises(ValueError, match='^workers is 0; expected a whole number of at least 1$'):
        Processes(0)


def test_without_a_fork_server_processes_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, '_CAN_FORK', False)
    assert forkserver.context([]).get_start_method() == 'spawn'
