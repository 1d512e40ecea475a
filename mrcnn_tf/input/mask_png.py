"""Encode a mask as PNG, 8-bit gray, 0 or 1, in a time that depends on the object's box and hardly on the image.

H, W height and width of the image, h, w those of the object's box, in px. A PNG holds a zlib stream of rows; each row
is a filter byte (0: none) and W pixels. Deflate streams that end on a byte can be concatenated. So the zeros above and
below the object are compressed once per power of two and cached, and only the object's rows are compressed anew.
General writers try five filters on every row, and compress the zeros again for each object of an image, which took
most of the time of a conversion.
"""
from __future__ import annotations

import functools
import struct
import zlib

import numpy as np

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_END = b'\0\0\0\0IEND\xae\x42\x60\x82'
_ZLIB_HEADER = b'\x78\x01'
_LAST_BLOCK = b'\x03\0'      # of deflate: an empty block, marked as the last one
_ADLER = 65521
_SMALLEST = 10               # 2^10, 2^11, ... zeros are cached; fewer are compressed with the object


def encode(pixels: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> bytes:
    """Return a PNG of the image's size that holds the given pixels in a box, and 0 elsewhere.

    Args:
        pixels: uint8 [h, w], 0 or 1; may be empty.
        corner: y, x of the first pixel in the image.
        size: H, W.

    Raises:
        ValueError: the box exceeds the image, or the image is empty.
    """
    (y, x), (height, width), (down, across) = corner, size, pixels.shape
    if not (0 <= y <= height - down and 0 <= x <= width - across and height > 0 and width > 0):
        raise ValueError(f'a box of {down} x {across} at {y}, {x} exceeds the image of {height} x {width}')
    row = 1 + width
    before, after = y * row, (height - y - down) * row
    lead, tail = before % 2 ** _SMALLEST, after % 2 ** _SMALLEST
    middle = np.zeros(lead + down * row + tail, np.uint8)
    middle[lead:lead + down * row].reshape(down, row)[:, 1 + x:1 + x + across] = pixels
    checksum = _adler_of_zeros(zlib.adler32(middle.data, _adler_of_zeros(1, before - lead)), after - tail)
    stream = b''.join((_ZLIB_HEADER, *_zeros(before - lead), _deflate(middle.data), *_zeros(after - tail), _LAST_BLOCK,
                       struct.pack('>I', checksum)))
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b''.join((_SIGNATURE, *_chunk(b'IHDR', header), *_chunk(b'IDAT', stream), _END))


def _deflate(data: memoryview | bytes) -> bytes:
    """Return compressed data that ends on a byte and refers to nothing before it."""
    # A mask consists of runs. Z_RLE searches for runs only, which is faster and gives half the bytes.
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 5, zlib.Z_RLE)      # 5: less memory, the same bytes
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def _zeros(count: int) -> list[bytes]:
    """Return compressed parts that hold `count` zeros, a multiple of 2^10, together."""
    return [_power(k) for k in range(_SMALLEST, count.bit_length()) if count >> k & 1]


@functools.cache
def _power(exponent: int) -> bytes:
    return _deflate(bytes(2 ** exponent))


def _adler_of_zeros(checksum: int, count: int) -> int:
    """Return the Adler-32 after `count` more zeros: each adds the low half to the high half."""
    low, high = checksum & 0xffff, checksum >> 16
    return (high + count * low) % _ADLER << 16 | low


def _chunk(name: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack('>I', len(data)), name, data, struct.pack('>I', zlib.crc32(data, zlib.crc32(name)))
