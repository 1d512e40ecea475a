"""Work shared among processes of this machine, none of which outlives the run that started it."""
from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from data_tools.sharding import forkserver

J = TypeVar('J')
R = TypeVar('R')
Work = Callable[[J, Callable[[], None]], R]     # is given a job and what to call after each step of it


class StoppedError(Exception):
    """Another process failed, or the user stopped the run. Never leaves this module."""


def run(work: Work[J, R], jobs: Sequence[J], workers: int, show: Callable[[int], None], died: str) -> list[R]:
    """What `work` gives for each job, in order; at most `workers` are done at once, one alone in this process.

    Args:
        work: with jobs and results it can be pickled.
        show: is told now and then the steps done so far.
        died: the message of ChildProcessError.

    Raises:
        ChildProcessError: a process died.
        Exception: the first that `work` raised in any process; the others stop after their step.
    """
    if workers > 1 and len(jobs) > 1:
        return _in_processes(work, jobs, min(workers, len(jobs)), show, died)
    done = itertools.count(1)
    return [work(job, lambda: show(next(done))) for job in jobs]


def _in_processes(work: Work[J, R], jobs: Sequence[J], workers: int, show: Callable[[int], None], died: str) -> list[R]:
    context = forkserver.context()
    done, stop = context.Value('q', 0), context.Event()
    with futures.ProcessPoolExecutor(workers, context, _begin, (done, stop)) as pool, _stopping(pool, stop):
        try:
            running = [pool.submit(_do, work, job) for job in jobs]
            while futures.wait(running, timeout=0.2, return_when=futures.FIRST_EXCEPTION).not_done:
                show(done.value)
                _raise_first(running)
            show(done.value)
            return [each.result() for each in running]
        except BrokenProcessPool:
            raise ChildProcessError(died) from None


@contextlib.contextmanager
def _stopping(pool: futures.ProcessPoolExecutor, stop: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _raise_first(running: Sequence[futures.Future[Any]]) -> None:
    for each in running:
        if each.done():
            each.result()


_done: Any = None     # of a worker process: steps done, shared by all
_stop: Any = None     # set when no more are wanted


def _begin(done: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = done, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)      # Ctrl-C reaches all; the first process tells the others to stop
    threading.Thread(target=_leave_with_the_first, daemon=True).start()


def _leave_with_the_first() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _do(work: Work[J, R], job: J) -> R:
    return work(job, _advance)


def _advance() -> None:
    if _stop.is_set():
        raise StoppedError
    with _done.get_lock():
        _done.value += 1
