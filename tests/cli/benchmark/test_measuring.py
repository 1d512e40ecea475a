"""Times of repeated work: which runs count, and when they are repeated."""
from __future__ import annotations

import io
import json
from typing import Any

import pytest

from mrcnn_tf.cli.benchmark import measuring


class Clock:
    """A clock that the measured work moves on."""

    def __init__(self, *seconds: float) -> None:
        self.now, self._seconds = 0., list(seconds)

    def work(self) -> None:
        self.now += self._seconds.pop(0)


def measured(monkeypatch: pytest.MonkeyPatch, clock: Clock, loads: list[float], **options: Any) -> dict[str, Any]:
    """Measure with this clock, and with others that use `loads` cores in one run after the other."""
    class Load:
        cores = 0.

        def __enter__(self) -> Load:
            return self

        def __exit__(self, *_: object) -> None:
            self.cores = loads.pop(0)

    monkeypatch.setattr(measuring.time, 'perf_counter', lambda: clock.now)
    monkeypatch.setattr(measuring.time, 'monotonic', lambda: clock.now)
    monkeypatch.setattr(measuring.time, 'sleep', lambda seconds: setattr(clock, 'now', clock.now + seconds))
    monkeypatch.setattr(measuring, 'OthersLoad', Load)
    return measuring.measure(clock.work, **options)


def test_only_the_runs_after_the_warm_up_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, Clock(9, 5, 1, 4, 2), [.1, .3, .2], runs=3, warmup=2)
    assert {name: found[name] for name in ('first_s', 'median_s', 'min_s', 'max_s', 'runs', 'others_cores')} == {
        'first_s': 9, 'median_s': 2, 'min_s': 1, 'max_s': 4, 'runs': 3, 'others_cores': .3}
    assert found['peak_rss_mb'] > 10


def test_a_disturbed_run_is_repeated_while_patience_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    # One quiet pause before the runs, one more after the disturbed run.
    found = measured(monkeypatch, Clock(1, 7, 3), [0., .5, 0., .1], runs=1, patience=60)
    assert found['median_s'] == 3 and found['others_cores'] == .1


def test_after_that_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, Clock(1, 7), [.5, .5, .9], runs=1, patience=4)
    assert found['median_s'] == 7 and found['others_cores'] == .9


def test_the_load_of_others_leaves_out_this_process() -> None:
    with measuring.OthersLoad() as load:
        sum(range(3_000_000))
    assert 0. <= load.cores < measuring.psutil.cpu_count() + .1


def test_a_run_on_request_starts_after_a_line_of_input(monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    clock, requests = Clock(9, 5, 1, 4), iter([10., 20., 30.])
    times: list[float] = []

    class Input:
        def readline(self) -> str:
            times.append(clock.now)
            clock.now += next(requests)
            return '\n'

    monkeypatch.setattr(measuring.sys, 'stdin', Input())
    found = measured(monkeypatch, clock, [.9, .9], runs=2, warmup=2, on_request=True)
    assert times == [14, 25, 49]    # after the warm-up and after each run; no waiting counts
    assert found['median_s'] == 2.5 and found['runs'] == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{'ready': True}, {'seconds': 1}, {'seconds': 4}]


def test_input_may_end_after_the_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring.sys, 'stdin', io.StringIO('\n\n'))
    assert measured(monkeypatch, Clock(1, 1, 2), [0., 0.], runs=2, on_request=True)['runs'] == 2


def test_input_that_ends_before_the_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring.sys, 'stdin', io.StringIO('\n'))
    with pytest.raises(SystemExit, match='^error: --on-request: standard input ended after 1 of 2 runs$'):
        measured(monkeypatch, Clock(1, 1), [0.], runs=2, on_request=True)


def test_patience_on_request() -> None:
    with pytest.raises(SystemExit, match='^error: --on-request .* leave out --patience'):
        measuring.measure(lambda: None, 1, patience=9., on_request=True)
