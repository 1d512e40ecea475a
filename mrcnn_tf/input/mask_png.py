"""Encode a mask as PNG, 8-bit gray, 0 or 1, in a time that depends on the object's box and hardly on the image.

H, W height and width of the image, h, w those of the object's box, in px. A PNG holds a zlib stream of rows; each row
is a filter byte (0: none) and W pixels. Deflate streams that end on a byte can be concatenated. So the zeros above and
below the object are compressed once per length and cached, and only the object's rows are compressed anew. General
writers try five filters on every row, and compress the zeros again for each object of an image, which took most of the
time of a conversion. They also write zeros as copies of the byte before, which take zlib twice the time to read.
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
_COPY = 258                  # bytes of the longest copy that deflate knows
_UNIT = 4 * _COPY            # zeros; 1, 2, 4, ... times as many are cached; fewer are compressed with the object
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)     # of the lengths of codes of lengths


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
    lead, tail = before % _UNIT, after % _UNIT
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
    """Return compressed parts that hold `count` zeros, a multiple of _UNIT, together."""
    units = count // _UNIT
    return [_power(k) for k in range(units.bit_length()) if units >> k & 1]


@functools.cache
def _power(exponent: int) -> bytes:
    """Return 2^exponent times _UNIT zeros, compressed: a block with codes of its own (RFC 1951, 3.2.7).

    It holds four zeros, then copies of 258 bytes from four bytes before, and a last one of 254. zlib copies single
    bytes: from one byte before, each would wait for the last.
    """
    # The codes of lengths: 1 is 00, 3 is 01, 18 (zeros) 10, 2 is 110, 17 (few zeros) 111.
    lengths = {1: 2, 3: 2, 18: 2, 2: 3, 17: 3}
    head = '0' + ''.join(_number(value, width) for value, width in ((2, 2), (29, 5), (3, 5), (len(_ORDER) - 4, 4)))
    head += ''.join(_number(lengths.get(symbol, 0), 3) for symbol in _ORDER)
    # The lengths of codes: of the byte 0 it is 2; of the end 3, of copies of 227 to 257 bytes 3, of 258 bytes 1; of the
    # distance 4 it is 1. So these codes are 10, 110, 111, 0, and 0.
    codes = ['110', '10', _number(138 - 11, 7), '10', _number(117 - 11, 7), '01', '10', _number(27 - 11, 7), '01', '00',
             '111', _number(3 - 3, 3), '00']
    copies = '00' * (2 ** exponent * _UNIT // _COPY - 1) + '111' + _number(254 - 227, 5) + '0'
    bits = head + ''.join(codes) + 4 * '10' + copies + '110' + '000'     # the last: an empty block, to end on a byte
    bits += '0' * (-len(bits) % 8)
    return int(bits[::-1], 2).to_bytes(len(bits) // 8, 'little') + b'\0\0\xff\xff'


def _number(value: int, width: int) -> str:
    """Return a number as deflate writes it, the lowest bit first."""
    return f'{value:0{width}b}'[::-1]


def _adler_of_zeros(checksum: int, count: int) -> int:
    """Return the Adler-32 after `count` more zeros: each adds the low half to the high half."""
    low, high = checksum & 0xffff, checksum >> 16
    return (high + count * low) % _ADLER << 16 | low


def _chunk(name: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    return struct.pack('>I', len(data)), name, data, struct.pack('>I', zlib.crc32(data, zlib.crc32(name)))
