"""Progress of long work: lines in a log, a bar on a terminal, a rate and the time left."""
from __future__ import annotations

import io

import pytest
from rich.console import Console

from mrcnn_tf.files import progress


@pytest.fixture()
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only element is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    return now


def printed(clock: list[float], capsys: pytest.CaptureFixture[str], steps: list[tuple[float, int]],
            before: int = 0) -> list[str]:
    """Return the lines printed while these numbers of records are done at these times."""
    with progress.progress_bar('read', 10, before, unit='records') as update:
        for seconds, done in steps:
            clock[0] = seconds
            update(done)
    return capsys.readouterr().out.splitlines()


def test_a_log_gets_a_line_every_half_minute_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str],
                                                            ) -> None:
    assert printed(clock, capsys, [(1, 1), (30, 3), (40, 4), (60, 5), (70, 10)]) == [
        'read: 3 of 10 records, 0.10 records/s, 0:01:10 left', 'read: 5 of 10 records, 0.08 records/s, 0:01:00 left',
        'read: 10 of 10 records, 0.14 records/s']


def test_what_an_earlier_run_did_does_not_count_for_the_rate(
        clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    # 2 of 4 in 40 s: 0.05/s, and 2 left need 40 s. With the 6 of the run before it would be 0.2/s.
    assert printed(clock, capsys, [(1, 6), (40, 8), (41, 8), (80, 10)], before=6) == [
        'read: 8 of 10 records, 0.05 records/s, 0:00:40 left', 'read: 10 of 10 records, 0.05 records/s']


@pytest.mark.parametrize(('seconds', 'rate'), [(4, '2.50'), (0.5, '20.0'), (0.0625, '160')])
def test_a_rate_has_three_digits(clock: list[float], capsys: pytest.CaptureFixture[str], seconds: float, rate: str,
                                 ) -> None:
    assert printed(clock, capsys, [(seconds, 10)]) == [f'read: 10 of 10 records, {rate} records/s']


def test_nothing_done_prints_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(clock, capsys, [(100, 0), (200, 0)]) == []


def test_tracked_items_in_a_log(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=20)
    items = progress.track('abc', 3, 'seen', console=console)
    for seconds, item in ((40, 'a'), (50, 'b'), (60, 'c')):
        assert next(items) == item
        clock[0] = seconds
    assert list(items) == []
    assert console.file.getvalue().splitlines() == [
        'seen: 1 of 3 images, 0.03 images/s, 0:01:20 left', 'seen: 3 of 3 images, 0.05 images/s']


def test_tracked_items_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    assert list(progress.track(range(3), 3, 'seen', console=console)) == [0, 1, 2]
    assert '3/3' in console.file.getvalue()


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress.print_line('[bold] ' + 'x' * 300 + '\x1b')
    assert capsys.readouterr().out == '[bold] ' + 'x' * 300 + '\\x1b\n'
