"""Which image files go through: what is let in, TensorFlow decodes to the same size; what it cannot decode, is not."""
from __future__ import annotations

import io
import pathlib
import zlib
from collections.abc import Callable
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


def chunk(kind: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return len(body).to_bytes(4, 'big') + kind + body + zlib.crc32(kind + body).to_bytes(4, 'big')


def png_of_16_bit_rgb() -> bytes:
    """Pillow reads these and cannot write them: signature, IHDR, IDAT, IEND of two black rows of three pixels."""
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
    assert file[:4] == (data, kind, *decode(data, channels=3).shape[:2]) and file.orientation == 1


@pytest.mark.parametrize('name, channels, dtype', [
    ('PNG 1', 1, 'uint8'), ('PNG L', 1, 'uint8'), ('PNG LA', 2, 'uint8'), ('PNG P', 3, 'uint8'),
    ('PNG RGB', 3, 'uint8'), ('PNG RGBA', 4, 'uint8'), ('PNG I;16', 1, 'uint16'),
    ('PNG RGB 16', 3, 'uint16'), ('JPEG L', 1, 'uint8'), ('JPEG RGB', 3, 'uint8'), ('JPEG CMYK', 4, 'uint8')])
def test_channels_and_type_are_those_of_the_file(name: str, channels: int, dtype: str) -> None:
    file = images.check(READABLE[name][1], 'a')
    assert (file.channels, file.dtype) == (channels, dtype)
    # As TensorFlow finds them when it may choose; in CMYK it sees three colours.
    if file.format == 'png':
        decoded = tf.io.decode_png(file.data, dtype=tf.uint16 if dtype == 'uint16' else tf.uint8)
        assert decoded.shape[2] == channels


def test_size_is_that_of_the_stored_pixels(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.jpg').write_bytes(encoded('JPEG', 'RGB', exif=orientation(6)))     # to be turned by 90 degrees
    file = images.read(tmp_path / 'a.jpg')
    assert (file.height, file.width, file.orientation, file.turned_size()) == (12, 20, 6, (20, 12))
    assert tf.io.decode_jpeg(file.data).shape == [12, 20, 3]


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


# What EXIF says of the stored rows and columns: of 1 2 3 / 4 5 6, row 0 is the visual ...
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],       # top, column 0 the left
    2: [[3, 2, 1], [6, 5, 4]],       # top, right
    3: [[6, 5, 4], [3, 2, 1]],       # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],       # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],     # left, top
    6: [[4, 1], [5, 2], [6, 3]],     # right, top
    7: [[6, 3], [5, 2], [4, 1]],     # right, bottom
    8: [[3, 6], [2, 5], [1, 4]],     # left, bottom
}


@pytest.mark.parametrize('value', UPRIGHT)
@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_turned_pixels_are_exactly_those_of_the_file(value: int, kind: type) -> None:
    stream = io.BytesIO()
    pixels = np.array(UPRIGHT[1], kind) * (np.iinfo(kind).max // 7)
    Image.fromarray(pixels).save(stream, 'PNG', exif=orientation(value))
    file = images.check(stream.getvalue(), 'a')
    assert file.orientation == value
    if value == 1:
        return
    turned = images.turn(file, 'a')
    expected = np.array(UPRIGHT[value], kind) * (np.iinfo(kind).max // 7)
    np.testing.assert_array_equal(tf.io.decode_png(turned.data, dtype=tf.as_dtype(kind))[:, :, 0], expected)
    assert (turned.height, turned.width) == file.turned_size() == expected.shape
    assert (turned.orientation, turned.channels, turned.dtype) == (1, 1, np.dtype(kind).name)


@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_a_turned_jpeg_has_the_pixels_that_tensorflow_decodes(mode: str) -> None:
    data = encoded('JPEG', mode, exif=orientation(6))
    turned = images.turn(images.check(data, 'a'), 'a')
    stored = tf.io.decode_jpeg(data, dct_method='INTEGER_ACCURATE').numpy()
    np.testing.assert_array_equal(tf.io.decode_png(turned.data).numpy(), np.rot90(stored, -1))


@pytest.mark.parametrize('value', [0, 9, 65535])
def test_an_orientation_that_is_none(value: int) -> None:
    assert images.check(encoded('JPEG', 'RGB', exif=orientation(value)), 'a').orientation == 1


EXIF_6 = b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'     # one entry: orientation 6
XMP_6 = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize('behind', [False, True], ids=['before the pixels', 'behind the pixels'])
@pytest.mark.parametrize('kind, body', [
    (b'eXIf', EXIF_6),
    (b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(b'\nexif\n      26\n' + EXIF_6.hex().encode() + b'\n')),
    (b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + XMP_6),
    (b'iTXt', b'XML:com.adobe.xmp\0\x01\0\0\0' + zlib.compress(XMP_6))],
    ids=['eXIf', 'profile as text', 'XMP', 'XMP compressed'])
def test_where_a_png_says_how_it_is_turned(kind: bytes, body: bytes, behind: bool) -> None:
    data = encoded('PNG', 'RGB')
    at = data.index(b'IEND' if behind else b'IDAT') - 4
    assert images.check(data[:at] + chunk(kind, body) + data[at:], 'a').orientation == 6


def test_what_cannot_be_turned_exactly() -> None:
    with pytest.raises(Unusable, match='image cannot be turned: a.jpg: CMYK of uint8; store it upright'):
        images.turn(images.check(encoded('JPEG', 'CMYK', exif=orientation(3)), 'a.jpg'), 'a.jpg')
    with pytest.raises(Unusable, match='image cannot be turned: a.png: RGB of uint16'):
        images.turn(images.check(png_of_16_bit_rgb(), 'a.png')._replace(orientation=3), 'a.png')


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


JPEG, PNG = encoded('JPEG', 'RGB'), encoded('PNG', 'RGB')
CORRUPT = {
    'empty': b'', 'text': b'<html>not found</html>', 'header only': JPEG[:20],
    'JPEG cut': JPEG[:len(JPEG) // 2], 'JPEG without end': JPEG[:-40],
    'JPEG with another end': JPEG[:-1] + b'\xd1',
    'JPEG whose last segment is too long': JPEG[:-2] + b'\xff\xe1\x00\x09' + JPEG[-2:],
    'PNG with another end': PNG[:-11] + b'\x01' + PNG[-10:],
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


@pytest.mark.parametrize('progressive', [False, True])
def test_a_cut_or_damaged_jpeg_is_refused_as_by_decoding_it_whole(progressive: bool) -> None:
    """Reading an eighth of the size must not see less of the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'JPEG', progressive=progressive)
    data = stream.getvalue()
    cut = [data[:length] for length in range(0, len(data), 37)]
    damaged = [data[:place] + bytes([data[place] ^ 0xff, 0xff, 0xd9]) + data[place + 3:]
               for place in range(200, len(data) - 3, 97)]
    refused = [(_refuses(images.check, each, 'a.jpg'), _refuses(_pixels, each)) for each in (*cut, *damaged)]
    assert all(mine for mine, whole in refused if whole)
    assert any(mine for mine, _ in refused) and not _refuses(images.check, data, 'a.jpg')


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _refuses(function: Callable[..., Any], *arguments: Any) -> bool:
    try:
        function(*arguments)
    except Exception:      # Pillow's decoders raise almost anything
        return True
    return False


def test_the_reason_is_the_same_in_every_run() -> None:
    # Pillow's own message has the address of the bytes in it.
    with pytest.raises(Unusable) as error:
        images.check(b'no picture', 'a.png')
    assert error.value.fault == ('corrupt image', 'a.png: cannot identify image file')
