"""Run the tests of each file in a process of their own, forked from a process of xdist.

TensorFlow frees neither what XLA has compiled nor most of what it has traced, so a process grows with every file that
it runs. The fork comes after the imports of all test modules and costs milliseconds. TensorFlow survives it as long as
it has run no operation. A crash fails one test and not the run.
"""
from __future__ import annotations

import multiprocessing
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection
from typing import Literal

import pytest

_MAX_LEFT = 3 * 2 ** 29     # bytes: after a test that leaves more, its file goes on in a new process
_MAX_PEAK = 2 ** 31         # bytes: and after one that took more, which it gave back
_GOOD = 'exited with 0'
SUPPORTED = sys.platform == 'linux'     # elsewhere a process must not go on with Python after a fork


def _started() -> bool:
    """Return whether TensorFlow's threads run in this process."""
    context = sys.modules.get('tensorflow.python.eager.context')     # there is no public way
    return context is not None and context.context()._initialized


class FileProcesses:
    """Plugin of a process of xdist: hands each test to the process of its file, and its reports to pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self.peak = 0, ''     # of the processes that have ended and of those that they started: bytes, and the file
        self._config = config
        self._connection: Connection | None = None
        self._process, self._file = 0, ''

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Refuse a module that starts TensorFlow's threads: a forked process would lack them and wait for ever."""
        report = yield
        if _started():
            report.outcome = 'failed'
            report.longrepr = 'it makes tensors while it is imported: make them in its tests, or use NumPy'
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if _started():
            return None     # pytest runs the test here; the run fails, since a module was refused
        if self._connection is None:
            self._fork(item.session, item.location[0])
        following = nextitem if nextitem is not None and nextitem.path == item.path else None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item, following):
            item.ihook.pytest_runtest_logreport(report=report)
        if self._connection is not None and (
                following is None or following.get_closest_marker('large') or self._is_large()):
            end = self._end()
            if end != _GOOD:     # it tore down what following tests would have shared
                item.ihook.pytest_runtest_logreport(report=_failure(item, end, 'teardown'))
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        session.config.workeroutput['peak'] = self.peak

    def _fork(self, session: pytest.Session, file: str) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._file = file
        self._process = os.fork()
        if self._process == 0:
            try:
                ours.close()
                _serve(session, self, theirs)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
                os._exit(1)
            os._exit(0)
        theirs.close()
        self._connection = ours

    def _reports(self, item: pytest.Item, following: pytest.Item | None) -> Iterator[pytest.TestReport]:
        """Yield the reports of a test: those of its process, and one of a failure if that has died."""
        items = item.session.items
        try:
            self._connection.send((items.index(item), following and items.index(following)))
            while (report := self._connection.recv()) is not None:
                yield self._config.hook.pytest_report_from_serializable(config=self._config, data=report)
        except (EOFError, ConnectionError):
            yield _failure(item, self._end(), 'call')

    def _is_large(self) -> bool:
        """Return whether the process has too much memory to go on, or had."""
        status = pathlib.Path(f'/proc/{self._process}/status').read_text()
        resident, peak = (1024 * int(re.search(rf'^{name}:\s+(\d+) kB$', status, re.MULTILINE)[1])
                          for name in ('VmRSS', 'VmHWM'))
        return resident > _MAX_LEFT or peak > _MAX_PEAK

    def _end(self) -> str:
        """Wait for the end of the process and return what it was."""
        self._connection.close()
        self._connection = None
        _, status, usage = os.wait4(self._process, 0)
        self.peak = max(self.peak, (1024 * usage.ru_maxrss, self._file))
        code = os.waitstatus_to_exitcode(status)
        return f'died of {signal.Signals(-code).name}' if code < 0 else f'exited with {code}'


def _failure(item: pytest.Item, end: str, when: Literal['call', 'teardown']) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, 'failed', f'its process {end}', when)


def _serve(session: pytest.Session, parent: FileProcesses, connection: Connection) -> None:
    """Run the tests that come by the connection, and send their reports and then None, until it is closed."""
    plugins = session.config.pluginmanager
    for plugin in [parent, *(plugin for plugin in plugins.get_plugins() if hasattr(plugin, 'sendevent'))]:
        plugins.unregister(plugin)     # the second is xdist's, which would send to its main process
    plugins.register(_Sender(session.config, connection))
    while (indices := _received(connection)) is not None:
        item, following = (None if index is None else session.items[index] for index in indices)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        connection.send(None)
    session._setupstate.teardown_exact(None)     # of a file that goes on in a new process


def _received(connection: Connection) -> tuple[int, int | None] | None:
    try:
        return connection.recv()
    except EOFError:
        return None


class _Sender:
    """Plugin of the process of a file: sends the reports of its tests."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config, self._connection = config, connection

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._connection.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))
