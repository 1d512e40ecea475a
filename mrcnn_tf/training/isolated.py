"""Calls in a process of their own: a process can be a worker of a cluster only once, and keeps the memory of a GPU."""
from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any


class ProcessError(OSError):
    """A signal ended a process; the message is one line.

    Attributes:
        exit_code: 75 after SIGTERM, as of `StoppedBySignal`, which this module does not import because of TensorFlow.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def call(work: str, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a module in a new process, which gets SIGTERM and Ctrl-C of this one.

    Args:
        work: what the process does, for messages, such as 'trains step1_rpn'.

    Raises:
        ProcessError: SIGTERM or another signal ended the process.
        What the function raises.
    """
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, arguments))
    process.start()
    sender.close()
    with _passing_signals(process):
        try:
            while not receiver.poll(0.5):       # without a limit, a signal that arrives just before it would be missed
                pass
            error = receiver.recv()
            process.join()
        except EOFError:
            process.join()
            error = _death(work, process.exitcode)
    if error:
        raise error


def _death(work: str, code: int | None) -> ProcessError:
    """Return the error for a process that has ended without one of its own."""
    if code == -signal.SIGTERM:
        return ProcessError(f'the process that {work} was stopped by SIGTERM; resume with the same command', 75)
    by = f' ({signal.Signals(-code).name})' if code and code < 0 else ''
    return ProcessError(f'the process that {work} was killed{by}, perhaps because memory ran out; see its output, then '
                        'resume with the same command')


@contextlib.contextmanager
def _passing_signals(process: SpawnProcess) -> Iterator[None]:
    def pass_on(number: int, frame: Any) -> None:
        if process.pid and process.is_alive():
            os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(sender: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """In the new process: call the function and send the error that it raises, or None."""
    os.setsid()      # a terminal sends Ctrl-C to the processes of a session, and the other process passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function(*arguments)
        sender.send(None)
    except BaseException as error:
        sender.send(_portable(error))


def _portable(error: BaseException) -> BaseException:
    """Return the error if another process can read it, else one with its traceback."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:      # errors of TensorFlow have arguments of their own
        pass
    return RuntimeError(''.join(traceback.format_exception(error)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
