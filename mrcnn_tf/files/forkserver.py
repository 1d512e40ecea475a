"""How worker processes start: on Linux from a fork server that has imported what they need, once for all of them.

The fork server of multiprocessing imports TensorFlow and never runs it, so it has none of the threads that do not
survive a fork. It needs seconds to start. A caller that will need workers therefore starts it early, and this module
imports nothing heavy. The fork server ends with the process that started it.
"""
from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

_CAN_FORK = sys.platform == 'linux'     # elsewhere, system libraries do not survive a fork


def context(modules: Sequence[str]) -> BaseContext:
    """Return the context of multiprocessing that starts worker processes.

    modules: what the workers need; of no effect if the fork server runs already.
    """
    import multiprocessing

    if not _CAN_FORK:
        return multiprocessing.get_context('spawn')
    server = multiprocessing.get_context('forkserver')
    server.set_forkserver_preload(list(modules))
    return server


def start(workers: int, modules: Sequence[str]) -> None:
    """Start the fork server in the background if there will be more than one worker; return at once."""
    context(modules)
    if _CAN_FORK and workers > 1:
        from multiprocessing import forkserver

        forkserver.ensure_running()
