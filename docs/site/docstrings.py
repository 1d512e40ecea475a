"""An extension of griffe, which reads the docstrings for mkdocstrings: it shows the section `Example:` as code."""
from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames `Example:`, which griffe takes for a note of any text, to `Examples:`, its section of code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace('\nExample:\n', '\nExamples:\n')
