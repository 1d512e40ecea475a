"""docs/troubleshooting.md: the messages that it quotes exist in the code, and it names every class of errors."""
from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from tests.paths import ROOT

_PAGE = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')

# Errors that a user does not see: they end a process or become one of the others.
_INTERNAL = {'InvalidDataError', 'MalformedError', 'RequestError', 'StoppedError', 'WorkerError'}


def quoted() -> list[str]:
    """Return the messages in the first columns of the tables of messages, without those of other programs."""
    tables = re.findall(r'^\| message \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)', _PAGE, re.MULTILINE)
    cells = [row.split(' | ')[0] for table in tables for row in table.splitlines()]
    return [message for cell in cells if not cell.endswith('(pip)') for message in re.findall(r'`([^`]+)`', cell)]


@functools.cache
def parsed() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding='utf-8'))
            for package in ('mrcnn_tf', 'data_tools') for path in sorted((ROOT / package).rglob('*.py'))]


@functools.cache
def strings() -> str:
    """Return all texts of the code, one per line; the values in an f-string are left out."""
    def texts(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.JoinedStr):
            yield '\0'.join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value

    return '\n'.join(text for module in parsed() for node in ast.walk(module) for text in texts(node))


@pytest.mark.parametrize('message', quoted())
def test_a_quoted_message_is_one_of_the_code(message: str) -> None:
    missing = [part for part in re.split(r' ?\.\.\. ?', message) if part not in strings()]
    assert not missing, f'docs/troubleshooting.md quotes {message!r}, but no text of the code contains {missing}'


def test_every_class_of_errors_has_its_section() -> None:
    names = {node.name for module in parsed() for node in ast.walk(module)
             if isinstance(node, ast.ClassDef) and node.name.endswith('Error')}
    assert {name for name in names - _INTERNAL if f'`{name}`' not in _PAGE} == set()


def test_all_tables_of_messages_are_read() -> None:
    assert {'no config ...', 'out of memory after ... steps', 'contains files that no demo wrote'} <= set(quoted())
