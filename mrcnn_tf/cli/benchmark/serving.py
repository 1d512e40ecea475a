"""The development server under the requests of several clients."""
from __future__ import annotations

import concurrent.futures
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mrcnn_tf import files
from mrcnn_tf.cli.benchmark.networks import Work
from mrcnn_tf.serving import light_client

Ask = Callable[[bytes], object]


def measure_requests(ask: Ask, images: Sequence[bytes], clients: int) -> tuple[float, list[float]]:
    """Return the seconds for all images, and those of each request.

    Args:
        ask: sends a request with one image and waits for the answer.
        images: bytes of image files.
        clients: threads that each send the next image as soon as they have their answer.
    """
    def timed(image: bytes) -> float:
        begun = time.perf_counter()
        ask(image)
        return time.perf_counter() - begun

    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        each = list(pool.map(timed, images))
    return time.perf_counter() - begun, each


def client(address: str) -> Ask:
    """Return a function that asks a server for the detections of an image."""
    model = light_client.Model(address, timeout=600.)
    return lambda image: model.predict('detect', {'image_bytes': [image]})


def requests(address: str, paths: Sequence[pathlib.Path], count: int, clients: int) -> Work:
    """Return `count` requests with one image each, by several clients at once.

    Args:
        address: of the model, grpc://HOST:PORT/NAME or http://...
        paths: of the images, repeated as often as needed.
        count: of requests.
        clients: that wait for their answers at the same time.
    """
    images = list(itertools.islice(itertools.cycle([files.read_bytes(path) for path in paths]), count))
    ask = client(address)
    said: dict[str, Any] = {'clients': clients, 'images': count}
    latencies: list[list[float]] = []

    def send() -> None:
        latencies.append(measure_requests(ask, images, clients)[1])
        counted = np.concatenate(latencies[1:] or latencies)    # the first call warms up
        said.update({f'p{p}_ms': round(1000 * float(np.percentile(counted, p)), 1) for p in (50, 99)})

    return send, said
