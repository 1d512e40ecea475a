"""The notebooks of docs/notebooks/ run from the first cell to the last, with few images and steps."""
from __future__ import annotations

import pathlib
import re

import pytest

from tests.paths import ROOT

NOTEBOOKS = ROOT / 'docs' / 'notebooks'
SHORTER = {r'images=\d+': 'images=4', r'steps = \d+': 'steps = 2',
           "'train.jit_compile=off'": "'train.jit_compile=off', 'train.evaluate_every=0'"}
# Tracing the training step would take most of the time, and other tests do it.
EAGER = 'import tensorflow\ntensorflow.config.run_functions_eagerly(True)'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['own_data', 'published_weights', 'custom_loop_and_head'])
def test_a_notebook_runs(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('JUPYTER_PLATFORM_DIRS', '1')    # else a DeprecationWarning
    monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '2')
    book = nbformat.read(NOTEBOOKS / f'{name}.ipynb', as_version=4)
    for cell in book.cells:
        for pattern, short in SHORTER.items():
            cell.source = re.sub(pattern, short, cell.source)
    if name != 'published_weights':
        book.cells.insert(0, nbformat.v4.new_code_cell(EAGER))
    nbclient.NotebookClient(book, timeout=300, resources={'metadata': {'path': str(tmp_path)}}).execute()
    shown = [output.data for cell in book.cells for output in cell.get('outputs', []) if 'data' in output]
    pictures = ['<table>' in data['text/html'] for data in shown if 'image/png' in data]
    assert pictures == ([] if name == 'published_weights' else [True])
