"""Run functions in processes or threads, with the results in order. No process outlives the one that started it."""
from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mrcnn_tf.files import forkserver

Item = TypeVar('Item')
Result = TypeVar('Result')


class Processes:
    """Runs functions of items in several processes, or with one worker in this process. A context.

    Args:
        workers: number of processes.
        modules: what they need, imported once for all of them, in the background.

    Raises:
        ValueError: workers below 1.

    Example:
        >>> from mrcnn_tf.files.processes import Processes
        >>> with Processes(1) as processes:
        ...     list(processes.map(abs, [-1, 2]))
        [1, 2]
    """

    def __init__(self, workers: int, modules: Sequence[str] = ()) -> None:
        if workers < 1:
            raise ValueError(f'workers is {workers}; expected a whole number of at least 1')
        self._ahead, self._pool = 4 * workers, None
        if workers > 1:
            forkserver.start(workers, modules)
            self._pool = ProcessPoolExecutor(workers, forkserver.context(modules), start_worker)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of each item, in order. A few items are taken ahead; they and the results can be pickled.

        Raises:
            ChildProcessError: a process died.
            Exception: the first that `function` raised.
        """
        if not self._pool:
            yield from map(function, items)
            return
        try:
            yield from in_order(self._pool, function, items, self._ahead)
        except BrokenProcessPool:
            raise ChildProcessError("a worker process died: use fewer workers if memory ran out, and in a program of "
                                    "your own call this under `if __name__ == '__main__':`") from None


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
             ) -> Iterator[Result]:
    """Yield the result of each item, in order, while up to `ahead` further items are in work."""
    running: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def start_worker() -> None:
    """Let this worker process end with the one that started it, and not by Ctrl-C, which reaches both."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_main, daemon=True).start()


def _exit_with_main() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
