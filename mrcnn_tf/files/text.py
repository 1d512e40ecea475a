"""Text of unknown origin (names, ids, error messages) as one printable line of a terminal, a log or a page."""
from __future__ import annotations

import re
from typing import Any

LONGEST = 3000     # characters of a line
# Controls of the terminal, what ends a line, halves of characters, and what changes the direction of writing.
_UNFIT = re.compile('[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')

_NODES = re.compile(r'\{\{.*?\}\} ?|\s*\[Op:.*')     # names of nodes and operations in messages of TensorFlow


def one_line(value: Any, longest: int = LONGEST) -> str:
    r"""Return the value as text of one printable line, shortened in the middle where it is too long.

    Args:
        value: its `str` is taken.
        longest: characters that are kept; twice as many of the beginning as of the end.

    Example:
        >>> one_line('a\nb \x1b[31m')
        'a\\nb \\x1b[31m'
        >>> one_line('x' * 1000, 6)
        'xxxx...(994 more characters)...xx'
    """
    text = str(value)
    if len(text) > longest:
        end = longest // 3
        text = f'{text[:longest - end]}...({len(text) - longest} more characters)...{text[len(text) - end:]}'
    return _UNFIT.sub(lambda match: match[0].encode('unicode_escape').decode('ascii'), text)


def error_text(error: BaseException) -> str:
    """Return the message of an error: 'FILE: reason' for an error of the system, its type where it has no message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f'{error.filename}: {error.strerror}'
    if isinstance(error, KeyError):     # its message is the key alone
        return f'no key {error}'
    message: object = getattr(error, 'message', None)     # of TensorFlow; its str adds the names of nodes
    return str(message or error).strip() or type(error).__name__


def write_error(error: BaseException) -> str:
    """Return why TensorFlow could not write a file, without the path, which may be a temporary one.

    Args:
        error: its message is 'PATH; reason'.

    Example:
        >>> write_error(ValueError('out/.1f.shard; No space left on device [Op:Save]'))
        'No space left on device'
    """
    return error_line(error).rpartition('; ')[2]


def error_line(error: BaseException, longest: int = 200) -> str:
    """Return the first line of an error's message, without the names of TensorFlow's nodes, for use in other messages.

    Args:
        error: its further lines repeat what the first says, or are a trace.
        longest: characters that are kept, as in `one_line`.

    Example:
        >>> error_line(ValueError('not a number' + chr(10) + 'full_key: a.b'))
        'not a number'
        >>> error_line(KeyError('boxes'))
        "no key 'boxes'"
    """
    text = _NODES.sub('', error_text(error)).strip()
    return one_line(text.splitlines()[0], longest) if text else type(error).__name__
