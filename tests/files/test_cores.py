"""The threads of TensorFlow by the number of cores."""
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
