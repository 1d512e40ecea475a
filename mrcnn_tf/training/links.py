"""Connections between the workers of a cluster: joining, and messages as lines of JSON. Needs no TensorFlow."""
from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from mrcnn_tf.files.text import error_line
from mrcnn_tf.training.clusters import Cluster, ClusterError

_LONGEST = 1 << 24      # bytes of a message
_RETRY = 0.5            # s between two tries to connect


class Link:
    """A connection to another worker.

    Attributes:
        heard: when the last message arrived, by `time.monotonic`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.heard = time.monotonic()
        self._socket, self._lines, self._lock = connection, connection.makefile('rb'), threading.Lock()
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, **message: Any) -> None:
        """Send a message. Does nothing if the connection is broken: its reader notices that."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b'\n')

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the next message; {} if none arrives in time, or if the other side is another program."""
        self._socket.settimeout(max(timeout, 0.01))
        try:
            return next(self.messages(), {})
        finally:
            with contextlib.suppress(OSError):
                self._socket.settimeout(None)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield messages until the connection ends."""
        with contextlib.suppress(OSError, ValueError):
            while line := self._lines.readline(_LONGEST):
                message = json.loads(line)
                if not isinstance(message, dict) or 'kind' not in message:
                    return
                self.heard = time.monotonic()
                yield message

    def is_open(self) -> bool:
        """Return whether the other side has not closed the connection."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b''
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)    # ends a read in another thread
        self._lines.close()
        self._socket.close()


def gather(cluster: Cluster, timeout: float) -> dict[int, Link]:
    """On the chief: return the connections to all other workers, by their number.

    Raises:
        ClusterError: not all join within the timeout, two processes are the same worker, addresses differ, or the port
            is in use.
    """
    links: dict[int, Link] = {}
    error, deadline = '', time.monotonic() + timeout
    with _of_worker(cluster) as listener:
        while not error and len(links) < len(cluster.addresses) - 1 and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            with contextlib.suppress(TimeoutError):
                error = _admit(cluster, links, Link(listener.accept()[0]))
    missing = [cluster.name(index) for index in range(1, len(cluster.addresses)) if index not in links]
    if missing and not error:
        error = (f'{", ".join(missing)} did not join within {timeout:g} s; see its output, and whether its machine '
                 f'reaches {cluster.addresses[0]}')
    for link in links.values():
        link.send(kind='welcome', error=error)
        if error:
            link.close()
    if error:
        raise ClusterError(error)
    return links


def _admit(cluster: Cluster, links: dict[int, Link], link: Link) -> str:
    """Add the connection of a worker of this cluster. Returns why training cannot start with it, '' if it can."""
    hello = link.receive(5)
    if hello.get('kind') != 'hello':
        link.close()               # of another program
        return ''
    index, error = hello['index'], ''
    if hello['addresses'] != list(cluster.addresses):
        error = (f'worker {index} has the addresses {", ".join(hello["addresses"])} and worker 0 has '
                 f'{", ".join(cluster.addresses)}; give all workers the same')
    elif index == 0 or (index in links and links[index].is_open()):
        error = f'two processes are {cluster.name(index)}; give each process an index of its own'
    if error:
        link.send(kind='welcome', error=error)
        link.close()
    else:
        links[index] = link
    return error


def connect(cluster: Cluster, timeout: float) -> Link:
    """On a worker other than the chief: return the connection to the chief.

    Raises:
        ClusterError: the chief cannot be reached or does not start within the timeout, or the port of this worker is in
            use.
    """
    _of_worker(cluster).close()
    reason, deadline = '', time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            link = open_link(cluster.addresses[0], left)
        except OSError as error:
            reason = error_line(error)
        else:
            link.send(kind='hello', index=cluster.index, addresses=cluster.addresses)
            answer = link.receive(left + timeout)      # the chief waits for the others
            if answer.get('kind') == 'welcome' and not answer['error']:
                return link
            link.close()
            if answer.get('error'):
                raise ClusterError(answer['error'])
            reason = 'it closed the connection, or is another program'
        time.sleep(_RETRY)
    raise ClusterError(f'worker {cluster.index} cannot reach {cluster.name(0)} within {timeout:g} s: {reason}; start '
                       'all workers, and check the address and that its port is open')


def open_link(address: str, timeout: float) -> Link:
    """Return a connection to an address, host:port.

    Raises:
        OSError: it cannot be reached within the timeout, or within 10 s.
    """
    host, _, port = address.rpartition(':')
    return Link(socket.create_connection((host.strip('[]'), int(port)), min(timeout, 10)))


def listen(port: int, name: str, kind: str) -> socket.socket:
    """Return a socket that listens on a port, or for 0 on a free one.

    Args:
        port: the port.
        name: of the process in the message of an error.
        kind: of process, as the message calls it.

    Raises:
        ClusterError: the port is in use.
    """
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(('', port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    except OSError as error:
        raise ClusterError(f'{name} cannot listen on port {port}: {error_line(error)}; end the program that uses it, '
                           f'or give the {kind} another port') from None


def _of_worker(cluster: Cluster) -> socket.socket:
    """Return a socket that listens on the port of this worker."""
    return listen(int(cluster.addresses[cluster.index].rpartition(':')[2]), cluster.name(cluster.index), 'worker')
