"""Settings by the number of cores."""
from __future__ import annotations

import os
import pathlib

import pytest

from mrcnn_tf.files import cores


@pytest.mark.parametrize(('number', 'gpu', 'given', 'expected'), [
    (1, False, None, '1'), (2, False, None, '1'), (3, False, None, None), (2, True, None, None), (2, False, '4', '4')])
def test_operations_take_turns_on_few_cores(
        monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, number: int, gpu: bool, given: str | None,
        expected: str | None) -> None:
    """Unless there is a GPU, or the user says how many run side by side."""
    monkeypatch.setattr(cores, 'CORES', number)
    monkeypatch.setattr(cores, '_GPUS', [tmp_path / 'gpu'])
    if gpu:
        (tmp_path / 'gpu').touch()
    monkeypatch.setenv('TF_NUM_INTEROP_THREADS', given or '')
    if given is None:
        monkeypatch.delenv('TF_NUM_INTEROP_THREADS')
    cores.one_operation_at_a_time()
    assert os.environ.get('TF_NUM_INTEROP_THREADS') == expected


@pytest.mark.parametrize(('number', 'gpu', 'given', 'expected'), [
    (2, False, None, [(-8, 1)]), (3, False, None, []), (2, True, None, []), (2, False, '4', [])])
def test_threads_share_a_heap_on_few_cores(
        monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, number: int, gpu: bool, given: str | None,
        expected: list[tuple[int, int]]) -> None:
    """-8 is M_ARENA_MAX of glibc's malloc.h. Unless there is a GPU, or the user says how many heaps there are."""
    calls: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            self.mallopt = lambda *values: calls.append(values)

    monkeypatch.setattr(cores.ctypes, 'CDLL', Library)
    monkeypatch.setattr(cores, 'CORES', number)
    monkeypatch.setattr(cores, '_GPUS', [tmp_path / 'gpu'])
    if gpu:
        (tmp_path / 'gpu').touch()
    monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
    if given:
        monkeypatch.setenv('MALLOC_ARENA_MAX', given)
    cores.one_heap()
    assert calls == expected


def test_another_c_library_has_one_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.ctypes, 'CDLL', lambda name: object())
    monkeypatch.setattr(cores, 'CORES', 1)
    monkeypatch.setattr(cores, '_GPUS', [])
    monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
    cores.one_heap()
