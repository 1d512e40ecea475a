"""The frames of a TFRecord file, each with its place and with what is wrong: TensorFlow's own reader stops at a fault.

A frame is the length of a record (8 bytes, the lowest first), the checksum of these bytes (4), the record, and its
checksum (4). A checksum is the CRC-32C, turned by 15 bits, plus a constant.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import google_crc32c

_ADDED = 0xa282ead8


class Frame(NamedTuple):
    """One record of a file."""
    number: int      # from 0
    start: int       # of the frame, bytes
    data: bytes      # the record, b'' where it cannot be told
    fault: str       # '' if there is none


class Readable(Protocol):
    """A file, or what passes its bytes on."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; fewer at the end."""


def frames(stream: Readable) -> Iterator[Frame]:
    """All records up to the end, or to the first whose end is not known because its length is damaged."""
    number = start = 0
    while head := stream.read(12):
        frame = _frame(stream, number, start, head)
        yield frame
        if not frame.data and frame.fault:
            return
        number, start = number + 1, start + 16 + len(frame.data)


def checksum(data: bytes) -> int:
    """The masked CRC-32C that TFRecord files hold."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _ADDED) & 0xffffffff


def _frame(stream: Readable, number: int, start: int, head: bytes) -> Frame:
    if len(head) < 12:
        return Frame(number, start, b'', f'cut off after {len(head)} bytes')
    length, stated = struct.unpack('<QI', head)
    if checksum(head[:8]) != stated:
        return Frame(number, start, b'', 'the checksum of its length is wrong, and what follows cannot be read')
    data, tail = stream.read(length), stream.read(4)
    if len(tail) < 4:
        return Frame(number, start, b'', f'cut off after {12 + len(data) + len(tail)} of {16 + length} bytes')
    return Frame(number, start, data, '' if struct.unpack('<I', tail)[0] == checksum(data) else 'its checksum is wrong')
