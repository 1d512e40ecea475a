"""Metrics of the development server in Prometheus' text format."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from mrcnn_tf.serving.server.versions import RequestError

_SECONDS = (.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of requests and images, times, sizes of batches, and those of the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter('mrcnn_requests', 'Requests by protocol, signature and gRPC status.',
                                 ['protocol', 'signature', 'code'], registry=self._registry)
        self._seconds = Histogram('mrcnn_request_seconds', 'Time of a request with its wait.', ['protocol'],
                                  buckets=_SECONDS, registry=self._registry)
        self._images = Counter('mrcnn_images', 'Images by their status in the answer.', ['status'],
                               registry=self._registry)
        self.batch_images = Histogram('mrcnn_batch_images', 'Images of a batch.', buckets=_IMAGES,
                                      registry=self._registry)
        self.version = Gauge('mrcnn_model_version', 'Version that is served.', registry=self._registry)

    @contextlib.contextmanager
    def request(self, protocol: str, signature: str) -> Iterator[None]:
        """A context that counts and times a request."""
        start, code = time.perf_counter(), 'INTERNAL'
        try:
            yield
            code = 'OK'
        except RequestError as error:
            code = error.code
            raise
        finally:
            self._requests.labels(protocol, signature, code).inc()
            self._seconds.labels(protocol).observe(time.perf_counter() - start)

    def statuses(self, values: np.ndarray) -> None:
        """Count the images of an answer by their status."""
        for status, count in zip(*np.unique(values, return_counts=True), strict=True):
            self._images.labels(str(status)).inc(int(count))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
