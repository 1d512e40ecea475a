"""The processor's cores that this process may use, and how TensorFlow uses few of them."""
from __future__ import annotations

import os

CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
_FEW = 2


def one_operation_at_a_time() -> None:
    """On two cores, let TensorFlow run one operation after the other, each on both cores, in this process.

    Call it before TensorFlow runs anything, and only for inference. The environment variable TF_NUM_INTEROP_THREADS
    goes first. See docs/performance.md; more than two cores were not measured.
    """
    if CORES <= _FEW:
        os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
