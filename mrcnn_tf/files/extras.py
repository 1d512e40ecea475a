"""How to install an optional dependency, for error messages."""
from __future__ import annotations

import pathlib


def install(extra: str) -> str:
    """Return the command that installs an extra of this package: from its checkout, or by name if it is installed.

    Example:
        >>> 'torch]' in install('torch')
        True
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    return f"pip install -e '{root}[{extra}]'" if (root / 'pyproject.toml').is_file() else (
        f"pip install 'mrcnn-tf[{extra}]'")
