"""The decorator of all commands: it prints errors as one line and filters TensorFlow's log messages."""
from __future__ import annotations

import contextlib
import enum
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, NoReturn, ParamSpec

import typer

from mrcnn_tf.files.text import error_text, one_line

P = ParamSpec('P')

Checkpoint = Annotated[str, typer.Option(
    metavar='best|last|N', help='The checkpoint of a model directory: best: of the best evaluation during training, or '
                                'the newest if there was none. last: the newest. N: of that step.')]


class Precision(str, enum.Enum):
    """The precisions of `mrcnn predict`, `mrcnn evaluate` and `mrcnn propose`."""
    float32 = 'float32'
    bfloat16 = 'bfloat16'


# Log lines of TensorFlow's C++ code that TF_CPP_MIN_LOG_LEVEL does not suppress: information, warnings, and errors
# about a missing GPU or another worker that failed. Errors of an operation are raised as exceptions.
_NOISE = (r'^([IW]\d{4} \d\d:|\d{4}-\d\d-\d\d \d\d:[\d:.]+: [IW] |WARNING: All log messages before absl::Init'
          r'|INFO: Created TensorFlow Lite '
          # the further lines of the message about a worker that failed
          r'|Additional GRPC error information|:UNKNOWN:Error received from peer|:\{"created":'
          r'|The error could be from a previous operation\. Restart|\t \[\[\{\{node '
          r'|.*(Unable to register cu|failed call to cuInit|Premature end of JPEG|Improper call to JPEG'
          r'|oneDNN supports DT_|SetPriority unimplemented|BaseCollectiveExecutor::StartAbort))')
_FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
noise, end = re.compile(sys.argv[1].encode()), sys.argv[2].encode()
for line in sys.stdin.buffer:
    text = line.removesuffix(end)
    if text and not noise.match(text):
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()
    if text != line:
        break
"""
_END = 'mrcnn: end of output\n'


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: errors are one line, as in `one_line_errors`, and TensorFlow's log messages are suppressed."""
    return one_line_errors(quiet_tensorflow()(function))


def one_line_errors(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: an error that the user can fix becomes one line and exit code 1, or its own; Ctrl-C 130.

    A defect of the program keeps its traceback.
    """
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            _leave('interrupted', 130)
        except (OSError, ValueError) as error:
            if not _is_user_error(error):
                raise
            _leave(f'error: {one_line(error_text(error))}', getattr(error, 'exit_code', 1))

    return run


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """A context that suppresses TensorFlow's log messages, unless the user has set TF_CPP_MIN_LOG_LEVEL."""
    logging.basicConfig()
    logging.getLogger('mrcnn_tf').setLevel(logging.INFO)
    for handler in logging.root.handlers:
        handler.setFormatter(_OneLine('mrcnn: %(message)s'))
    if 'TF_CPP_MIN_LOG_LEVEL' in os.environ:
        yield
        return
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
    logging.getLogger('tensorflow').setLevel(logging.ERROR)
    logging.getLogger('absl').setLevel(logging.ERROR)
    warnings.filterwarnings('ignore', r'\s*TensorFlow Addons \(TFA\) has ended development', UserWarning)
    with _filtered_stderr():
        yield


class _OneLine(logging.Formatter):
    """Formats a message as one line: names of files and categories may contain any character."""

    def formatMessage(self, record: logging.LogRecord) -> str:    # noqa: N802    # does not affect a traceback
        return one_line(super().formatMessage(record))


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Filter what C++ code writes to stderr in another process. Python's sys.stderr is not filtered.

    A process rather than a thread, so that messages before an abort are still printed.
    """
    direct = os.dup(2)
    python_stderr, sys.stderr = sys.stderr, os.fdopen(os.dup(2), 'w', buffering=1, errors='backslashreplace')
    with subprocess.Popen([sys.executable, '-I', '-S', '-c', _FILTER, _NOISE, _END], stdin=subprocess.PIPE) as process:
        assert process.stdin
        os.dup2(process.stdin.fileno(), 2)
        process.stdin.close()
        try:
            yield
        finally:
            sys.stderr.flush()
            # A closed pipe would not end the filter: helper processes of multiprocessing keep the pipe open.
            with contextlib.suppress(OSError):
                os.write(2, _END.encode())
            os.dup2(direct, 2)
            os.close(direct)
            sys.stderr = python_stderr


@contextlib.contextmanager
def deferred_end() -> Iterator[Callable[[], None]]:
    """A context in which SIGTERM and Ctrl-C only end its value, a function that waits for the first of them."""
    caught = threading.Event()

    def wait() -> None:
        while not caught.wait(0.5):     # without a limit, a signal that arrives just before the wait would be missed
            pass

    before = {number: signal.signal(number, lambda *_: caught.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_user_error(error: Exception) -> bool:
    """Return whether an error is one of the system, such as a full disk, or one of this package."""
    return isinstance(error, OSError) or type(error).__module__.split('.')[0] in ('mrcnn_tf', 'data_tools')


def _leave(line: str, code: int) -> NoReturn:
    typer.echo(f'mrcnn: {line}', err=True)
    raise typer.Exit(code)
