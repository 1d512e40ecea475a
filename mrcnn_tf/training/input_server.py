"""A server that computes batches for trainings on other machines: `mrcnn input-server`.

It listens on three ports: PORT, where a training connects, learns versions and cores, and sees whether the server
lives; PORT + 1 and PORT + 2, the dispatcher and the worker of tf.data service. One worker has all cores of the machine.
"""
from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

import mrcnn_tf
from mrcnn_tf.input.tuning import PARALLEL
from mrcnn_tf.training.links import Link, listen

_FORGET = 60_000    # ms without a sign of life after which the batches of a training are dropped


class Ports(NamedTuple):
    """The ports of a server: of its greeting, the dispatcher and the worker."""
    greeting: int
    dispatcher: int
    worker: int


def versions() -> dict[str, str]:
    """Return what must be equal on a server and on the machine that trains."""
    return {'mrcnn-tf': mrcnn_tf.__version__, 'TensorFlow': tf.__version__}


@contextlib.contextmanager
def running(host: str, port: int) -> Iterator[Ports]:
    """A context in which a server listens. Its end may wait for trainings that are connected.

    Args:
        host: the name or address by which trainings reach this machine.
        port: the first of three; 0: any free ones.

    Raises:
        ClusterError: a port is in use.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listen(each, 'the input server', 'server')) for each in _three(port)]
        ports = Ports(*(each.getsockname()[1] for each in sockets))
        for each in sockets[1:]:      # which TensorFlow listens on
            each.close()
        service = tf.data.experimental.service
        dispatcher = service.DispatchServer(service.DispatcherConfig(
            port=ports.dispatcher, job_gc_check_interval_ms=_FORGET // 2, job_gc_timeout_ms=_FORGET))
        worker = service.WorkerServer(service.WorkerConfig(
            dispatcher_address=f'localhost:{ports.dispatcher}', worker_address=f'{host}:{ports.worker}',
            port=ports.worker))
        threading.Thread(target=_greet, args=(sockets[0], ports), daemon=True).start()
        yield ports
        del worker, dispatcher    # which ends them


def _three(port: int) -> tuple[int, int, int]:
    return (port, port + 1, port + 2) if port else (0, 0, 0)


def _greet(greeting: socket.socket, ports: Ports) -> None:
    """Answer each training that connects, in a thread of its own."""
    with contextlib.suppress(OSError):      # closed at the end
        while True:
            threading.Thread(target=_answer, args=(Link(greeting.accept()[0]), ports), daemon=True).start()


def _answer(link: Link, ports: Ports) -> None:
    """Answer the messages of a training until its connection ends."""
    for message in link.messages():
        if message['kind'] == 'hello':
            link.send(kind='welcome', dispatcher=ports.dispatcher, cores=PARALLEL, versions=versions())
        else:
            link.send(kind='alive')
    link.close()
