"""The command that installs an extra."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.files import extras
from tests.paths import ROOT


def test_a_checkout_is_installed_in_place() -> None:
    assert extras.install('torch') == f"pip install -e '{ROOT}[torch]'"


def test_an_installed_package_is_installed_by_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, '__file__', str(tmp_path / 'site-packages' / 'mrcnn_tf' / 'files' / 'extras.py'))
    assert extras.install('torch') == "pip install 'mrcnn-tf[torch]'"
