"""`mrcnn serve`: its arguments, what it prints, its errors, and how signals end it."""
from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mrcnn_tf.serving.server import app
from mrcnn_tf.serving.server.service import ServerOptions
from tests.cli.runner import mrcnn

SERVICE = SimpleNamespace(name='pets', versions=SimpleNamespace(get=lambda: SimpleNamespace(number=3)))


def test_it_prints_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    @contextlib.contextmanager
    def running(directory: pathlib.Path, options: ServerOptions) -> Iterator[app.Ports]:
        calls.append((directory, options))
        yield app.Ports(8500, 8501, SERVICE)    # type: ignore[arg-type]

    monkeypatch.setattr(app, 'running', running)
    monkeypatch.setattr('mrcnn_tf.cli.serve.deferred_end', lambda: contextlib.nullcontext(lambda: None))
    result = mrcnn('serve', 'saved/pets')
    assert result.exit_code == 0 and result.stdout.splitlines() == [
        'pets version 3, a development server; Ctrl-C stops it', 'page: http://127.0.0.1:8501/',
        'REST: http://127.0.0.1:8501/v1/models/pets:predict', 'gRPC: grpc://127.0.0.1:8500/pets']
    mrcnn('serve', 'x', '--name', 'n', '--host', '0.0.0.0', '--port', 1, '--rest-port', 2, '--batching', '--no-warmup',
          '--max-mib', 5)
    assert calls == [(pathlib.Path('saved/pets'), ServerOptions()),
                     (pathlib.Path('x'), ServerOptions('n', '0.0.0.0', 1, 2, True, False, 5))]


def test_a_directory_without_a_model(tmp_path: pathlib.Path) -> None:
    result = mrcnn('serve', tmp_path)
    assert result.exit_code == 1 and result.stderr == (
        f'mrcnn: error: {tmp_path}: has no version of a model (1/saved_model.pb); give the directory that '
        '`mrcnn export --output` wrote\n')


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('mrcnn_tf.serving.server.app', 'prometheus_client'):
        monkeypatch.setitem(__import__('sys').modules, name, None)
    monkeypatch.delattr('mrcnn_tf.serving.server.app')
    result = mrcnn('serve', 'x')
    assert result.exit_code == 1 and 'mrcnn serve needs the package ' in result.stderr and 'serving]' in result.stderr
