"""Running the command line in tests."""
from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from mrcnn_tf.cli import main


def mrcnn(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, whose environment does not set TF_CPP_MIN_LOG_LEVEL unless it is given."""
    inherited = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)], text=True, capture_output=True, timeout=300,
        env={**inherited, 'PYTHONPATH': os.pathsep.join(sys.path), **environment})


class Recorder:
    """Replaces a function: records the arguments of its calls, and returns `result` or raises `error`."""

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._result, self._error = result, error

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        if self._error:
            raise self._error
        return self._result
