"""How worker processes start."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent import futures

import pytest

from data_tools.sharding import forkserver


def _state() -> tuple[int, bool, bool]:
    return os.getpid(), 'data_tools.sharding.shards' in sys.modules, threading.active_count() == 1


def test_workers_have_imported_what_they_need_and_run_no_thread() -> None:
    with futures.ProcessPoolExecutor(2, forkserver.context()) as pool:
        states = {job.result() for job in [pool.submit(_state) for _ in range(4)]}
    assert os.getpid() not in {process for process, *_ in states}
    assert {(imported, alone) for _, imported, alone in states} == {(True, True)}


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems do not fork workers')
def test_the_fork_server_starts_in_the_background_and_ends_with_its_process() -> None:
    program = ('import sys, time\nfrom data_tools.sharding import forkserver\n'
               'start = time.monotonic()\nforkserver.start(2)\n'
               'print("tensorflow" not in sys.modules and time.monotonic() - start < 2)')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120, check=True,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert done.stdout == 'True\n'      # the fork server holds this pipe too: read to its end, so both ended
