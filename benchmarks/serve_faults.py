"""Sends mixed and damaged requests to a development server: none may crash it, hang, or change another's answer.

    python -m benchmarks.serve_faults saved_models/mine photos/*.jpg --mixed 2000 --fuzzed 10000

Mixed requests have one to four images, of which some are damaged, over gRPC and REST; the answer to each image must be
bit for bit the one that it gets alone. Fuzzed requests have damaged images, or random changes in the bytes of the
message, of the JSON, or of the HTTP request. Meanwhile another client asks for an image of its own, whose answer must
not change. Each request must be answered, or its connection closed, within a minute. Prints the resident memory of the
server on the way. `tests/test_serve_faults.py` holds all of it for a small network.
"""
from __future__ import annotations

import argparse
import base64
import collections
import concurrent.futures
import itertools
import json
import pathlib
import random
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple

import grpc
import numpy as np

from mrcnn_tf.cli.benchmark.served import Served, served
from mrcnn_tf.serving import light_client
from tests.data_tools import fuzz

FIRST, LIMIT = 600, 60    # seconds for the first request, which optimizes the graph, and for the others
DAMAGED = [b'', b'hello', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n']
Outputs = dict[str, np.ndarray]


def same(found: Outputs, place: int, expected: Outputs) -> bool:
    return all(np.array_equal(found[name][place], value[0]) for name, value in expected.items())


class Found(NamedTuple):
    """What requests found.

    Attributes:
        wrong: answers that are not those expected.
        equal: those that are.
        memory: of the server, MB, after each tenth of the requests.
        statuses: of the requests, by their kind.
    """
    wrong: int
    equal: int
    memory: list[float]
    statuses: dict[str, collections.Counter[str]]


def mixed(server: Served, images: list[bytes], count: int) -> Found:
    """Send mixed requests, and compare each answer with that of the image alone."""
    models = {protocol: light_client.Model(server.address(protocol), LIMIT) for protocol in ('grpc', 'http')}
    alone = {(protocol, image): model.predict('detect', {'image_bytes': [image]})
             for protocol, model in models.items() for image in [*images, *DAMAGED]}
    rng, right, memory = random.Random(1), collections.Counter[bool](), []
    for number in range(count):
        protocol = 'http' if number % 5 == 0 else 'grpc'
        chosen = [rng.choice(images if rng.random() < .7 else DAMAGED) for _ in range(rng.randint(1, 4))]
        found = models[protocol].predict('detect', {'image_bytes': chosen})
        right.update(same(found, i, alone[protocol, image]) for i, image in enumerate(chosen))
        _sample(memory, server, number, count)
    return Found(right[False], right[True], memory, {})


def _sample(memory: list[float], server: Served, number: int, count: int) -> None:
    """Add and print the memory of the server after each tenth of the requests."""
    if (number + 1) * 10 // count > number * 10 // count:
        memory.append(server.resident())
        print(f'{number + 1:6} of {count}: {memory[-1]:.0f} MB', flush=True)


class Fuzzer:
    """Makes damaged requests.

    Args:
        server: gets them.
        images: that are damaged, beside those of `fuzz`.
    """

    def __init__(self, server: Served, images: list[bytes]) -> None:
        self._server, self._images = server, [*images, *fuzz._image_sorts().values()]
        self._channel = grpc.insecure_channel(f'127.0.0.1:{server.grpc}')
        self.kinds: dict[str, Callable[[random.Random], str]] = {
            'images over gRPC': lambda rng: self._grpc(self._message(self._image(rng))),
            'messages over gRPC': lambda rng: self._grpc(fuzz._bytes(self._message(rng.choice(self._images)), rng)),
            'images to the page': lambda rng: self._http(_post('/page/detect', self._image(rng))),
            'JSON': lambda rng: self._http(_post(self._path, fuzz._bytes(self._json(rng), rng))),
            'HTTP': lambda rng: self._http(fuzz._bytes(_post(self._path, self._json(rng)), rng))}
        self._path = f'/v1/models/{server.name}:predict'

    def _image(self, rng: random.Random) -> bytes:
        return fuzz._bytes(rng.choice(self._images), rng)

    def _message(self, image: bytes) -> bytes:
        return light_client.predict_request(self._server.name, 'detect', {'image_bytes': [image]})

    def _json(self, rng: random.Random) -> bytes:
        instances = [{'b64': base64.b64encode(rng.choice(self._images)[:300]).decode()}]
        return json.dumps({'signature_name': 'detect', 'instances': instances}).encode()

    def _grpc(self, message: bytes) -> str:
        """Return the status of a call; a call without an answer would have DEADLINE_EXCEEDED."""
        try:
            self._channel.unary_unary(light_client._PREDICT)(message, timeout=LIMIT)
        except grpc.RpcError as error:
            return error.code().name
        return 'OK'

    def _http(self, request: bytes) -> str:
        """Return the status of a request that is sent as it is."""
        with socket.create_connection(('127.0.0.1', self._server.rest), LIMIT) as connection:
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                answer = b''.join(iter(lambda: connection.recv(1 << 16), b''))
            except TimeoutError:
                return 'HANGS'
            except OSError:    # the server refused the rest of the request
                return 'closed'
        return answer[9:12].decode(errors='replace') if answer.startswith(b'HTTP/1.1 ') else 'closed'


def _post(path: str, body: bytes) -> bytes:
    return f'POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n'.encode() + body


def fuzzed(server: Served, images: list[bytes], count: int) -> Found:
    """Send damaged requests, while another client asks for an image again and again, whose answers are compared."""
    model, done = light_client.Model(server.address('grpc'), LIMIT), threading.Event()
    right = collections.Counter[bool]()
    expected = model.predict('detect', {'image_bytes': images[:1]})

    def ask() -> None:
        while not done.wait(.2):
            right[same(model.predict('detect', {'image_bytes': images[:1]}), 0, expected)] += 1

    fuzzer, memory = Fuzzer(server, images), []
    statuses = {kind: collections.Counter[str]() for kind in fuzzer.kinds}
    with concurrent.futures.ThreadPoolExecutor() as executor:
        neighbor = executor.submit(ask)
        try:
            for number, kind in zip(range(count), itertools.cycle(fuzzer.kinds)):
                statuses[kind][fuzzer.kinds[kind](random.Random(number))] += 1
                _sample(memory, server, number, count)
        finally:
            done.set()
        neighbor.result()
    return Found(right[False], right[True], memory, statuses)


def main() -> None:
    """Send requests to a server of the model of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('directory', help='that `mrcnn export --output` wrote')
    parser.add_argument('images', nargs='+', help='JPEG or PNG files')
    parser.add_argument('--mixed', type=int, default=2000, help='number of requests')
    parser.add_argument('--fuzzed', type=int, default=10000, help='number of requests')
    arguments = parser.parse_args()
    images = [pathlib.Path(path).read_bytes() for path in arguments.images]
    with served(arguments.directory, '--batching') as server:
        light_client.Model(server.address('grpc'), FIRST).detect(images[:1])
        for work, count in ((mixed, arguments.mixed), (fuzzed, arguments.fuzzed)):
            found = work(server, images, count)
            print(f'{count} requests, {work.__name__}: {found.wrong} of {found.wrong + found.equal} answers differ')
            for kind, statuses in found.statuses.items():
                print(f'{kind:20} {dict(statuses.most_common())}', flush=True)


if __name__ == '__main__':
    main()
