"""Requests of several clients at once."""
from __future__ import annotations

import pathlib
import threading
import time

import pytest

from mrcnn_tf.cli.benchmark import serving


def test_clients_ask_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=30)    # a single client would wait here for ever
    total, each = serving.measure_requests(lambda image: together.wait(), [b'a', b'b', b'c', b'd'], 2)
    assert len(each) == 4 and 0 <= max(each) <= total


def test_latencies_leave_out_the_first_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a.png').write_bytes(b'image')
    asked: list[bytes] = []

    def ask(image: bytes) -> None:
        time.sleep(.2 if not asked else 0)
        asked.append(image)

    monkeypatch.setattr(serving, 'client', lambda address: ask)
    send, said = serving.requests('grpc://host:1/name', [tmp_path / 'a.png'], 3, 1)
    send()
    assert said['p99_ms'] > 190
    send()
    assert asked == [b'image'] * 6 and said['p50_ms'] <= said['p99_ms'] < 190
