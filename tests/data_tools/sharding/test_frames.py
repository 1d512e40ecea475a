"""TFRecord frames: the same records as TensorFlow reads, and each kind of damage with its position."""
from __future__ import annotations

import io
import pathlib

import pytest
import tensorflow as tf

from data_tools.sharding import frames

RECORDS = [b'first', b'', b'x' * 300]
# Frames are 16 bytes longer than their records: they begin at 0, 21 and 37; the file has 353 bytes.


@pytest.fixture()
def data(tmp_path: pathlib.Path) -> bytes:
    with tf.io.TFRecordWriter(str(tmp_path / 'a.tfrecord')) as writer:
        for record in RECORDS:
            writer.write(record)
    return (tmp_path / 'a.tfrecord').read_bytes()


def read(data: bytes) -> list[tuple[int, int, bytes, str]]:
    return [tuple(frame) for frame in frames.frames(io.BytesIO(data))]


def test_all_frames_of_a_file(data: bytes) -> None:
    assert read(data) == [(0, 0, b'first', ''), (1, 21, b'', ''), (2, 37, RECORDS[2], '')]
    assert read(b'') == []


def test_records_after_a_flipped_bit_are_read(data: bytes) -> None:
    for at in (12, 16, 17, 20):      # the record and its checksum
        broken = bytearray(data)
        broken[at] ^= 1
        first, *others = read(bytes(broken))
        assert (first[:2], first[3]) == ((0, 0), 'its checksum is wrong')
        assert others == [(1, 21, b'', ''), (2, 37, RECORDS[2], '')]


@pytest.mark.parametrize('at', [37, 44, 45, 48])
def test_a_flipped_bit_of_a_length_ends_the_reading(data: bytes, at: int) -> None:
    broken = bytearray(data)
    broken[at] ^= 0x80
    assert read(bytes(broken))[1:] == [
        (1, 21, b'', ''), (2, 37, b'', 'the checksum of its length is wrong, so what follows cannot be read')]


@pytest.mark.parametrize(('length', 'fault'), [
    (352, 'cut off after 315 of 316 bytes'), (349, 'cut off after 312 of 316 bytes'),
    (49, 'cut off after 12 of 316 bytes'), (48, 'cut off after 11 bytes'), (38, 'cut off after 1 bytes')])
def test_a_file_that_is_cut(data: bytes, length: int, fault: str) -> None:
    assert read(data[:length])[1:] == [(1, 21, b'', ''), (2, 37, b'', fault)]


def test_the_checksum_has_the_published_value() -> None:
    # RFC 3720, B.4: of 32 zero bytes it is 0x8a9136aa; turned right by 15 bits that is 0x6d551522.
    assert frames.checksum(bytes(32)) == (0x6d551522 + 0xa282ead8) % 2 ** 32
