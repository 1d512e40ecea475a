"""Run jobs in processes of this machine; no process outlives the run that started it."""
from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from data_tools.sharding import forkserver
from mrcnn_tf.files.processes import start_worker
from mrcnn_tf.files.progress import Update

J = TypeVar('J')
R = TypeVar('R')
Work = Callable[[J, Callable[[], None]], R]     # takes a job and a function to call after each of its steps


class StoppedError(Exception):
    """Another process failed, or the user stopped the run. Never leaves this module."""


def run(work: Work[J, R], jobs: Sequence[J], workers: int, update: Update, died: str) -> list[R]:
    """Return the result of `work` for each job, in order.

    Args:
        work: function of a job; it, the jobs and the results can be pickled.
        jobs: the jobs.
        workers: largest number of processes; with one, the work is done in this process.
        update: called now and then with the number of steps done so far.
        died: message of ChildProcessError.

    Raises:
        ChildProcessError: a process died.
        Exception: the first that `work` raised in any process; the other processes stop after their step.
    """
    if workers > 1 and len(jobs) > 1:
        return _in_processes(work, jobs, min(workers, len(jobs)), update, died)
    done = itertools.count(1)
    return [work(job, lambda: update(next(done))) for job in jobs]


def _in_processes(work: Work[J, R], jobs: Sequence[J], workers: int, update: Update, died: str) -> list[R]:
    context = forkserver.context()
    done, stop = context.Value('q', 0), context.Event()
    with futures.ProcessPoolExecutor(workers, context, _start_worker, (done, stop)) as pool, _stopping(pool, stop):
        try:
            running = [pool.submit(_run_job, work, job) for job in jobs]
            while futures.wait(running, timeout=0.2, return_when=futures.FIRST_EXCEPTION).not_done:
                update(done.value)
                _raise_first(running)
            update(done.value)
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


_done: Any = None     # in a worker process: the number of steps done, shared by all
_stop: Any = None     # set when the workers have to stop


def _start_worker(done: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = done, stop
    start_worker()


def _run_job(work: Work[J, R], job: J) -> R:
    return work(job, _advance)


def _advance() -> None:
    if _stop.is_set():
        raise StoppedError
    with _done.get_lock():
        _done.value += 1
