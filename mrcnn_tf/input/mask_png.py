"""A mask as a PNG, 8 bit grey, 0 or 1, written from the object's box alone: what lies around it costs next to nothing.

H, W the image, h, w the box of the object, in px. A PNG is a zlib stream of rows, each a filter byte (0: none) and W
pixels. Streams can be joined where one ends on a byte, so the rows above and below the object come ready made, as
powers of two of zeros; only those of the object are compressed. General writers try five filters on every row, and
compress the zeros again for each of an image's objects: that took most of the time of a conversion.
"""
from __future__ import annotations

import functools
import struct
import zlib

import numpy as np

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_END = b'\0\0\0\0IEND\xae\x42\x60\x82'
_ZLIB_HEADER = b'\x78\x01'
_LAST_BLOCK = b'\x03\0'      # of deflate: an empty one that says it is the last
_ADLER = 65521
_SMALLEST = 10               # zeros come in 2^10, 2^11, ...; fewer are compressed with the object


def encode(pixels: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> bytes:
    """The PNG of an image's size that is 0 but for the pixels of a box.

    Args:
        pixels: uint8 [h, w], 0 or 1; may be empty.
        corner: y, x of its first pixel.
        size: H, W.

    Raises:
        ValueError: the box is not in the image, or the image has no pixel.
    """
    (y, x), (height, width), (down, across) = corner, size, pixels.shape
    if not (0 <= y <= height - down and 0 <= x <= width - across and height > 0 and width > 0):
        raise ValueError(f'a box of {down} x {across} at {y}, {x} is not in an image of {height} x {width}')
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
    """A part of a stream that ends on a byte and looks back to nothing before it."""
    # Runs are all there is in a mask; to look for nothing else is faster and gives half the bytes.
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 5, zlib.Z_RLE)      # 5: less memory to set up, the same bytes
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def _zeros(count: int) -> list[bytes]:
    """Parts of a stream that hold so many zeros, a multiple of 2^10."""
    return [_power(k) for k in range(_SMALLEST, count.bit_length()) if count >> k & 1]


@functools.cache
def _power(exponent: int) -> bytes:
    return _deflate(bytes(2 ** exponent))


def _adler_of_zeros(checksum: int, count: int) -> int:
    """Adler-32 after so many zeros more: its low half stays, and is added to the high one for each."""
    low, high = checksum & 0xffff, checksum >> 16
    return (high + count * low) % _ADLER << 16 | low


def _chunk(name: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack('>I', len(data)), name, data, struct.pack('>I', zlib.crc32(data, zlib.crc32(name)))
