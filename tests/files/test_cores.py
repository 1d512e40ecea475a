"""The threads of TensorFlow by the number of cores."""
from __future__ import annotations

import os

import pytest

from mrcnn_tf.files import cores


@pytest.mark.parametrize(('number', 'given', 'expected'), [
    (1, None, '1'), (2, None, '1'), (3, None, None), (2, '4', '4')])
def test_operations_take_turns_on_few_cores(
        monkeypatch: pytest.MonkeyPatch, number: int, given: str | None, expected: str | None) -> None:
    """Unless the user says how many run side by side."""
    monkeypatch.setattr(cores, 'CORES', number)
    monkeypatch.setenv('TF_NUM_INTEROP_THREADS', given or '')
    if given is None:
        monkeypatch.delenv('TF_NUM_INTEROP_THREADS')
    cores.one_operation_at_a_time()
    assert os.environ.get('TF_NUM_INTEROP_THREADS') == expected
