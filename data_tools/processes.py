"""Shards written by several processes of this machine, none of which outlives the run that started it."""
from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from data_tools import shards


class StoppedError(Exception):
    """Another process failed, or the user stopped the run. Never leaves this module."""


def write(jobs: Sequence[shards.Job], make: shards.Make[Any], workers: int,
          show: Callable[[int], None]) -> list[shards.Part]:
    """Writes the shards, each by one of `workers` processes.

    Args:
        make: can be pickled.
        show: is told now and then the items done so far.

    Raises:
        ChildProcessError: a process died.
        Exception: the first that `make` or the disk raised in any of them; the others stop after their image.
    """
    # Not forked: TensorFlow's threads do not survive it.
    context = multiprocessing.get_context('spawn')
    done, stop = context.Value('q', 0), context.Event()
    with futures.ProcessPoolExecutor(workers, context, _begin, (done, stop)) as pool, _stopping(pool, stop):
        try:
            running = [pool.submit(_write, job, make) for job in jobs]
            while futures.wait(running, timeout=0.2, return_when=futures.FIRST_EXCEPTION).not_done:
                show(done.value)
                _raise_first(running)
            show(done.value)
            return [each.result() for each in running]
        except BrokenProcessPool:
            raise ChildProcessError(f'{jobs[0].path.parent.parent}: a worker process died, perhaps for want of memory; '
                                    'convert with fewer workers: it goes on from the shards that are whole') from None


@contextlib.contextmanager
def _stopping(pool: futures.ProcessPoolExecutor, stop: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _raise_first(running: Sequence[futures.Future[shards.Part]]) -> None:
    for each in running:
        if each.done():
            each.result()


_done: Any = None     # of a worker process: items done, shared by all
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


def _write(job: shards.Job, make: shards.Make[Any]) -> shards.Part:
    return shards.write(job, make, _advance)


def _advance() -> None:
    if _stop.is_set():
        raise StoppedError
    with _done.get_lock():
        _done.value += 1
