"""Which image files go through: what is let in, TensorFlow decodes to the same size; what it cannot decode, is not."""
from __future__ import annotations

import io
import pathlib
import zlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools import images
from data_tools.incidents import Unusable

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 4), np.uint8)


def encoded(format: str, mode: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if mode == 'I;16':
        Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257).save(stream, format, **options)
    else:
        Image.fromarray(NOISE).convert('RGB').convert(mode).save(stream, format, **options)
    return stream.getvalue()


def png_of_16_bit_rgb() -> bytes:
    """Pillow reads these and cannot write them: signature, IHDR, IDAT, IEND of two black rows of three pixels."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, 'big') + kind + body + zlib.crc32(kind + body).to_bytes(4, 'big')

    header = (3).to_bytes(4, 'big') + (2).to_bytes(4, 'big') + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress((b'\0' + bytes(3 * 6)) * 2)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


READABLE = {
    **{f'PNG {mode}': ('png', encoded('PNG', mode)) for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')},
    'PNG P transparent': ('png', encoded('PNG', 'P', transparency=0)),
    'PNG RGB 16': ('png', png_of_16_bit_rgb()),
    **{f'JPEG {mode}': ('jpeg', encoded('JPEG', mode)) for mode in ('L', 'RGB', 'CMYK')},
    'JPEG progressive': ('jpeg', encoded('JPEG', 'RGB', progressive=True)),
    'MPO': ('jpeg', encoded('MPO', 'RGB', save_all=True, append_images=[Image.new('RGB', (20, 12))])),
}


@pytest.mark.parametrize('name', READABLE)
def test_read_gives_the_bytes_and_what_tensorflow_decodes(tmp_path: pathlib.Path, name: str) -> None:
    kind, data = READABLE[name]
    (tmp_path / 'a').write_bytes(data)
    file = images.read(tmp_path / 'a')
    decode = {'png': tf.io.decode_png, 'jpeg': tf.io.decode_jpeg}[kind]
    assert file == (data, kind, *decode(data, channels=3).shape[:2], False)


def test_size_is_that_of_the_stored_pixels(tmp_path: pathlib.Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6      # to be turned by 90 degrees
    (tmp_path / 'a.jpg').write_bytes(encoded('JPEG', 'RGB', exif=exif))
    file = images.read(tmp_path / 'a.jpg')
    assert (file.height, file.width, file.rotated) == (12, 20, True)
    assert tf.io.decode_jpeg(file.data).shape == [12, 20, 3]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


JPEG, PNG = encoded('JPEG', 'RGB'), encoded('PNG', 'RGB')
CORRUPT = {
    'empty': b'', 'text': b'<html>not found</html>', 'header only': JPEG[:20],
    'JPEG cut': JPEG[:len(JPEG) // 2], 'JPEG without end': JPEG[:-40],
    'PNG cut': PNG[:len(PNG) // 2], 'PNG bit': flipped(PNG, len(PNG) // 2), 'PNG header bit': flipped(PNG, 17),
}


@pytest.mark.parametrize('name', CORRUPT)
def test_corrupt_files(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):     # or the record would stop the training
        tf.io.decode_image(CORRUPT[name])
    (tmp_path / 'a.jpg').write_bytes(CORRUPT[name])
    with pytest.raises(Unusable) as error:
        images.read(tmp_path / 'a.jpg')
    assert error.value.fault.reason == 'corrupt image'
    assert error.value.fault.detail.startswith(f'{tmp_path}/a.jpg: ') and '\n' not in error.value.fault.detail


def test_other_formats(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.jpg').write_bytes(encoded('BMP', 'RGB'))
    with pytest.raises(Unusable) as error:
        images.read(tmp_path / 'a.jpg')
    assert error.value.fault == ('unsupported image format', f'{tmp_path}/a.jpg is BMP; JPEG and PNG can be read')


@pytest.mark.parametrize('path, reason', [
    ('none.png', 'missing image file'), ('.', 'missing image file'), ('file/a.png', 'missing image file'),
    ('a\0.png', 'unreadable image file'), ('a' * 300, 'unreadable image file')])
def test_files_that_are_not_there(tmp_path: pathlib.Path, path: str, reason: str) -> None:
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(Unusable) as error:
        images.read(tmp_path / path)
    assert error.value.fault.reason == reason
