"""How worker processes begin: on Linux out of one that has imported what they need, so that N of them import it once.

That process, the fork server of multiprocessing, is a fresh one that never runs TensorFlow, only imports it: what it is
forked into has none of the threads that do not survive a fork. It takes seconds to be ready, so whoever knows early
that workers will be wanted starts it early; this module therefore imports nothing. It ends with the process that
started it.
"""
from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.context import BaseContext

_NEEDED = ['data_tools.formats.coco', 'data_tools.verify']
_FORKS = sys.platform == 'linux'     # elsewhere, system libraries may not be forked


def context() -> BaseContext:
    """What makes worker processes."""
    if not _FORKS:
        return multiprocessing.get_context('spawn')
    made = multiprocessing.get_context('forkserver')
    made.set_forkserver_preload(_NEEDED)
    return made


def start(workers: int) -> None:
    """Where more than one worker will be wanted, lets the process that they come from begin to import; returns at once.
    """
    context()
    if _FORKS and workers > 1:
        from multiprocessing import forkserver

        forkserver.ensure_running()
