"""The frames of a TFRecord file with their positions and errors; TensorFlow's own reader stops at the first error.

A frame is the length of a record (8 bytes, little endian), the checksum of these bytes (4), the record, and its
checksum (4). A checksum is the CRC-32C, rotated by 15 bits, plus a constant.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import google_crc32c

_MASK_DELTA = 0xa282ead8


class Frame(NamedTuple):
    """One record of a file."""
    number: int      # from 0
    start: int       # of the frame, in bytes
    data: bytes      # the record; b'' if it cannot be read
    error: str       # what is wrong with the frame; '' if nothing is


class Readable(Protocol):
    """A file, or an object that passes on its bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; fewer at the end."""


def frames(stream: Readable) -> Iterator[Frame]:
    """Yield all records up to the end, or up to the first with a damaged length, whose end is unknown."""
    number = start = 0
    while header := stream.read(12):
        frame = _frame(stream, number, start, header)
        yield frame
        if not frame.data and frame.error:
            return
        number, start = number + 1, start + 16 + len(frame.data)


def checksum(data: bytes) -> int:
    """Return the masked CRC-32C that TFRecord files hold."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xffffffff


def _frame(stream: Readable, number: int, start: int, header: bytes) -> Frame:
    if len(header) < 12:
        return Frame(number, start, b'', f'cut off after {len(header)} bytes')
    length, stated = struct.unpack('<QI', header)
    if checksum(header[:8]) != stated:
        return Frame(number, start, b'', 'the checksum of its length is wrong, so what follows cannot be read')
    data, tail = stream.read(length), stream.read(4)
    if len(tail) < 4:
        return Frame(number, start, b'', f'cut off after {12 + len(data) + len(tail)} of {16 + length} bytes')
    return Frame(number, start, data, '' if struct.unpack('<I', tail)[0] == checksum(data) else 'its checksum is wrong')
