"""Measures the development server beside the raw SavedModel: requests per second, latencies, start and first request.

    python -m benchmarks.serve_speed saved_models/mine photos/*.jpg

Clients are threads of this process that send one image a request over gRPC to the signature `detect`, each as soon as
it has its answer. All ways take turns in each round, so that what else the machine does affects them alike.
"""
from __future__ import annotations

import argparse
import contextlib
import itertools
import pathlib

import numpy as np
import tensorflow as tf

from mrcnn_tf.cli.benchmark.served import served
from mrcnn_tf.cli.benchmark.serving import Ask, client
from mrcnn_tf.cli.benchmark.serving import measure_requests as measure

CLIENTS, ROUNDS, REQUESTS = (1, 2, 4, 8), 4, 24    # of each way in a round


def raw(directory: pathlib.Path) -> Ask:
    """Return a function that runs the newest version of the SavedModel in this process."""
    newest = max((path for path in directory.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    loaded = tf.saved_model.load(str(newest))
    signature = loaded.signatures['detect']
    return lambda image, loaded=loaded: [    # the signature holds the weights of the model weakly
        value.numpy() for value in signature(image_bytes=tf.constant([image])).values()]


def starts(directory: str, image: bytes) -> None:
    """Print the seconds until the ports are open, and of the first and second request, with and without warm-up."""
    for option in ('--warmup', '--no-warmup'):
        with served(directory, option) as server:
            ask = client(server.address('grpc'))
            first, second = (measure(ask, [image], 1)[0] for _ in range(2))
        print(f'{option:12} start {server.seconds:5.1f} s, first request {first:6.3f} s, second {second:6.3f} s',
              flush=True)


def speeds(directory: str, images: list[bytes]) -> None:
    """Print requests per second, median and 99th percentile of the latency of each way."""
    with contextlib.ExitStack() as stack:
        ways: dict[tuple[str, int], Ask] = {('raw SavedModel', clients): raw(pathlib.Path(directory))
                                            for clients in (1, 2)}
        for option in ('--no-batching', '--batching'):
            ask = client(stack.enter_context(served(directory, option)).address('grpc'))
            ways |= {(f'server {option}', clients): ask for clients in CLIENTS}
        for (_, clients), ask in ways.items():
            measure(ask, images[:4], clients)
        results: dict[tuple[str, int], list[tuple[float, list[float]]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for (way, clients), ask in ways.items():
                results[way, clients].append(measure(ask, images, clients))
    for (way, clients), found in results.items():
        each = 1000 * np.array(list(itertools.chain.from_iterable(latencies for _, latencies in found)))
        rate = len(each) / sum(seconds for seconds, _ in found)
        print(f'{way:22} {clients} clients: {rate:6.1f} requests/s, p50 {np.median(each):6.0f} ms, '
              f'p99 {np.percentile(each, 99):6.0f} ms')


def main() -> None:
    """Measure the model and the images of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('directory', help='that `mrcnn export --output` wrote')
    parser.add_argument('images', nargs='+', help='JPEG or PNG files')
    arguments = parser.parse_args()
    files = itertools.cycle([pathlib.Path(path).read_bytes() for path in arguments.images])
    images = list(itertools.islice(files, REQUESTS))
    starts(arguments.directory, images[0])
    speeds(arguments.directory, images)


if __name__ == '__main__':
    main()
