"""Text of unknown origin (names, ids, messages) made fit for one line of a terminal, a log or a page."""
from __future__ import annotations

import re
from typing import Any

LONGEST = 3000     # characters of a line
# Controls of the terminal, what ends a line, halves of characters, and what changes the direction of writing.
_UNFIT = re.compile('[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')


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
