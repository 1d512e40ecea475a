"""The light client over TLS: servers on this machine with a certificate of their own, which a client may trust."""
from __future__ import annotations

import concurrent.futures
import http.server
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import pytest

from mrcnn_tf.serving import light_client

ANSWER = {'model': 'mask_rcnn'}
pytestmark = pytest.mark.skipif(not shutil.which('openssl'), reason='openssl makes the certificate')


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """The files of a key and of its self-signed certificate for `localhost`."""
    folder = tmp_path_factory.mktemp('tls')
    key, path = folder / 'key.pem', folder / 'certificate.pem'
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost',
                    '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', path], check=True,
                   capture_output=True)
    return key, path


@pytest.fixture(scope='module')
def grpcs(certificate: tuple[pathlib.Path, pathlib.Path]) -> Iterator[str]:
    content = json.dumps(ANSWER).encode()
    tensor = b'\x08\x07' + light_client.field(2, light_client.field(2, b'\x08\x01')) + light_client.field(8, content)
    entry = light_client.field(1, b'description') + light_client.field(2, tensor)
    answer = light_client.field(1, entry)    # a PredictResponse
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
        'tensorflow.serving.PredictionService', {'Predict': handler})])
    key, path = (each.read_bytes() for each in certificate)
    port = server.add_secure_port('localhost:0', grpc.ssl_server_credentials([(key, path)]))
    server.start()
    yield f'grpcs://localhost:{port}/mine'
    server.stop(None)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers['Content-Length']))
        body = json.dumps({'outputs': [json.dumps(ANSWER)]}).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope='module')
def https(certificate: tuple[pathlib.Path, pathlib.Path]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    server = http.server.HTTPServer(('localhost', 0), Handler)
    server.handle_error = lambda *_: None    # type: ignore[method-assign]    # of clients that do not trust it
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'https://localhost:{server.server_port}/mine'
    server.shutdown()
    thread.join()
    server.server_close()


def describe(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask in a process of its own: gRPC reads the trusted certificates once."""
    code = ('import sys, runpy; light = runpy.run_path(sys.argv[1]); '
            'print(light["Model"](sys.argv[2], 5., 0).describe())')
    return subprocess.run([sys.executable, '-c', code, light_client.__file__, address], text=True, capture_output=True,
                          timeout=60, env={**os.environ, **environment})


@pytest.mark.parametrize('protocol', ['grpcs', 'https'])
def test_a_server_is_asked_if_its_certificate_is_trusted(
        request: pytest.FixtureRequest, certificate: tuple[pathlib.Path, pathlib.Path], protocol: str) -> None:
    address, path = request.getfixturevalue(protocol), str(certificate[1])
    trusted = describe(address, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=path, SSL_CERT_FILE=path)
    assert trusted.stdout.strip() == str(ANSWER), trusted.stderr
    other = describe(address)
    assert other.returncode and not other.stdout and 'RemoteError' in other.stderr
    assert 'certificate' in other.stderr.lower()
