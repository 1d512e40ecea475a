"""Image files: TensorFlow decodes what is accepted to the same size, and all else is refused."""
from __future__ import annotations

import io
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools import images
from data_tools.issues import InvalidDataError

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


@pytest.mark.parametrize(('kind', 'options'), [('PNG', {}), ('PNG', {'default_image': True}), ('MPO', {})],
                         ids=['animated PNG', 'with a default image', 'MPO'])
def test_the_first_of_several_images_is_read(kind: str, options: dict[str, Any]) -> None:
    others = [Image.new('RGB', (20, 12), color) for color in ('red', 'blue')]
    file = images.check(encoded(kind, 'RGB', save_all=True, append_images=others, **options), 'a')
    assert file.pictures == 3 and images.check(encoded(kind, 'RGB'), 'a').pictures == 1
    decoded = tf.io.decode_image(file.data, channels=3).numpy().astype(int)
    assert np.abs(decoded - NOISE[:, :, :3]).mean() < (1 if kind == 'PNG' else 100)


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


@pytest.mark.parametrize('value', [value for value in UPRIGHT if value != 1])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_rotated_pixels_are_exactly_those_of_the_file(value: int, kind: type) -> None:
    stream = io.BytesIO()
    pixels = np.array(UPRIGHT[1], kind) * (np.iinfo(kind).max // 7)
    Image.fromarray(pixels).save(stream, 'PNG', exif=orientation(value))
    file = images.check(stream.getvalue(), 'a')
    assert file.orientation == value
    turned = images.turn(file, 'a')
    expected = np.array(UPRIGHT[value], kind) * (np.iinfo(kind).max // 7)
    np.testing.assert_array_equal(tf.io.decode_png(turned.data, dtype=tf.as_dtype(kind))[:, :, 0], expected)
    assert (turned.height, turned.width) == file.turned_size() == expected.shape
    assert (turned.orientation, turned.channels, turned.dtype) == (1, 1, np.dtype(kind).name)


@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_a_rotated_jpeg_has_the_pixels_that_tensorflow_decodes(mode: str) -> None:
    data = encoded('JPEG', mode, exif=orientation(6))
    turned = images.turn(images.check(data, 'a'), 'a')
    stored = tf.io.decode_jpeg(data, dct_method='INTEGER_ACCURATE').numpy()
    np.testing.assert_array_equal(tf.io.decode_png(turned.data).numpy(), np.rot90(stored, -1))


@pytest.mark.parametrize('value', [0, 9, 65535])
def test_invalid_orientations(value: int) -> None:
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
def test_where_a_png_holds_its_orientation(kind: bytes, body: bytes, behind: bool) -> None:
    data = encoded('PNG', 'RGB')
    at = data.index(b'IEND' if behind else b'IDAT') - 4
    file = images.check(data[:at] + chunk(kind, body) + data[at:], 'a')
    # Viewers, prediction and serving go by EXIF alone.
    assert (file.orientation, file.other_orientation) == ((6, 1) if kind == b'eXIf' else (1, 6))
    with Image.open(io.BytesIO(file.data)) as image:
        image.load()
        assert image.getexif()[0x0112] == 6


def test_exif_of_a_jpeg_comes_before_xmp() -> None:
    assert images.check(encoded('JPEG', 'RGB', xmp=XMP_6), 'a')[-4:-1] == (1, 6, '')
    assert images.check(encoded('JPEG', 'RGB', xmp=XMP_6, exif=orientation(3)), 'a')[-4:-1] == (3, 1, '')


def test_an_image_that_cannot_be_rotated_exactly() -> None:
    with pytest.raises(InvalidDataError, match='image cannot be turned: a.jpg: CMYK of uint8 cannot be written as'):
        images.turn(images.check(encoded('JPEG', 'CMYK', exif=orientation(3)), 'a.jpg'), 'a.jpg')
    with pytest.raises(InvalidDataError, match='image cannot be turned: a.png: RGB of uint16'):
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
    with pytest.raises(InvalidDataError) as error:
        images.read(tmp_path / 'a.jpg')
    assert error.value.issue.reason == 'corrupt image'
    assert error.value.issue.detail.startswith(f'{tmp_path}/a.jpg: ') and '\n' not in error.value.issue.detail


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(InvalidDataError) as error:
        images.check(b'', 'a.jpg')
    assert error.value.issue == ('corrupt image', 'a.jpg: the file is empty; copy it again')


def test_other_formats(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.jpg').write_bytes(encoded('BMP', 'RGB'))
    with pytest.raises(InvalidDataError) as error:
        images.read(tmp_path / 'a.jpg')
    assert error.value.issue == ('image format that needs --transcode',
                                 f'{tmp_path}/a.jpg is BMP; give --transcode to store it as a PNG without loss')


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
def test_a_large_image_is_refused_before_it_is_decoded(kind: str) -> None:
    cut = encoded(kind, 'RGB')[:-40] if kind in ('PNG', 'JPEG') else encoded(kind, 'RGB')      # decoding would fail
    with pytest.raises(InvalidDataError) as error:
        images.check(cut, 'a', 12 * 20 - 1, transcode=True)
    assert error.value.issue == ('image too large', 'a: 20 px wide and 12 px high, which is 240 pixels; make it '
                                                    'smaller, or raise --max-pixels, which is 239')
    assert images.check(encoded(kind, 'RGB'), 'a', 12 * 20, transcode=True).height == 12


def test_our_limit_replaces_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert images.check(PNG, 'a', 240).width == 20
    with pytest.raises(InvalidDataError, match='corrupt image'):
        images.check(PNG, 'a')
    assert Image.MAX_IMAGE_PIXELS == 100


def tiff(values: np.ndarray, **tags: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, 'TIFF', **tags)
    return stream.getvalue()


def tiff_of(samples: int, bits: int, kind: int = 2, extra: tuple[int, ...] = ()) -> bytes:
    """A TIFF of 2 x 3 pixels, which Pillow does not write: sample s of pixel p is 10 p + s."""
    pixels = b''.join((10 * p + s).to_bytes(bits // 8, 'little') for p in range(6) for s in range(samples))
    entries = [(256, 3, [3]), (257, 3, [2]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [kind]),
               (273, 4, [8]), (277, 3, [samples]), (278, 3, [2]), (279, 4, [len(pixels)])]
    entries += [(338, 3, list(extra))] if extra else []
    body, out = b'', b''
    start = 8 + len(pixels) + 2 + 12 * len(entries) + 4
    for tag, form, values in entries:
        packed = b''.join(value.to_bytes({3: 2, 4: 4}[form], 'little') for value in values)
        if len(packed) > 4:
            packed, body = (start + len(body)).to_bytes(4, 'little'), body + packed
        out += struct.pack('<HHI', tag, form, len(values)) + packed.ljust(4, b'\0')
    return (b'II*\0' + (8 + len(pixels)).to_bytes(4, 'little') + pixels + struct.pack('<H', len(entries)) + out
            + bytes(4) + body)


BYTES, WORDS = NOISE[:, :, 0], NOISE[:, :, 0].astype(np.uint16) * 257
TRANSCODED = {
    'TIFF': ('TIFF', tiff(NOISE[:, :, :3]), NOISE[:, :, :3]),
    'TIFF compressed': ('TIFF', tiff(NOISE[:, :, :3], compression='tiff_lzw'), NOISE[:, :, :3]),
    'TIFF of 16 bit': ('TIFF, I;16 as uint16', tiff(WORDS), WORDS),
    'TIFF of 16 bit, big endian': ('TIFF, I;16B as uint16', tiff(WORDS.astype('>u2')), WORDS),
    'TIFF of floats': ('TIFF, F as uint8', tiff(BYTES.astype(np.float32)), BYTES),
    'TIFF of large floats': ('TIFF, F as uint16', tiff(WORDS.astype(np.float32)), WORDS),
    'TIFF of 32 bit': ('TIFF, I as uint8', tiff(BYTES.astype(np.int32)), BYTES),
    'TIFF of five channels': ('TIFF, without its extra channels', tiff_of(5, 8, extra=(0, 0)),
                              (10 * np.arange(6).reshape(2, 3, 1) + np.arange(3)).astype(np.uint8)),
    'BMP': ('BMP', encoded('BMP', 'RGB'), NOISE[:, :, :3]), 'BMP grey': ('BMP', encoded('BMP', 'L'), None),
    'BMP of 1 bit': ('BMP', encoded('BMP', '1'), None), 'BMP palette': ('BMP', encoded('BMP', 'P'), None),
    'WebP': ('WEBP', encoded('WEBP', 'RGB', lossless=True), NOISE[:, :, :3]), 'GIF': ('GIF', encoded('GIF', 'P'), None),
    'GIF of two': ('GIF, the first of several images', encoded(
        'GIF', 'P', save_all=True, append_images=[Image.new('P', (20, 12))]), None),
}


@pytest.mark.parametrize('name', TRANSCODED)
def test_other_formats_become_pngs_of_the_same_values(name: str) -> None:
    note, data, expected = TRANSCODED[name]
    file = images.check(data, 'a', transcode=True)
    assert (file.format, file.transcoded, file.orientation) == ('png', note, 1)
    if expected is None:
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert('RGB'))
    decoded = tf.io.decode_png(file.data, channels=3, dtype=tf.as_dtype(file.dtype)).numpy()
    assert file.dtype == expected.dtype.name and (file.height, file.width) == expected.shape[:2]
    np.testing.assert_array_equal(decoded, expected if expected.ndim == 3 else expected[..., None].repeat(3, axis=2))
    with pytest.raises(InvalidDataError, match='image format that needs --transcode'):
        images.check(data, 'a')


INEXACT = {
    'TIFF of fractions': (tiff(BYTES.astype(np.float32) / 255), 'are not all whole numbers from 0 to 65535'),
    'TIFF with nan': (tiff(np.full((2, 3), np.nan, np.float32)), 'its values, from nan to nan, are not all'),
    'TIFF below 0': (tiff(BYTES.astype(np.int32) - 500), 'are not all whole numbers from 0 to 65535'),
    'TIFF beyond 16 bit': (tiff(WORDS.astype(np.int32) + 65535), 'are not all whole numbers from 0 to 65535'),
    'TIFF of colours of 16 bit': (tiff_of(3, 16), 'its colors have more than 8 bit'),
    'TIFF whose white is 0': (tiff_of(1, 16, kind=0), 'its white is 0'),
    'TIFF multiplied': (tiff_of(4, 8, extra=(1,)), 'its colors are multiplied by their alpha'),
    'TIFF CMYK': (encoded('TIFF', 'CMYK'), 'PNG has no CMYK'),
}


@pytest.mark.parametrize('name', INEXACT)
@pytest.mark.parametrize('transcode', [False, True], ids=['without', 'with'])
def test_values_that_png_cannot_hold_are_refused(name: str, transcode: bool) -> None:
    data, reason = INEXACT[name]
    with pytest.raises(InvalidDataError) as error:
        images.check(data, 'a.tif', transcode=transcode)
    assert error.value.issue.reason == 'unsupported image format'
    assert error.value.issue.detail.startswith('a.tif is TIFF and cannot become a PNG without loss: ')
    assert reason in error.value.issue.detail


@pytest.mark.parametrize('kind', ['TIFF', 'WEBP'])
@pytest.mark.parametrize('value', UPRIGHT)
def test_transcoded_photographs_have_the_stored_orientation(value: int, kind: str) -> None:
    options = {'lossless': True} if kind == 'WEBP' else {}
    file = images.check(encoded(kind, 'RGB', exif=orientation(value), **options), 'a', transcode=True)
    assert file.orientation == value
    np.testing.assert_array_equal(tf.io.decode_png(file.data), NOISE[:, :, :3])
    if value != 1:
        turned = tf.io.decode_png(images.turn(file, 'a').data).numpy()
        rows = np.array(UPRIGHT[value]) - 1      # of a picture of 2 x 3: where the corners go
        corner = NOISE[[0, 0, -1, -1], [0, -1, 0, -1], :3][[0, 1, 2, 3]]
        names = {0: 0, 2: 1, 3: 2, 5: 3}
        for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            assert turned[y, x].tolist() == corner[names[int(rows[y, x])]].tolist()


def test_a_damaged_tiff() -> None:
    with pytest.raises(InvalidDataError, match='corrupt image'):
        images.check(encoded('TIFF', 'RGB')[:60], 'a', transcode=True)


@pytest.mark.parametrize('path, reason', [
    ('none.png', 'missing image file'), ('.', 'missing image file'), ('file/a.png', 'missing image file'),
    ('a\0.png', 'unreadable image file'), ('a' * 300, 'unreadable image file')])
def test_missing_files(tmp_path: pathlib.Path, path: str, reason: str) -> None:
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(InvalidDataError) as error:
        images.read(tmp_path / path)
    assert error.value.issue.reason == reason


@pytest.mark.parametrize('progressive', [False, True])
def test_damaged_jpegs_are_refused_as_by_full_decoding(progressive: bool) -> None:
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
    with pytest.raises(InvalidDataError) as error:
        images.check(b'no picture', 'a.png')
    assert error.value.issue == ('corrupt image', 'a.png: cannot identify image file')
