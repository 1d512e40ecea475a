"""The fork server of `mrcnn_tf.files.forkserver`, with what a conversion needs."""
from __future__ import annotations

from typing import TYPE_CHECKING

from mrcnn_tf.files import forkserver

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

_MODULES = ('data_tools.formats.coco', 'data_tools.verify')


def context() -> BaseContext:
    """Return the context of multiprocessing that starts worker processes."""
    return forkserver.context(_MODULES)


def start(workers: int) -> None:
    """Start the fork server in the background if there will be more than one worker; return at once."""
    forkserver.start(workers, _MODULES)
