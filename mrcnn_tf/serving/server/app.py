"""The development server: starts its gRPC and HTTP ports, and stops when it is told to.

It is for one machine and a few users: requests are not authenticated or encrypted, and Python copies each of them.
TensorFlow Serving is for production; this server answers the same protocols.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from mrcnn_tf.serving.server import grpc_api, rest_api
from mrcnn_tf.serving.server.service import ServerOptions, Service


class Ports(NamedTuple):
    """The ports of a running server, and its service."""
    grpc: int
    rest: int
    service: Service


@contextlib.contextmanager
def running(directory: str | os.PathLike[str], options: ServerOptions | None = None) -> Iterator[Ports]:
    """A context in which an exported model is served. At its end, the open requests are finished.

    Args:
        directory: that `mrcnn export --output` wrote.
        options: see `ServerOptions`; None: the defaults.

    Raises:
        ServeError: there is no version that can be served, or a port is in use.
    """
    service = Service(pathlib.Path(directory), options or ServerOptions())
    with contextlib.ExitStack() as stack:
        stack.callback(service.stopping.set)
        grpc_server, grpc_port = grpc_api.start(service)
        stack.callback(grpc_api.stop, grpc_server)
        rest_server = rest_api.Server(service)
        stack.callback(rest_server.stop)
        stack.callback(service.stopping.set)    # first, so that health checks fail before requests do
        yield Ports(grpc_port, rest_server.port, service)
