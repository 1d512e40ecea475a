"""What every command line of this package shares: errors in one line, and TensorFlow keeps quiet about itself."""
from __future__ import annotations

import contextlib
import functools
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec

import typer

from mrcnn_tf.files.text import error_text, one_line

P = ParamSpec('P')

# What TensorFlow's C++ says of itself, whatever TF_CPP_MIN_LOG_LEVEL is: its informations and warnings, and errors
# about the graphics card of a machine that has none. Errors of the work at hand arrive as exceptions.
_NOISE = (r'^([IW]\d{4} \d\d:|\d{4}-\d\d-\d\d \d\d:[\d:.]+: [IW] |WARNING: All log messages before absl::Init'
          r'|.*(Unable to register cu|failed call to cuInit|Premature end of JPEG|Improper call to JPEG'
          r'|oneDNN supports DT_UINT8))')
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
_END = 'mrcnn: this was all\n'


def command(function: Callable[P, None]) -> Callable[P, None]:
    """What the user can mend becomes one line and exit code 1, Ctrl-C a line and 130; a defect keeps its traceback."""
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with quiet_tensorflow():
                function(*args, **kwargs)
        except KeyboardInterrupt:
            _leave('interrupted', 130)
        except (OSError, ValueError) as error:
            if not _mendable(error):
                raise
            _leave(f'error: {one_line(error_text(error))}', 1)

    return run


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keeps what TensorFlow says of itself out of the way, unless the user has set TF_CPP_MIN_LOG_LEVEL."""
    logging.basicConfig()
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
    """Warnings name files and categories, which may hold anything."""

    def formatMessage(self, record: logging.LogRecord) -> str:    # noqa: N802    # the traceback of a defect follows it
        return one_line(super().formatMessage(record))


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Sends what C++ writes to stderr through a process that drops the noise; Python's goes on directly.

    A process, not a thread: what C++ says before it aborts still arrives.
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
            # Said, not left to the end of the pipe: helpers of multiprocessing hold it open until this process ends.
            with contextlib.suppress(OSError):
                os.write(2, _END.encode())
            os.dup2(direct, 2)
            os.close(direct)
            sys.stderr = python_stderr


def _mendable(error: Exception) -> bool:
    """An error of the system, such as a full disk, or one of this package that says what to do."""
    return isinstance(error, OSError) or type(error).__module__.split('.')[0] in ('mrcnn_tf', 'data_tools')


def _leave(line: str, code: int) -> NoReturn:
    typer.echo(f'mrcnn: {line}', err=True)
    raise typer.Exit(code)
