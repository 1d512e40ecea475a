"""Settings of what is traced."""
from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from mrcnn_tf.layers import tracing


def test_a_setting_is_that_of_its_thread_and_is_restored_after_an_error() -> None:
    variable, seen = ContextVar('variable', default=0), []
    with pytest.raises(KeyError), tracing.within(variable, 1), tracing.within(variable, 2):
        assert variable.get() == 2
        thread = threading.Thread(target=lambda: seen.append(variable.get()))
        thread.start()
        thread.join()
        raise KeyError
    assert seen == [0] and variable.get() == 0
