"""Which GPUs are used together, and work in threads; `tests/evaluation/test_run.py` detects on two devices."""
from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
import tensorflow as tf

from mrcnn_tf.detectors.devices import in_threads, several_gpus


@pytest.mark.parametrize(('names', 'expected'), [
    ([], []), (['GPU:0'], []), (['GPU:0', 'GPU:1'], ['GPU:0', 'GPU:1'])])
def test_several_gpus(monkeypatch: pytest.MonkeyPatch, names: list[str], expected: list[str]) -> None:
    monkeypatch.setattr(tf.config, 'list_logical_devices', lambda kind: [
        tf.config.LogicalDevice(name, kind) for name in names if kind == 'GPU'])
    assert several_gpus() == expected


def test_results_come_in_order_and_two_are_computed_at_the_same_time() -> None:
    together = threading.Barrier(2)

    def work(number: int) -> int:
        together.wait(60)
        return 10 * number

    assert list(in_threads(work, range(6), 2)) == [0, 10, 20, 30, 40, 50]


def test_few_items_are_taken_ahead() -> None:
    taken = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = in_threads(lambda number: number, endless(), 2)
    assert next(results) == 0 and taken == [0, 1, 2, 3, 4]
    results.close()


def test_an_error_ends_the_results() -> None:
    results = in_threads(lambda number: 1 // number, [1, 0, 2], 2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
