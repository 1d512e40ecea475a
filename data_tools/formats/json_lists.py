"""A JSON object of lists that is too big to hold: its elements one by one, each with its place in the file.

The standard library's decoder does the parsing; here is only the window of the file that it looks at. A place (first
byte, length in bytes) is enough to read an element again later, so that nothing but places need be kept.
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

WINDOW = 2 ** 20     # bytes that are read at a time
_LONGEST = 16        # characters, and more, of any token that is no text: -Infinity
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r'[ \t\n\r]*')


class MalformedError(ValueError):
    """Not JSON; the message tells where in the file and why."""


class Element(NamedTuple):
    """One element of a list, or one value of an object that stands in the place of a list."""
    value: Any
    start: int               # its first byte in the file
    length: int              # bytes
    key: str | None = None   # of an object's


Member = tuple[str, Iterator[Element] | None]


class Digest(Protocol):
    """What hashlib's constructors give."""

    def update(self, data: bytes, /) -> None:
        """Takes the bytes of the file in their order."""


def members(path: str | os.PathLike[str], digest: Digest | None = None) -> Iterator[Member]:
    """The keys of the object in the file, each with the elements of its list or object; None where it is neither.

    What is not asked of a list is read over before the next key. Nothing comes of a file that holds no object.

    Args:
        digest: is given all bytes of the file by the end of the iteration.

    Raises:
        MalformedError: not JSON, or not in UTF-8; what came before the place has been given by then.
        RecursionError: lists within lists, thousands deep.
        OSError: the file cannot be read.
    """
    with open_regular(path) as stream:
        window = _Window(stream, digest)
        if window.next() == '{':
            yield from _members(window)
        else:
            window.value()
        if window.next():
            raise window.fault('Extra data')


def read(path: str | os.PathLike[str], places: Iterable[Sequence[int]]) -> Iterator[Any]:
    """The elements at places (first byte, length) that `members` gave."""
    with open_regular(path) as stream:
        for start, length in places:
            stream.seek(start)
            yield json.loads(stream.read(length))


def _members(window: _Window) -> Iterator[Member]:
    for _ in _separated(window, '}'):
        key = _key(window)
        if window.next() in ('[', '{'):
            elements = _elements(window)
            yield key, elements
            for _ in elements:      # what was not asked for
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
        raise window.fault('Expecting property name enclosed in double quotes')
    key: str = window.value()
    window.take(':')
    return key


def _separated(window: _Window, closing: str) -> Iterator[None]:
    """Stops before each item of a list or object, whose commas and brackets it takes."""
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
    """The part of the file in sight, and the place that reading has come to."""

    def __init__(self, stream: io.BufferedReader, digest: Digest | None) -> None:
        encoding = json.detect_encoding(stream.peek(4)[:4])
        if not encoding.startswith('utf-8'):
            raise MalformedError(f'line 1 column 1: it is in {encoding}, not in UTF-8: save it as UTF-8')
        self._stream, self._digest = stream, digest
        self._utf8 = codecs.getincrementaldecoder('utf-8-sig')()
        self._text, self._at = '', 0
        self._given = 0                      # bytes read
        self._line, self._column = 1, 1      # of the first character in sight
        self.byte = 3 if encoding == 'utf-8-sig' else 0     # of the place

    def next(self) -> str:
        """Goes to the next character that is no space and gives it; at the end of the file ''."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match     # it matches nothing at all too
            self._move(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ''

    def take(self, character: str) -> None:
        """Goes behind the character that has to come next."""
        if self.next() != character:
            raise self.fault(f'Expecting {character!r}')
        self._move(self._at + 1)

    def value(self) -> Any:
        """The value that comes next, whole; goes behind it."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Cut by the window, not wrong: within a text, or at its very end.
                cut = error.msg.startswith('Unterminated string') or error.pos >= len(self._text) - _LONGEST
                if not (cut and self._more()):
                    raise self.fault(error.msg, error.pos) from None
            except ValueError as error:      # an int of thousands of digits
                raise self.fault(str(error)) from None
            else:
                if end < len(self._text) - _LONGEST or not self._more():     # 1 may be the beginning of 1.5e+6
                    self._move(end)
                    return value

    def fault(self, message: str, at: int | None = None) -> MalformedError:
        """The error of a place in sight, by default of that which reading has come to."""
        before = self._text[:self._at if at is None else at]
        line = self._line + before.count('\n')
        column = len(before) - before.rfind('\n') if '\n' in before else self._column + len(before)
        return MalformedError(f'line {line} column {column}: {message}')

    def _move(self, to: int) -> None:
        part = self._text[self._at:to]
        self.byte += len(part) if part.isascii() else len(part.encode())
        self._at = to

    def _more(self) -> bool:
        """Lets go what was read and looks on, twice as far for a value that did not fit; False at the end."""
        data = self._stream.read(max(WINDOW, len(self._text) - self._at))
        if self._digest:
            self._digest.update(data)
        self._given += len(data)
        try:
            text = self._utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            place = self._given - len(error.object) + error.start
            raise MalformedError(f'byte {place}: not UTF-8: save it as UTF-8') from None
        if not data:
            return False
        gone = self._text[:self._at]
        if '\n' in gone:
            self._line += gone.count('\n')
            self._column = len(gone) - gone.rfind('\n')
        else:
            self._column += len(gone)
        self._text, self._at = self._text[self._at:] + text, 0
        return True
