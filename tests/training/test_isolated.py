"""Calls in a process of their own: errors, death, signals."""
from __future__ import annotations

import os
import pathlib
import signal
import threading
import time

import pytest

from mrcnn_tf.training import isolated
from mrcnn_tf.training.clusters import ClusterError


def write_process(path: pathlib.Path) -> None:
    path.write_text(str(os.getpid()), encoding='utf-8')


def refuse(text: str) -> None:
    raise ClusterError(text)


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__('odd')


def be_odd() -> None:
    raise Odd(1, 2)


def die(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def wait_for_signal(path: pathlib.Path) -> None:
    """Raise an error that names the first signal."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    path.touch()
    while not received:
        time.sleep(.01)
    raise ClusterError(f'received {received}')


def test_it_is_another_process(tmp_path: pathlib.Path) -> None:
    isolated.call('works', write_process, tmp_path / 'process')
    assert int((tmp_path / 'process').read_text(encoding='utf-8')) != os.getpid()


def test_an_error_is_raised_here() -> None:
    with pytest.raises(ClusterError, match='^the reason$'):
        isolated.call('works', refuse, 'the reason')


def test_an_error_that_cannot_be_sent_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r'(?s)in be_odd.*Odd: odd'):
        isolated.call('works', be_odd)


def test_a_process_that_is_killed_is_named() -> None:
    with pytest.raises(isolated.ProcessError, match=r'^the process that works was killed \(SIGKILL\), .*; see its'):
        isolated.call('works', die, signal.SIGKILL)


def test_a_process_that_sigterm_ends_was_stopped() -> None:
    with pytest.raises(isolated.ProcessError, match='^the process that works was stopped by SIGTERM; resume') as raised:
        isolated.call('works', die, signal.SIGTERM)
    assert raised.value.exit_code == 75


def test_signals_are_passed_on(tmp_path: pathlib.Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def send() -> None:
        while not (tmp_path / 'ready').exists():
            time.sleep(.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(ClusterError, match=r'received \[15\]'):
        isolated.call('works', wait_for_signal, tmp_path / 'ready')
    assert signal.getsignal(signal.SIGTERM) == before
