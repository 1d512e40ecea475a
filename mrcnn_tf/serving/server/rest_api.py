"""The HTTP port of the development server: TensorFlow Serving's REST paths, the page, health and metrics."""
from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import tensorflow as tf
from google.protobuf import json_format

from mrcnn_tf.files.text import error_line
from mrcnn_tf.serving.server import grpc_api, page, rest_format
from mrcnn_tf.serving.server.service import Service
from mrcnn_tf.serving.server.versions import RequestError, ServeError

_log = logging.getLogger(__name__)

_CODES = {'NOT_FOUND': 404, 'INVALID_ARGUMENT': 400, 'UNAVAILABLE': 503}
_MODEL = r'/v1/models/([^/:]+)(?:/versions/(\d{1,18}))?'
_IDLE = 30     # seconds after which a connection without a request is closed
_GRACE = 10    # seconds for the open requests when the server stops
_LINGER = 5    # seconds for the rest of a request that is refused before it is read
JSON, METRICS = 'application/json', 'text/plain; version=0.0.4; charset=utf-8'    # as Prometheus expects it

Answer = tuple[str, bytes]    # the type of the content, and the content


class Server(ThreadingHTTPServer):
    """Answers HTTP on threads of its own.

    Args:
        service: answers the requests.

    Raises:
        ServeError: the port is in use.
    """
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, service: Service) -> None:
        self.open_requests, options = 0, service.options
        self.changed = threading.Condition()
        try:
            super().__init__((options.host, options.rest_port), functools.partial(_Handler, service))
        except (OSError, OverflowError) as error:
            raise ServeError(f'cannot listen on {options.host}:{options.rest_port} ({error_line(error)}); give another '
                             '--rest-port or --host') from None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def stop(self) -> None:
        """Let the open requests finish, and stop."""
        self.shutdown()
        with self.changed:
            self.changed.wait_for(lambda: not self.open_requests, _GRACE)
        self.server_close()

    @contextlib.contextmanager
    def counted(self) -> Any:
        """A context that counts as an open request."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self.changed:
            self.open_requests += change
            self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server_version, sys_version = 'mrcnn-tf', ''
    timeout = _IDLE
    server: Server
    _unread = False    # whether the body of the request has not been read

    def __init__(self, service: Service, *arguments: Any) -> None:
        self._service = service
        super().__init__(*arguments)

    def do_GET(self) -> None:    # noqa: N802    # the name is that of the base class
        self._respond({
            '/': lambda: ('text/html; charset=utf-8', page.html()),
            '/page/model': lambda: (JSON, page.model(self._service)),
            '/healthz': self._health,
            '/metrics': lambda: (METRICS, self._service.metrics.text()),
            '/monitoring/prometheus/metrics': lambda: (METRICS, self._service.metrics.text()),
            _MODEL: self._status,
            _MODEL + '/metadata': self._metadata})

    def do_POST(self) -> None:    # noqa: N802    # as above
        self._unread = self.headers.get('Content-Length') != '0'
        self._respond({_MODEL + ':predict': self._predict, '/page/detect': self._detect})

    def _respond(self, routes: dict[str, Callable[..., Answer]]) -> None:
        """Answer by the function whose pattern fits the path."""
        path = self.path.partition('?')[0]
        with self.server.counted():
            try:
                for pattern, answer in routes.items():
                    found = re.fullmatch(pattern, path)
                    if found:
                        self._send(200, *answer(*found.groups()))
                        return
                raise RequestError('NOT_FOUND', f'Malformed request: {self.command} {path[:100]}')
            except RequestError as error:
                self._fail(_CODES[error.code], str(error))
            except OSError:    # the client is gone
                self.close_connection = True
            except (tf.errors.OpError, MemoryError) as error:
                _log.exception('a request failed')
                self._fail(500, error_line(error))

    def _predict(self, name: str, number: str | None) -> Answer:
        version = self._service.version(name, int(number) if number else None)
        body = rest_format.read_body(self._body())
        inputs = rest_format.read_inputs(body, version.inputs(body.signature))
        outputs = self._service.predict('rest', version, body.signature, inputs)
        return JSON, rest_format.write_outputs(outputs, body.rows)

    def _detect(self) -> Answer:
        start = time.perf_counter()
        return JSON, page.detect(self._service, self._body(), start)

    def _status(self, name: str, number: str | None) -> Answer:
        self._service.check_name(name)
        return JSON, _json(grpc_api.status(self._service, int(number) if number else None))

    def _metadata(self, name: str, number: str | None) -> Answer:
        version = self._service.version(name, int(number) if number else None)
        signatures = json.loads(_json(grpc_api.signature_defs(version)))
        return JSON, json.dumps({
            'model_spec': {'name': name, 'signature_name': '', 'version': str(version.number)},
            'metadata': {'signature_def': signatures}}).encode()

    def _health(self) -> Answer:
        if self._service.stopping.is_set():
            raise RequestError('UNAVAILABLE', 'the server is stopping')
        return 'text/plain', b'ok\n'

    def _body(self) -> bytes:
        """Return the body of a request.

        Raises:
            RequestError: its length is missing, or beyond the limit.
        """
        length, limit = self.headers.get('Content-Length', ''), self._service.options.max_bytes
        if not length.isdecimal() or len(length) > 18:    # chunks have no length
            raise RequestError('INVALID_ARGUMENT', 'Content-Length: expected the number of bytes of the request')
        if int(length) > limit:
            raise RequestError('INVALID_ARGUMENT', f'the request has {length} bytes; the limit is {limit}')
        body = self.rfile.read(int(length))
        self._unread = False
        return body

    def _fail(self, code: int, message: str) -> None:
        if self._unread:
            self.close_connection = True    # what is left of the body is not the next request
        with contextlib.suppress(OSError):
            self._send(code, JSON, json.dumps({'error': message}).encode())
            if self._unread:
                self._discard()

    def _discard(self) -> None:
        """Read the rest of a body: a connection that is closed before the client has sent it loses the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_LINGER)
        end = time.monotonic() + _LINGER
        while time.monotonic() < end and self.rfile.read1(2 ** 16):
            pass

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        for name, value in {'Content-Type': kind, 'Content-Length': str(len(content)), 'Cache-Control': 'no-store',
                            'X-Content-Type-Options': 'nosniff', 'Content-Security-Policy': page.POLICY}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:    # noqa: A002    # the name in the base class
        """Print nothing: the metrics count the requests."""


def _json(message: Any) -> bytes:
    text = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None, **_WITH_DEFAULTS)
    return text.encode()


# The argument has another name before protobuf 5.
_WITH_DEFAULTS: dict[str, bool] = {
    'always_print_fields_with_no_presence' if 'always_print_fields_with_no_presence'
    in json_format.MessageToJson.__code__.co_varnames else 'including_default_value_fields': True}
