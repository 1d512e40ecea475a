"""Names and error messages of unknown origin as one printable line."""
from __future__ import annotations

import pytest

from mrcnn_tf.files import text
from mrcnn_tf.files.text import error_line, error_text, one_line


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


class OpError(Exception):
    """As TensorFlow's errors: the text adds the name of the node to the message."""

    message = '{{function_node __wrapped__DecodePng_device_/CPU:0}} Invalid PNG [Op:DecodePng]'


@pytest.mark.parametrize(('error', 'line'), [
    pytest.param(ValueError('wrong\n  full_key: a.b'), 'wrong', id='further lines are left out'),
    pytest.param(ValueError(), 'ValueError', id='no message'),
    pytest.param(ValueError(' \n '), 'ValueError', id='blank message'),
    pytest.param(KeyError('boxes'), "no key 'boxes'", id='missing key'),
    pytest.param(OpError('text'), 'Invalid PNG', id='names of nodes are left out'),
    pytest.param(FileNotFoundError(2, 'No such file or directory', 'a.json'), 'a.json: No such file or directory',
                 id='error of the system with its file'),
    pytest.param(OSError(28, 'No space left on device'), 'No space left on device', id='error of the system'),
    pytest.param(OSError('a.json: copy it again'), 'a.json: copy it again', id='OSError with a message'),
    pytest.param(ValueError('\x1b[31mred'), r'\x1b[31mred', id='controls are escaped')])
def test_an_error_on_one_line(error: Exception, line: str) -> None:
    assert error_line(error) == line


def test_the_whole_message_of_an_error() -> None:
    assert error_text(ValueError('a\nb')) == 'a\nb'
    assert one_line(error_text(ValueError('a\nb'))) == r'a\nb'
