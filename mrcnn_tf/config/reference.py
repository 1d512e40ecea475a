"""The reference of all settings: the fields of the schema with types, defaults, permitted values and descriptions.

The description of a field is the comments of its definition in `schema.py`: those at the end of its lines, and those on
the lines directly above it. A test checks that every field has one.
"""
from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import itertools
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

from mrcnn_tf.config import schema

_SIGNS = {'ge': '≥', 'gt': '>', 'le': '≤', 'lt': '<'}


class Setting(NamedTuple):
    """One setting, as text."""
    name: str           # with its section: 'model.rpn.nms_iou'
    type: str           # as annotated: 'float | None'
    default: Any
    values: str         # the choices, or the limits of its numbers; '' if only the type limits it
    description: str


class Section(NamedTuple):
    """A section of the config: its name, what it is for, and its own settings, without those of nested sections."""
    name: str
    description: str
    settings: list[Setting]


def sections() -> list[Section]:
    """Return all sections that have settings of their own, in the order of the schema."""
    comments = field_comments(inspect.getsource(schema))
    return [section for section in _sections(schema.Config(), '', comments) if section.settings]


def legend() -> str:
    """Return what the abbreviations in descriptions mean: the second paragraph of the schema's docstring."""
    return inspect.cleandoc(schema.__doc__ or '').split('\n\n')[1]


def field_comments(source: str) -> dict[tuple[str, str], str]:
    """Return the comments of each annotated field of each class, by the names of class and field.

    Example:
        >>> field_comments("class A:\\n    # px; sides\\n    x: int = 1  # at least 1\\n    y: int = 2\\n")
        {('A', 'x'): 'px; sides; at least 1', ('A', 'y'): ''}
    """
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip('# ').rstrip()
            if not token.line[:token.start[1]].strip():
                alone.add(token.start[0])
    return {(cls.name, node.target.id): '; '.join(filter(None, (
        ' '.join(comments[line] for line in reversed(list(itertools.takewhile(
            alone.__contains__, range(node.lineno - 1, 0, -1))))),
        ' '.join(comments[line] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments))))
        for cls in ast.parse(source).body if isinstance(cls, ast.ClassDef)
        for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def _sections(section: Any, name: str, comments: dict[tuple[str, str], str]) -> Iterator[Section]:
    """Yield a section of a config, then those nested in it."""
    prefix, cls = f'{name}.' if name else '', type(section)
    nested, own = [], []
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            nested.append((value, prefix + field.name))
        else:
            own.append(Setting(prefix + field.name, str(field.type), value, _permitted(field),
                               comments[cls.__name__, field.name]))
    yield Section(name, inspect.cleandoc(cls.__doc__ or ''), own)
    for value, full_name in nested:
        yield from _sections(value, full_name, comments)


def _permitted(field: dataclasses.Field[Any]) -> str:
    """Return the choices or limits of a field, as text."""
    rule = field.metadata.get('rule')
    limits = [f'{_SIGNS[key]} {limit:g}' for key, limit in field.metadata.get('limits', {}).items()]
    return ', '.join([*map(str, field.metadata.get('choices', ())), *limits, *([rule.expected] if rule else [])])
