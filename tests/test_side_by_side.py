"""Programs that take turns (benchmarks/side_by_side.py): their order, their ratios, and what ends early."""
from __future__ import annotations

import json
import pathlib
import signal
import sys
from typing import Any

import psutil
import pytest

from benchmarks import side_by_side
from mrcnn_tf.cli.benchmark import measuring
from tests.cli.runner import Recorder

# Its work moves its clock, and adds the program's name to a file. It has no work left after the given seconds.
PROGRAM = f"""
import json, os, sys
sys.path.insert(0, {str(pathlib.Path(measuring.__file__).parent)!r})
import measuring

folder, name, runs, *seconds = sys.argv[1:]
now = 0.

def write(letter):
    with open(f'{{folder}}/order', 'a') as order:
        order.write(letter)

def work():
    global now
    print('a message')
    write(name[0])
    now += float(seconds.pop(0))

with open(f'{{folder}}/{{name}}', 'w') as pid:
    pid.write(str(os.getpid()))
measuring.time.perf_counter = lambda: now
found = measuring.measure(work, int(runs), on_request=True)
write(name[0].upper())
print(json.dumps(found))
"""


def program(folder: pathlib.Path, name: str, runs: int, *seconds: float) -> list[str]:
    return [sys.executable, '-c', PROGRAM, str(folder), name, str(runs), *map(str, seconds)]


def test_programs_take_turns(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    side_by_side.by_turns({'ours': program(tmp_path, 'ours', 3, 50, 1, 6, 3),
                           'theirs': program(tmp_path, 'theirs', 3, 70, 2, 4, 4)}, 3)
    # The warm-up, three turns, and only then their ends.
    assert (tmp_path / 'order').read_text() == 'ot' + 'ot' + 'to' + 'ot' + 'OT'
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [{'turn': 1, 'ours': 1, 'theirs': 2}, {'turn': 2, 'ours': 6, 'theirs': 4},
                         {'turn': 3, 'ours': 3, 'theirs': 4}]
    results = [(line['program'], line['first_s'], line['median_s']) for line in lines[3:5]]
    assert results == [('ours', 50, 3), ('theirs', 70, 4)]
    assert lines[5] == {'ratio': 'ours / theirs', 'of': 'seconds', 'median': .75, 'min': .5, 'max': 1.5,
                        'of_fastest': .5, 'of_medians': .75}
    memory = round(lines[3]['peak_rss_mb'] / lines[4]['peak_rss_mb'], 3)
    assert lines[6:] == [{'ratio': 'ours / theirs', 'of': 'peak_rss_mb', 'median': memory, 'min': memory,
                          'max': memory}]


@pytest.mark.parametrize('seconds', [[], [70, 2]], ids=['before its first turn', 'in a turn'])
def test_a_program_that_fails_ends_all(tmp_path: pathlib.Path, seconds: list[float]) -> None:
    with pytest.raises(SystemExit) as caught:
        side_by_side.by_turns({'ours': program(tmp_path, 'ours', 3, 50, 1, 6, 3),
                               'theirs': program(tmp_path, 'theirs', 3, *seconds)}, 3)
    message = str(caught.value)
    assert ' theirs 3' in message and ': exit code 1\n' in message
    assert 'IndexError: pop from empty list\n' in message
    for name in ('ours', 'theirs'):
        assert not psutil.pid_exists(int((tmp_path / name).read_text()))


def test_a_program_that_has_ended_before_its_turn() -> None:
    with side_by_side.Program([sys.executable, '-c', '']) as ended:
        ended._process.wait()
        with pytest.raises(SystemExit, match='exit code 0'):
            ended.run()


def test_a_program_in_the_middle_of_a_run_is_ended() -> None:
    with side_by_side.Program([sys.executable, '-c', 'import time; time.sleep(30)']) as busy:
        pass
    assert busy._process.returncode == -signal.SIGKILL


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Return what the command would run by turns: programs and the number of turns."""
    by_turns = Recorder()
    monkeypatch.setattr(side_by_side, 'by_turns', by_turns)
    monkeypatch.setattr(sys, 'argv', ['side_by_side', *arguments])
    side_by_side.main()
    return by_turns.calls[0]


@pytest.mark.parametrize('what, names', [
    ('inference', ['ours', 'torchvision', 'openvino']), ('pasted', ['ours', 'torchvision', 'openvino']),
    ('train', ['ours', 'torchvision'])])
def test_every_program_waits(monkeypatch: pytest.MonkeyPatch, what: str, names: list[str]) -> None:
    programs, turns = started(monkeypatch, what, '--torch', 'python', '--by-turns', '--runs', '7')
    assert list(programs) == names and turns == 7
    for command in programs.values():
        assert command[-3:] == ['--runs', '7', '--on-request'] and '--patience' not in command


def test_torchvision_is_also_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    programs, _ = started(monkeypatch, 'pasted', '--torch', 'python', '--by-turns', '--compiled')
    assert list(programs) == ['ours', 'torchvision', 'openvino', 'compiled']
    assert programs['compiled'][2] == 'compiled' and '--paste' in programs['compiled']


@pytest.mark.parametrize('arguments, message', [
    (['files', 'photos'], '--by-turns is for inference, pasted and train, not for files'),
    (['input', 'a.json', 'photos'], '--by-turns is for inference, pasted and train, not for input'),
    (['train', '--garden', 'python'], '--by-turns: Model Garden cannot wait; leave out --garden'),
    (['train', '--compiled', '--torch', 'python'], '--compiled is for inference, pasted and files, with --torch'),
    (['pasted', '--compiled'], '--compiled is for inference, pasted and files, with --torch'),
    (['train', '--patience', '9'], '--by-turns makes each run once; leave out --patience, which repeats runs'),
    (['train', '--rounds', '2'], 'argument --by-turns: not allowed with argument --rounds')])
def test_what_cannot_take_turns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        started(monkeypatch, *arguments, '--by-turns')
    assert message in capsys.readouterr().err
