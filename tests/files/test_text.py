"""Names of unknown origin on one printable line."""
from __future__ import annotations

import doctest

import pytest

from mrcnn_tf.files import text
from mrcnn_tf.files.text import one_line


@pytest.mark.parametrize(('value', 'line'), [
    ('a\nb\r\n\tc', r'a\nb\r\n\tc'), ('\x1b[2J\x07\x00', r'\x1b[2J\x07\x00'), ('\x7f\x9b31m', r'\x7f\x9b31m'),
    ('a\u2028b\u2029c\x85', r'a\u2028b\u2029c\x85'), ('a\u202egnp.exe', r'a\u202egnp.exe'), ('\ud800', r'\ud800'),
    ('Straße 中文 é 🙂', 'Straße 中文 é 🙂'), (7, '7'), (None, 'None'), (r'a\n', r'a\n'), ('', '')])
def test_controls_are_escaped_and_letters_stay(value: object, line: str) -> None:
    assert one_line(value) == line


def test_a_long_text_keeps_both_ends() -> None:
    line = one_line('begin' + 'x' * 10 ** 7 + 'the remedy')
    assert line.startswith('begin') and line.endswith('the remedy') and len(line) < text.LONGEST + 50
    assert '(9997015 more characters)' in line      # of 5 + 10^7 + 10, all but 3000
    assert one_line('x' * text.LONGEST) == 'x' * text.LONGEST


def test_examples() -> None:
    assert doctest.testmod(text) == doctest.TestResults(0, 2)
