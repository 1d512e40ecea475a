"""Jobs in processes: results in order, the first error of any process, and all stop when one fails."""
from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable

import pytest

from data_tools.sharding import processes

Work = tuple[str, int]


def work(job: Work, advance: Callable[[], None]) -> tuple[int, int]:
    """Does steps; gives their number and the process; 'fails' after a step, 'endless' does not end by itself."""
    kind, steps = job
    for _ in range(10 ** 9 if kind == 'endless' else steps):
        time.sleep(0.01)
        advance()
        if kind == 'fails':
            raise FileNotFoundError(2, 'gone', 'a.jpg')
        if kind == 'dies':
            os._exit(3)
    return steps, os.getpid()


def run(jobs: list[Work], workers: int, shown: list[int]) -> list[tuple[int, int]]:
    return processes.run(work, jobs, workers, shown.append, 'it died')


@pytest.mark.parametrize('workers', [1, 3])
def test_results_in_order(workers: int) -> None:
    shown: list[int] = []
    results = run([('', n) for n in (5, 1, 3)], workers, shown)
    assert [steps for steps, _ in results] == [5, 1, 3]
    assert shown == sorted(shown) and shown[-1] == 9
    assert all((process == os.getpid()) == (workers == 1) for _, process in results)


def test_one_job_needs_no_other_process() -> None:
    assert run([('', 2)], 4, []) == [(2, os.getpid())]
    assert run([], 4, []) == []


@pytest.mark.parametrize('workers', [1, 2])
def test_an_error_reaches_the_caller_and_stops_the_others(workers: int) -> None:
    with pytest.raises(FileNotFoundError, match='gone') as error:
        run([('fails', 1), ('endless', 0)], workers, [])
    assert error.value.filename == 'a.jpg'


def test_a_process_that_dies_raises_the_given_message() -> None:
    with pytest.raises(ChildProcessError, match='^it died$'):
        run([('dies', 1), ('endless', 0)], 2, [])


def test_ctrl_c_stops_all() -> None:
    def interrupt(done: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.run(work, [('endless', 0)] * 3, 3, interrupt, '')
    assert multiprocessing.active_children() == []
