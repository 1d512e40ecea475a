"""The processor's cores that this process may use, and settings for machines with few of them."""
from __future__ import annotations

import ctypes
import os

CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
_FEW = 2
_M_ARENA_MAX = -8                          # of glibc's malloc.h
_GPUS = ('/dev/nvidiactl', '/dev/kfd')     # exist where there is a GPU of Nvidia or AMD


def few() -> bool:
    """Return whether there are at most two cores and no GPU."""
    return CORES <= _FEW and not any(map(os.path.exists, _GPUS))


def one_operation_at_a_time() -> None:
    """On at most two cores and without a GPU, let TensorFlow run one operation after the other, each on both cores.

    Call it before TensorFlow runs anything, and only for inference. It sets the environment variable
    TF_NUM_INTEROP_THREADS unless the user has. See docs/performance.md; more than two cores were not measured.
    """
    if few():
        os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')


def one_heap() -> None:
    """On at most two cores and without a GPU, let all threads of this process share one heap.

    Call it before threads allocate much. The C library of Linux, glibc, gives threads heaps of their own, and what one
    thread frees is of no use to another: 0.2 to 0.4 GB in training (docs/performance.md). Does nothing with another C
    library, or if the environment has MALLOC_ARENA_MAX.
    """
    if few() and 'MALLOC_ARENA_MAX' not in os.environ and os.name == 'posix':
        mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
        if mallopt:
            mallopt(_M_ARENA_MAX, 1)
