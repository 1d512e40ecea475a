"""Where worker processes come from."""
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
        found = {job.result() for job in [pool.submit(_state) for _ in range(4)]}
    assert os.getpid() not in {process for process, *_ in found}
    assert {(imported, alone) for _, imported, alone in found} == {(True, True)}


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems start their workers afresh')
def test_it_starts_without_waiting_and_ends_with_its_process() -> None:
    program = ('import sys, time\nfrom data_tools import starting\nstart = time.monotonic()\nstarting.start(2)\n'
               'print("tensorflow" not in sys.modules and time.monotonic() - start < 2)')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120, check=True,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert done.stdout == 'True\n'      # the other process had this pipe too: it was read to its end, so it has ended
