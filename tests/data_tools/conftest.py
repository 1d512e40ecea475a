"""Readable ids of parameters for the tests of data_tools."""
from __future__ import annotations

import re
from typing import Any


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Return the beginning of the text of a value, which pytest would number if it is a list or long."""
    if val is None or callable(val) or isinstance(val, (bool, float, re.Pattern)):
        return None
    text = ' '.join((ascii(val)[1:-1] if isinstance(val, str) else ascii(val)).split())
    return None if ' at 0x' in text or not text else text[:60]
