"""Times of repeated work, with what else the machine did meanwhile.

The programs of peers import this module in environments of their own, without this package.
"""
from __future__ import annotations

import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil

_QUIET = 0.2    # cores that other processes may use
_PAUSE = 2.0    # s in which the machine must be quiet before a run


class OthersLoad:
    """A context that measures how many cores other processes use: `cores`, their mean."""
    cores = 0.0

    def __enter__(self) -> OthersLoad:
        self._start = time.perf_counter(), _busy() - _own()
        return self

    def __exit__(self, *_: object) -> None:
        begun, others = self._start
        self.cores = max(0., (_busy() - _own() - others) / (time.perf_counter() - begun))


def measure(work: Callable[[], object], runs: int, warmup: int = 1, patience: float = 0., on_request: bool = False
            ) -> dict[str, Any]:
    """Return times of `work` in seconds, the largest memory so far in MB (2^20 bytes) and the load of others in cores.

    Args:
        work: is called `warmup` times, then `runs` times.
        runs: whose times count.
        warmup: at least 1. `first_s` is the time of the first call, with tracing and compilation.
        patience: seconds in all for which to wait until other processes use less than 0.2 cores, and to repeat runs
            in which they used more.
        on_request: whether to wait for a line on standard input before each of the `runs`, so that programs can take
            turns. The function prints {"ready": true} after the warm-up, and {"seconds": 1.23} after each run. After
            the last one it waits for a further line or the end of the input: a program that ends disturbs the others.

    Raises:
        SystemExit: standard input ends before the last run, or there is `patience` on request.
    """
    if on_request and patience:
        raise SystemExit('error: --on-request makes one run for each request; leave out --patience, which repeats runs')
    begun = time.perf_counter()
    work()
    first = time.perf_counter() - begun
    for _ in range(warmup - 1):
        work()
    seconds: list[float] = []
    loads: list[float] = []
    end, disturbed = time.monotonic() + patience, True
    if on_request:
        _print_line(ready=True)
    while len(seconds) < runs:
        if on_request and not sys.stdin.readline():
            raise SystemExit(f'error: --on-request: standard input ended after {len(seconds)} of {runs} runs')
        if disturbed:
            _wait_until_quiet(end)
        with OthersLoad() as load:
            begun = time.perf_counter()
            work()
            taken = time.perf_counter() - begun
        disturbed = load.cores > _QUIET
        if not disturbed or time.monotonic() >= end:
            seconds.append(taken)
            loads.append(load.cores)
            if on_request:
                _print_line(seconds=round(taken, 6))
    if on_request:
        sys.stdin.readline()
    return {'median_s': round(statistics.median(seconds), 4), 'min_s': round(min(seconds), 4),
            'max_s': round(max(seconds), 4), 'runs': runs, 'first_s': round(first, 2),
            'peak_rss_mb': round(peak_memory() / 2 ** 20), 'others_cores': round(max(loads), 2)}


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def machine() -> dict[str, Any]:
    """Return what a time depends on: processor, cores and versions."""
    import keras
    import tensorflow as tf

    gpus = [tf.config.experimental.get_device_details(each).get('device_name', each.name)
            for each in tf.config.list_physical_devices('GPU')]
    return {'processor': _processor(), 'cores': len(psutil.Process().cpu_affinity()) if hasattr(
        psutil.Process, 'cpu_affinity') else psutil.cpu_count(), **({'gpus': gpus} if gpus else {}),
        'tensorflow': tf.__version__, 'keras': keras.__version__}


def _print_line(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _wait_until_quiet(end: float) -> None:
    while time.monotonic() < end:
        with OthersLoad() as load:
            time.sleep(_PAUSE)
        if load.cores < _QUIET:
            return


def _busy() -> float:
    """Return the CPU seconds of all processes so far."""
    times = psutil.cpu_times()
    return float(times.user + times.system + sum(getattr(times, name, 0.) for name in ('nice', 'irq', 'softirq')))


def _own() -> float:
    """Return the CPU seconds of this process and of its descendants, those that have ended included."""
    process, total = psutil.Process(), 0.
    for each in (process, *process.children(recursive=True)):
        try:
            total += sum(each.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def _processor() -> str:
    from mrcnn_tf import files

    try:
        lines = files.read_text('/proc/cpuinfo').splitlines()
        return next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
