"""Read the lists of a large JSON object element by element, each with its position in the file.

The decoder of the standard library parses; this module moves the window of the file that it parses. A position (first
byte, length in bytes) is enough to read an element again later, so only positions have to be kept in memory.
"""
from __future__ import annotations

import codecs
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from mrcnn_tf.files import open_regular

WINDOW = 2 ** 20     # bytes read at a time
_LONGEST = 16        # characters: more than any token that is no string, such as -Infinity
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r'[ \t\n\r]*')


class MalformedError(ValueError):
    """The file is not JSON; the message says where and why."""


class Element(NamedTuple):
    """One element of a list, or one value of an object in place of a list."""
    value: Any
    start: int               # its first byte in the file
    length: int              # bytes
    key: str | None = None   # of a value of an object


Member = tuple[str, Iterator[Element] | None]


class Digest(Protocol):
    """A hash object of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Add the next bytes of the file."""


def members(path: str | os.PathLike[str], digest: Digest | None = None) -> Iterator[Member]:
    """Yield the keys of the object in a file, each with the elements of its list or object; None for other values.

    Elements that the caller does not consume are skipped before the next key. A file without an object yields nothing.

    Args:
        path: the file.
        digest: receives all bytes of the file by the end of the iteration.

    Raises:
        MalformedError: the file is not JSON or not UTF-8; elements before that position were yielded.
        RecursionError: lists are nested thousands deep.
        OSError: the file cannot be read.
    """
    with open_regular(path) as stream:
        window = _Window(stream, digest)
        if window.next() == '{':
            yield from _members(window)
        else:
            window.value()
        if window.next():
            raise window.error('Extra data')


def read(path: str | os.PathLike[str], positions: Iterable[Sequence[int]]) -> Iterator[Any]:
    """Yield the elements at positions (first byte, length) from `members`."""
    with open_regular(path) as stream:
        for start, length in positions:
            stream.seek(start)
            yield json.loads(stream.read(length))


def _members(window: _Window) -> Iterator[Member]:
    for _ in _separated(window, '}'):
        key = _key(window)
        if window.next() in ('[', '{'):
            elements = _elements(window)
            yield key, elements
            for _ in elements:      # skip what the caller did not consume
                pass
        else:
            window.value()
            yield key, None


def _elements(window: _Window) -> Iterator[Element]:
    closing = {'[': ']', '{': '}'}[window.next()]
    for _ in _separated(window, closing):
        key = _key(window) if closing == '}' else None
        window.next()
        start = window.byte
        value = window.value()
        yield Element(value, start, window.byte - start, key)


def _key(window: _Window) -> str:
    if window.next() != '"':
        raise window.error('Expecting property name enclosed in double quotes')
    key: str = window.value()
    window.take(':')
    return key


def _separated(window: _Window, closing: str) -> Iterator[None]:
    """Yield before each item of a list or object; consumes its commas and brackets."""
    window.take('[{'[closing == '}'])
    if window.next() == closing:
        window.take(closing)
        return
    while True:
        yield
        if window.next() == closing:
            window.take(closing)
            return
        window.take(',')


class _Window:
    """The part of the file in memory, and the current position in it."""

    def __init__(self, stream: io.BufferedReader, digest: Digest | None) -> None:
        encoding = json.detect_encoding(stream.peek(4)[:4])
        if not encoding.startswith('utf-8'):
            raise MalformedError(f'line 1 column 1: it is in {encoding}, not in UTF-8: save it as UTF-8')
        self._stream, self._digest = stream, digest
        self._utf8 = codecs.getincrementaldecoder('utf-8-sig')()
        self._text, self._at = '', 0
        self._bytes_read = 0
        self._line, self._column = 1, 1      # of the first character of the window
        self.byte = 3 if encoding == 'utf-8-sig' else 0     # of the current position

    def next(self) -> str:
        """Move to the next character that is no space and return it; '' at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match     # the pattern also matches an empty string
            self._move(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ''

    def take(self, character: str) -> None:
        """Move behind the character that must come next."""
        if self.next() != character:
            raise self.error(f'Expecting {character!r}')
        self._move(self._at + 1)

    def value(self) -> Any:
        """Return the next value and move behind it."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # The window may end within a string or within the last token: then the JSON is not wrong.
                cut = error.msg.startswith('Unterminated string') or error.pos >= len(self._text) - _LONGEST
                if not (cut and self._more()):
                    raise self.error(error.msg, error.pos) from None
            except ValueError as error:      # an int with thousands of digits
                raise self.error(str(error)) from None
            else:
                if end < len(self._text) - _LONGEST or not self._more():     # 1 may be the start of 1.5e+6
                    self._move(end)
                    return value

    def error(self, message: str, at: int | None = None) -> MalformedError:
        """Return an error that names a position in the window, by default the current one."""
        before = self._text[:self._at if at is None else at]
        line = self._line + before.count('\n')
        column = len(before) - before.rfind('\n') if '\n' in before else self._column + len(before)
        return MalformedError(f'line {line} column {column}: {message}')

    def _move(self, to: int) -> None:
        part = self._text[self._at:to]
        self.byte += len(part) if part.isascii() else len(part.encode())
        self._at = to

    def _more(self) -> bool:
        """Read more and drop what is behind; twice as much for a value that did not fit. Return False at the end."""
        data = self._stream.read(max(WINDOW, len(self._text) - self._at))
        if self._digest:
            self._digest.update(data)
        self._bytes_read += len(data)
        try:
            text = self._utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            place = self._bytes_read - len(error.object) + error.start
            raise MalformedError(f'byte {place}: not UTF-8: save it as UTF-8') from None
        if not data:
            return False
        passed = self._text[:self._at]
        if '\n' in passed:
            self._line += passed.count('\n')
            self._column = len(passed) - passed.rfind('\n')
        else:
            self._column += len(passed)
        self._text, self._at = self._text[self._at:] + text, 0
        return True
