"""Refused bodies, and stopping the HTTP port. tests/serving/server/test_app.py asks its paths."""
from __future__ import annotations

import socket
import threading
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest

from mrcnn_tf.serving.server.rest_api import Server
from mrcnn_tf.serving.server.service import ServerOptions


class Slow:
    """A service whose metrics take until they are allowed."""

    def __init__(self) -> None:
        self.options, self.stopping = ServerOptions(rest_port=0), threading.Event()
        self.asked, self.allowed = threading.Event(), threading.Event()
        self.metrics = SimpleNamespace(text=self._text)

    def _text(self) -> bytes:
        self.asked.set()
        assert self.allowed.wait(10)
        return b'done'


@pytest.mark.parametrize('request_', [
    b'POST /page/detect HTTP/1.1\r\n\r\n', b'POST /page/detect HTTP/1.1\r\nContent-Length: -1\r\n\r\n',
    b'POST /page/detect HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ids=['no length', 'negative', 'chunks'])
def test_a_body_without_a_length(request_: bytes) -> None:
    server = Server(Slow())    # type: ignore[arg-type]
    with socket.create_connection(('127.0.0.1', server.port), 10) as connection:
        connection.sendall(request_)
        answer = b''.join(iter(lambda: connection.recv(4096), b''))    # the server closes the connection
    server.stop()
    assert answer.startswith(b'HTTP/1.1 400 ') and b'Content-Length: expected' in answer


def test_a_body_beyond_the_limit_is_refused_in_an_answer() -> None:
    """Also while the client still sends it: the body is larger than what the connection holds."""
    size = 2 ** 26 + 1
    server = Server(Slow())    # type: ignore[arg-type]
    with socket.create_connection(('127.0.0.1', server.port), 10) as connection:
        connection.sendall(f'POST /page/detect HTTP/1.1\r\nContent-Length: {size}\r\n\r\n'.encode())
        for _ in range(64):
            connection.sendall(bytes(2 ** 20))
        connection.sendall(b'.')
        answer = b''.join(iter(lambda: connection.recv(4096), b''))
    server.stop()
    assert answer.startswith(b'HTTP/1.1 400 ') and f'the limit is {2 ** 26}'.encode() in answer


def test_an_open_request_is_answered_before_the_server_stops() -> None:
    service, answers = Slow(), []
    server = Server(service)    # type: ignore[arg-type]
    url = f'http://127.0.0.1:{server.port}'

    def ask() -> None:
        with urllib.request.urlopen(url + '/metrics') as answer:
            answers.append(answer.read())

    threads = [threading.Thread(target=ask)]
    threads[0].start()
    assert service.asked.wait(10)
    threads.append(threading.Thread(target=server.stop))
    threads[1].start()
    threads[1].join(.2)
    assert threads[1].is_alive()    # it waits for the request
    service.allowed.set()
    for thread in threads:
        thread.join(10)
    assert answers == [b'done']
    with pytest.raises(OSError):
        urllib.request.urlopen(url + '/metrics')


def test_health_fails_when_the_server_is_stopping() -> None:
    service: Any = Slow()
    server = Server(service)
    service.stopping.set()
    with pytest.raises(urllib.error.HTTPError, match='503') as error:
        urllib.request.urlopen(f'http://127.0.0.1:{server.port}/healthz')
    error.value.close()
    server.stop()
