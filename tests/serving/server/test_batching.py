"""Which requests share a batch, and what happens to the neighbors of one that fails."""
from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from mrcnn_tf.serving.server.batching import Queue, Request
from mrcnn_tf.serving.server.versions import RequestError


class Doubles:
    """A version that returns twice the numbers, and fails on negative ones. It waits until it may start."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started, self.may_run = threading.Semaphore(0), threading.Event()

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.started.release()
        assert self.may_run.wait(10)
        self.batches.append(inputs['x'].reshape(-1).tolist())
        if (inputs['x'] < 0).any():
            raise ArithmeticError('negative')
        return {'y': 2 * inputs['x']}


def ask(queue: Queue, version: Any, values: Any, answers: list[Any], place: int, signature: str = 'double') -> None:
    array = np.array(values)
    try:
        answers[place] = queue.run(Request(version, signature, {'x': array}, len(array)))['y'].tolist()
    except (ArithmeticError, RequestError) as error:
        answers[place] = str(error)


def run(requests: list[Any], max_images: int = 4, max_waiting: int = 64) -> tuple[list[Any], Doubles]:
    """Return the answers to requests that come, one after the other, while the first is computed."""
    version, answers = Doubles(), [None] * len(requests)
    queue = Queue(max_images, 1, max_waiting)
    threads = []
    for place, (values, *signature) in enumerate(requests):
        threads.append(threading.Thread(target=ask, args=(queue, version, values, answers, place, *signature)))
        threads[-1].start()
        if place == 0:
            assert version.started.acquire(timeout=10)
        else:
            while len(queue._waiting) < min(place, max_waiting) and threads[-1].is_alive():
                pass
    version.may_run.set()
    for thread in threads:
        thread.join(10)
    return answers, version


def test_requests_that_wait_are_computed_together_up_to_the_limit() -> None:
    answers, version = run([([1],), ([2],), ([3, 4],), ([5, 6],), ([7],)])
    assert answers == [[2], [4], [6, 8], [10, 12], [14]]
    assert version.batches == [[1], [2, 3, 4, 7], [5, 6]]


def test_a_request_that_fails_does_not_fail_its_neighbors() -> None:
    answers, version = run([([1],), ([2],), ([-3],), ([4],)])
    assert answers == [[2], [4], 'negative', [8]] and version.batches == [[1], [2, -3, 4], [2], [-3], [4]]


def test_other_signatures_and_shapes_are_other_batches() -> None:
    answers, version = run([([1],), ([2],), ([[3, 4]],), ([5], 'other'), ([6],)])
    assert answers == [[2], [4], [[6, 8]], [10], [12]] and version.batches == [[1], [2, 6], [3, 4], [5]]


def test_without_batches() -> None:
    assert run([([1],), ([2],), ([3],)], max_images=1)[1].batches == [[1], [2], [3]]


def test_a_request_too_many_is_refused_at_once() -> None:
    answers, _ = run([([1],), ([2],), ([3],)], max_waiting=1)
    assert answers == [[2], [4], '1 requests are waiting; try again later']


def test_the_code_of_a_busy_server() -> None:
    queue = Queue(1, 1, max_waiting=0)
    with pytest.raises(RequestError) as error:
        queue.run(Request(None, '', {}, 0))    # type: ignore[arg-type]
    assert error.value.code == 'UNAVAILABLE'
