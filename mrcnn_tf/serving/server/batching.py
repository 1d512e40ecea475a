"""Batches of requests: those that wait while others are computed go through the model together.

B images of a request. A request that fails does not fail those of its batch: each of them runs again alone.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from mrcnn_tf.serving.server.versions import Arrays, RequestError, Version


@dataclass(frozen=True, eq=False)
class Request:
    """A request that waits: `count` images for a signature of a version."""
    version: Version
    signature: str
    inputs: Arrays
    count: int
    answer: Future[Arrays] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[object, ...]:
        """What is equal in all requests of a batch."""
        return self.version, self.signature, tuple((name, value.shape[1:]) for name, value in self.inputs.items())


class Queue:
    """Runs requests on threads, in the order in which they came.

    Args:
        max_images: of a batch; 1: no batches.
        threads: how many batches are computed at once.
        max_waiting: requests that may wait.
        observe: is called with the number of images of each batch.
    """

    def __init__(self, max_images: int, threads: int, max_waiting: int = 64,
                 observe: Callable[[int], None] = lambda images: None) -> None:
        self._max_images, self._max_waiting, self._observe = max_images, max_waiting, observe
        self._waiting: list[Request] = []
        self._changed = threading.Condition()
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()

    def run(self, request: Request) -> Arrays:
        """Return the outputs of a request.

        Raises:
            RequestError: too many requests wait.
        """
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                raise RequestError('UNAVAILABLE', f'{self._max_waiting} requests are waiting; try again later')
            self._waiting.append(request)
            self._changed.notify()
        return request.answer.result()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                batch = self._take()
            self._observe(sum(request.count for request in batch))
            _answer(batch)

    def _take(self) -> list[Request]:
        """Remove and return the request that waits longest, and those that fit its batch."""
        first, *others = self._waiting
        batch, images = [first], first.count
        for request in others:
            if request.kind == first.kind and images + request.count <= self._max_images:
                batch.append(request)
                images += request.count
        self._waiting = [request for request in others if request not in batch]
        return batch


def _answer(batch: Sequence[Request]) -> None:
    first = batch[0]
    try:
        names = first.inputs
        inputs = {name: np.concatenate([each.inputs[name] for each in batch]) for name in names}
        outputs = first.version.run(first.signature, inputs)
    except Exception as error:    # whatever it is belongs to the client, not to this thread
        if len(batch) == 1:
            first.answer.set_exception(error)
        else:
            for request in batch:
                _answer([request])
        return
    end = 0
    for request in batch:
        start, end = end, end + request.count
        request.answer.set_result({name: value[start:end] for name, value in outputs.items()})
