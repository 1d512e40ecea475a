"""The commands that start the programs of benchmarks/: pages name them in a form that works, and they have a --help."""
from __future__ import annotations

import functools
import pathlib
import re

import pytest

from tests.paths import ROOT

BENCHMARKS = sorted((ROOT / 'benchmarks').glob('*.py'))
PAGES = [path for pattern in ('*.md', 'docs/*.md', 'docs/how_it_works/*.md', 'docs/notebooks/*.ipynb',
                              'benchmarks/*.sh') for path in sorted(ROOT.glob(pattern))]
AS_MODULE = r'-m benchmarks\.(?!NAME\b)(\w+)'
# A script's sys.path has no root of the repository, so another package `tests` may hide that of this project.
AS_SCRIPT = r'python\S*(?: -\S+)* \S*benchmarks/\w+\.py'


@functools.cache
def text_of(path: pathlib.Path) -> str:
    """Return the text of a file in one line, because commands run over line ends."""
    return re.sub(r'\s+', ' ', path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('command', ['python benchmarks/stages.py', 'PYTHON -u benchmarks/stages.py',
                                     '/jax/bin/python3.11 ./benchmarks/stages.py'])
def test_a_script_is_found(command: str) -> None:
    assert re.search(AS_SCRIPT, command, re.IGNORECASE)


def test_no_page_or_benchmark_tells_to_run_a_script() -> None:
    found = {str(path.relative_to(ROOT)): commands for path in (*PAGES, *BENCHMARKS)
             if (commands := re.findall(AS_SCRIPT, text_of(path), re.IGNORECASE))}
    assert not found, 'write python -m benchmarks.NAME'


def test_the_named_benchmarks_exist() -> None:
    named = {name: str(path.relative_to(ROOT)) for path in (*PAGES, *BENCHMARKS)
             for name in re.findall(AS_MODULE, text_of(path))}
    assert set(named) <= {path.stem for path in BENCHMARKS}, named


@pytest.mark.parametrize('path', [pytest.param(path, id=path.stem) for path in BENCHMARKS
                                  if "__name__ == '__main__'" in path.read_text(encoding='utf-8')])
def test_a_benchmark_documents_and_reads_its_arguments(path: pathlib.Path) -> None:
    """Without argparse, --help and a missing argument end in a traceback, or start the work."""
    text = text_of(path)
    assert path.stem in re.findall(AS_MODULE, text.split('"""')[1])
    assert 'argparse.ArgumentParser(description=__doc__' in text and '.parse_args()' in text
