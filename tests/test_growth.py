"""Tables of growth (benchmarks/growth.py)."""
from __future__ import annotations

import sys
from typing import Any

import pytest

from benchmarks import growth
from benchmarks.side_by_side import OURS


def test_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called: list[Any] = []

    def take_turns(programs: dict[str, list[str]], turns: int) -> Any:
        called.append((programs, turns))
        return ({'1': [1., 2., 4.], '2': [2.2, 6., 8.], '4': [4., 7., 16.]},
                {value: {'peak_rss_mb': 1000 * int(value), 'others_cores': .1} for value in programs})

    monkeypatch.setattr(growth, 'take_turns', take_turns)
    monkeypatch.setattr(sys, 'argv', ['growth', '--runs', '3', '--only', 'training: images'])
    growth.main()
    (programs, turns), = called
    assert turns == 3 and programs['4'] == [*OURS, 'train', growth.CONFIG, 'data.batch_size=4', '--size', '416', '416',
                                            '--runs', '3', '--on-request']
    # Ratios are those of a turn: 2.2, 3 and 2 to the first; 4, 3.5 and 4.
    assert capsys.readouterr().out == (
        '\n| training: images of 416 x 416 px in a batch | s | of the first row | memory, MB | others, cores |\n'
        '|---|---|---|---|---|\n'
        '| 1 | 2.00 | 1.00 | 1000 | 0.1 |\n| 2 | 6.00 | 2.20 | 2000 | 0.1 |\n| 4 | 7.00 | 4.00 | 4000 | 0.1 |\n\n')


def test_no_such_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'argv', ['growth', '--only', 'batches'])
    with pytest.raises(SystemExit):
        growth.main()
    assert '--only batches: no title has this part; the titles are: inference: side' in capsys.readouterr().err
