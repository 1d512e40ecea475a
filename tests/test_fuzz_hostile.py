"""A few of the cases of fuzz_hostile.py, which is run by the thousand by hand; and that it notices what it is for."""
from __future__ import annotations

import pathlib
import pickle
from typing import Any

import pytest

from data_tools import issues
from mrcnn_tf import files
from mrcnn_tf.files import restricted_pickle
from tests import fuzz_hostile


def test_hostile_files_end_in_a_line_or_in_a_result() -> None:
    ends, failures = fuzz_hostile.run(range(30), seed=0)
    assert not failures, '\n'.join(failures.values())
    assert {end for _, end in ends} == {'one clear line', 'a result'}


def _program(path: pathlib.Path) -> Any:
    (path.parent / 'mark').touch()
    return pickle.loads(b'N.')


@pytest.mark.parametrize(('module', 'name', 'instead', 'message'), [
    (files, 'inside', lambda directory, name, follow=False: pathlib.Path(directory) / name, 'holds the secret'),
    (issues, 'one_line', lambda text, longest=0: str(text), 'controls reach the terminal'),
    (restricted_pickle, 'load', _program, 'a program of the file was run')])
def test_a_defect_is_noticed(
        monkeypatch: pytest.MonkeyPatch, module: Any, name: str, instead: Any, message: str) -> None:
    monkeypatch.setattr(module, name, instead)
    numbers = [number for number in range(70) if number % 10 in (0, 1, 9)]
    _, failures = fuzz_hostile.run(numbers, seed=0)
    assert any(message in failure for failure in failures.values()), failures
