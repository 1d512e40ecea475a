"""Progress in a log: lines now and then, a rate and the time left, without what an earlier run has done."""
from __future__ import annotations

import pytest

from data_tools import progress


@pytest.fixture()
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one number is the time, s."""
    now = [0.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    return now


def shown(clock: list[float], capsys: pytest.CaptureFixture[str], steps: list[tuple[float, int]],
          before: int = 0) -> list[str]:
    with progress.shown('read', 10, before, unit='records') as show:
        for seconds, done in steps:
            clock[0] = seconds
            show(done)
    return capsys.readouterr().out.splitlines()


def test_lines_come_every_half_minute_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(clock, capsys, [(1, 1), (30, 3), (40, 4), (60, 5), (70, 10)])
    assert lines == [
        'read: 3 of 10 records, 0.1 records/s, 70 s left', 'read: 5 of 10 records, 0.1 records/s, 60 s left',
        'read: 10 of 10 records, 0.1 records/s']


def test_what_was_done_before_does_not_count_for_the_rate(
        clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    # 2 of 4 in 40 s: 0.05/s, and 2 left need 40 s. With the 6 of the run before it would be 0.2/s.
    lines = shown(clock, capsys, [(1, 6), (40, 8), (41, 8), (80, 10)], before=6)
    assert lines == ['read: 8 of 10 records, 0.1 records/s, 40 s left', 'read: 10 of 10 records, 0.1 records/s']


def test_nothing_done_is_no_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(clock, capsys, [(100, 0), (200, 0)]) == []


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say('[bold] ' + 'x' * 300)
    assert capsys.readouterr().out == '[bold] ' + 'x' * 300 + '\n'
