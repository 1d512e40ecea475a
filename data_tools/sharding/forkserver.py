"""How worker processes start: on Linux from a fork server that has imported what they need, once for all of them.

The fork server of multiprocessing imports TensorFlow and never runs it, so it has none of the threads that do not
survive a fork. It needs seconds to start. A caller that will need workers therefore starts it early, and this module
imports nothing heavy. The fork server ends with the process that started it.
"""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

_PRELOADED = ['data_tools.formats.coco', 'data_tools.verify']
_CAN_FORK = sys.platform == 'linux'     # elsewhere, system libraries do not survive a fork


def context() -> BaseContext:
    """Return the context of multiprocessing that starts worker processes."""
    import multiprocessing

    if not _CAN_FORK:
        return multiprocessing.get_context('spawn')
    server = multiprocessing.get_context('forkserver')
    server.set_forkserver_preload(_PRELOADED)
    return server


def start(workers: int) -> None:
    """Start the fork server in the background if there will be more than one worker; return at once."""
    context()
    if _CAN_FORK and workers > 1:
        from multiprocessing import forkserver

        forkserver.ensure_running()
