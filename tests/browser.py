"""Headless Chromium, for tests of pages."""
from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

needs_chromium = pytest.mark.skipif(_CHROMIUM is None, reason='no chromium; apt-get install chromium')


def open_page(address: str, directory: pathlib.Path, *options: str) -> str:
    """Open a page and return what Chromium prints; its profile is in the directory."""
    command = [str(_CHROMIUM), '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
               '--disable-background-networking', '--disable-component-update', '--disable-sync',
               f'--user-data-dir={directory / "profile"}', *options, address]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
