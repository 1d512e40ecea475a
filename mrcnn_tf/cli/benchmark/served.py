"""A development server in a process of its own, for the measurements of serving."""
from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mrcnn_tf.serving.sources import InferenceError

START = 'from mrcnn_tf.cli.main import main; main()'


@dataclass
class Served:
    """A running server.

    Attributes:
        process: of the server.
        name: of the model.
        grpc, rest: its ports.
        seconds: from the start of the process until the ports were open.
    """
    process: subprocess.Popen[str]
    name: str
    grpc: int
    rest: int
    seconds: float

    def address(self, protocol: str) -> str:
        """Return the address of the model, for 'grpc' or 'http'."""
        return f'{protocol}://127.0.0.1:{self.grpc if protocol == "grpc" else self.rest}/{self.name}'

    def resident(self) -> float:
        """Return the resident memory, MB."""
        import psutil

        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6


@contextlib.contextmanager
def served(directory: str, *options: str) -> Iterator[Served]:
    """A context with a server of an exported model; at its end SIGTERM must stop it with exit code 0.

    Raises:
        InferenceError: the server does not start, or ends otherwise.
    """
    command = [sys.executable, '-c', START, 'serve', directory, '--port', '0', '--rest-port', '0', *options]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'}
                          ) as process:
        lines = [process.stdout.readline() for _ in range(4)]    # type: ignore[union-attr]
        seconds = time.perf_counter() - start
        if not lines[-1]:
            raise InferenceError(f'{directory}: the server did not start; see its message above')
        grpc, rest = (int(re.search(r':(\d+)/', line)[1]) for line in (lines[3], lines[1]))    # type: ignore[index]
        try:
            yield Served(process, lines[3].strip().rpartition('/')[2], grpc, rest, seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
    if code:
        raise InferenceError(f'{directory}: the server ended with exit code {code}; see its message above')
