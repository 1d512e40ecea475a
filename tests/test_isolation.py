"""The processes in which xdist runs the files of tests."""
from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests import isolation

_CONFTEST = """
from tests import isolation

def pytest_configure(config):
    if hasattr(config, 'workerinput'):
        config.pluginmanager.register(isolation.FileProcesses(config))
"""
_CRASH = """
import os

seen = []

def test_first():
    seen.append(os.getpid())

def test_same_process():
    assert seen == [os.getpid()]

def test_crash():
    os.abort()

def test_new_process():
    assert not seen

def test_wrong():
    assert seen
"""
_OTHER = """
import test_crash

def test_other_process():
    assert not test_crash.seen
"""
_IMPORT = """
import tensorflow as tf

ZERO = tf.zeros([])

def test_nothing():
    pass
"""
_MARKED = """
import pytest

ran = []

def test_before():
    ran.append('test_before')

@pytest.mark.large
def test_marked():
    assert not ran
"""
_LARGE = """
import os
import pytest
from tests import isolation

isolation._MAX_LEFT = 0
made = []

@pytest.fixture(scope='module')
def shared():
    made.append(os.getpid())
    yield
    raise ValueError('torn down')

def test_first(shared):
    assert len(made) == 1

def test_new_process(shared):
    assert len(made) == 1
"""


@pytest.mark.skipif(not isolation.SUPPORTED, reason='needs fork')
@pytest.mark.parametrize(('files', 'expected'), [
    ({'test_crash.py': _CRASH, 'test_other.py': _OTHER, 'test_marked.py': _MARKED},
     ['test_crash.py::test_crash - its process died of SIGABRT', 'test_crash.py::test_wrong - assert []',
      '2 failed, 6 passed']),
    ({'test_import.py': _IMPORT}, ['test_import.py', 'it makes tensors while it is imported', '1 error']),
    ({'test_large.py': _LARGE}, ['test_large.py::test_first - its process exited with 1',
                                 'test_large.py::test_new_process - ValueError: torn down', '2 passed, 2 errors']),
], ids=['crash', 'tensors at import', 'large'])
def test_processes_of_files(tmp_path: pathlib.Path, files: dict[str, str], expected: list[str]) -> None:
    for name, text in {'conftest.py': _CONFTEST, **files}.items():
        (tmp_path / name).write_text(text)
    root = str(pathlib.Path(__file__).parents[1])
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-n', '1', '--dist', 'loadfile'], cwd=tmp_path,
                         env={**os.environ, 'PYTHONPATH': root}, capture_output=True, text=True, timeout=300)
    assert run.returncode and all(part in run.stdout for part in expected), run.stdout + run.stderr
