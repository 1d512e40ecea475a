"""The processor's cores that this process may use, and a setting of TensorFlow for machines with few of them."""
from __future__ import annotations

import os

CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
_FEW = 2
_GPUS = ('/dev/nvidiactl', '/dev/kfd')     # exist where there is a GPU of Nvidia or AMD


def one_operation_at_a_time() -> None:
    """On two cores and without a GPU, let TensorFlow run one operation after the other, each on both cores.

    Call it before TensorFlow runs anything, and only for inference. It sets the environment variable
    TF_NUM_INTEROP_THREADS unless the user has. See docs/performance.md; more than two cores were not measured.
    """
    if CORES <= _FEW and not any(map(os.path.exists, _GPUS)):
        os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
