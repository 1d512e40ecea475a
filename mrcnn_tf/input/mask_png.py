"""Encode a mask as PNG, 8-bit gray, 0 or 1, in a time that depends on the object's box and hardly on the image.

H, W height and width of the image, h, w those of the object's box, in px. A PNG holds a zlib stream of rows; each row
is a filter byte (0: none) and W pixels. Deflate streams that end on a byte can be concatenated. So the zeros above and
below the object are compressed once per power of two and cached, and only the object's rows are compressed anew.
General writers try five filters on every row, and compress the zeros again for each object of an image, which took
most of the time of a conversion. They also write zeros as copies of the byte before, which take zlib twice the time to
read.
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
_UNIT = 4 * 258              # zeros; 1, 2, 4, ... times as many are cached; fewer are compressed with the object
# Of a block with dynamic Huffman codes (RFC 1951, 3.2.7): the order of the code length code lengths, up to the last one
# that is not 0; and the code length codes of the lengths 1 to 3, of 3 to 10 zeros (17) and of 11 to 138 (18).
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
_CODES = {1: '00', 3: '01', 18: '10', 2: '110', 17: '111'}



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
    """Return 2^exponent times _UNIT zeros, compressed.

    The block holds four zeros, then copies of 258 bytes from the distance 4, and a last one of 254. zlib copies single
    bytes: from the distance 1, each would wait for the previous one.
    """
    hlit, hdist, hclen = 286 - 257, 4 - 1, len(_ORDER) - 4
    head = '0' + ''.join(_number(*field) for field in ((2, 2), (hlit, 5), (hdist, 5), (hclen, 4)))     # 2: dynamic
    head += ''.join(_number(len(_CODES.get(symbol, '')), 3) for symbol in _ORDER)
    # Code lengths: symbol 0 has 2, 256 and 284 have 3, 285 has 1; the distance 4, the fourth, has 1.
    zeros = {count: _CODES[18] + _number(count - 11, 7) for count in (138, 117, 27)}
    head += _CODES[2] + zeros[138] + zeros[117] + _CODES[3] + zeros[27] + _CODES[3] + _CODES[1]
    head += _CODES[17] + _number(3 - 3, 3) + _CODES[1]
    copy, zero, end, shorter_copy, distance = '0', '10', '110', '111', '0'     # symbols 285, 0, 256, 284; distance 4
    copies = (4 * 2 ** exponent - 1) * (copy + distance) + shorter_copy + _number(254 - 227, 5) + distance
    bits = head + 4 * zero + copies + end + '000'     # the last: an empty stored block, to end on a byte
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
