"""Decoding, headers and EXIF orientation against Pillow, in eager mode, in a tf.function and in a dataset."""
from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from tensorflow.core.framework import dataset_options_pb2

from mrcnn_tf.input import decoding, images

COLORS = np.random.default_rng(0).integers(0, 256, (13, 21, 4), np.uint8)
GRAY = Image.fromarray(COLORS[..., 0])
RGB = Image.fromarray(COLORS[..., :3])
SMOOTH = RGB.resize((90, 70))      # differences between JPEG transforms show on edges, so not noise alone
DEEP = Image.fromarray(np.array([[0, 257, 32896, 65535, 100]], np.uint16))      # 0, 1 x 257, 128 x 257, 255 x 257
ORIENTATIONS = range(1, 9)

Run = Callable[[Callable[[tf.Tensor], tf.Tensor], list[bytes]], list[np.ndarray]]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(value: int, endian: str = '<') -> Image.Exif:
    """Pillow's EXIF with an orientation and another entry."""
    made = Image.Exif()
    made.endian = endian
    made[0x010f], made[0x0112] = 'a maker', value
    return made


def pillow(encoded: bytes, turned: bool = False) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray((ImageOps.exif_transpose(image) if turned else image).convert('RGB'))


@pytest.fixture(params=['eager', 'function', 'dataset'])
def run(request: pytest.FixtureRequest) -> Run:
    """Return the results of a function for several files; a graph is traced once for all of them."""
    def in_function(function: Callable[[tf.Tensor], tf.Tensor], files: list[bytes]) -> list[np.ndarray]:
        graph = tf.function(function, input_signature=[tf.TensorSpec([], tf.string)])
        return [graph(encoded).numpy() for encoded in files]

    def in_dataset(function: Callable[[tf.Tensor], tf.Tensor], files: list[bytes]) -> list[np.ndarray]:
        return list(tf.data.Dataset.from_tensor_slices(files).map(function).as_numpy_iterator())

    return {'eager': lambda function, files: [function(tf.constant(encoded)).numpy() for encoded in files],
            'function': in_function, 'dataset': in_dataset}[request.param]


FILES = {
    'jpeg': save(SMOOTH, 'JPEG', quality=80), 'jpeg-progressive': save(SMOOTH, 'JPEG', quality=95, progressive=True),
    'jpeg-gray': save(SMOOTH.convert('L'), 'JPEG'), 'jpeg-cmyk': save(SMOOTH.convert('CMYK'), 'JPEG'),
    'png': save(RGB, 'PNG'), 'png-gray': save(GRAY, 'PNG'), 'png-alpha': save(Image.fromarray(COLORS), 'PNG'),
    'png-gray-alpha': save(Image.merge('LA', [GRAY, GRAY.rotate(180)]), 'PNG'),
    'png-palette': save(RGB.quantize(8), 'PNG'),
    'png-palette-transparent': save(RGB.quantize(8), 'PNG', transparency=0),
    'png-4bit': save(RGB.quantize(8), 'PNG', bits=4), 'png-1bit': save(GRAY.convert('1'), 'PNG')}


def test_decode_gives_the_pixels_of_pillow(run: Run) -> None:
    for (name, encoded), decoded in zip(FILES.items(), run(decoding.decode, list(FILES.values())), strict=True):
        assert decoded.dtype == np.float32
        np.testing.assert_array_equal(decoded, pillow(encoded).astype(np.float32), name)


def test_decode_keeps_all_values_of_8_bit(run: Run) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    decoded, = run(decoding.decode, [save(Image.fromarray(ramp), 'PNG')])
    np.testing.assert_array_equal(decoded, np.repeat(ramp[..., None], 3, axis=2))


def test_decode_scales_16_bit_to_255(run: Run) -> None:
    decoded, = run(decoding.decode, [save(DEEP, 'PNG')])
    np.testing.assert_allclose(decoded[0, :, 0], [0, 1, 128, 255, 100 / 257], rtol=1e-7)
    np.testing.assert_array_equal(decoded, np.repeat(decoded[..., :1], 3, axis=2))


@pytest.mark.parametrize('antialias', [False, True], ids=['plain', 'antialias'])
@pytest.mark.parametrize('shape', [(13, 21), (7, 10), (40, 61)], ids=['same_size', 'smaller', 'larger'])
@pytest.mark.parametrize('kind', ['8_bits', '16_bits'])
def test_resizing_before_the_cast_gives_the_same_numbers(kind: str, shape: tuple[int, int], antialias: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 65536, (13, 21), np.uint16)
    encoded = save(RGB if kind == '8_bits' else Image.fromarray(noise), 'PNG')

    def resized(pixels: tf.Tensor) -> tf.Tensor:
        return images.resize(pixels, tf.constant(shape), antialias)

    first = decoding.decode(encoded, then=resized)
    assert first.dtype == tf.float32
    np.testing.assert_array_equal(first, resized(decoding.decode(encoded)))


def test_then_gets_8_bits_as_uint8_and_16_bits_as_float32() -> None:
    assert decoding.decode(FILES['png'], then=lambda pixels: pixels).dtype == tf.uint8
    assert decoding.decode(FILES['jpeg'], then=lambda pixels: pixels).dtype == tf.uint8
    assert decoding.decode(save(DEEP, 'PNG'), then=lambda pixels: pixels).dtype == tf.float32


def test_static_channels_in_a_dataset() -> None:
    dataset = tf.data.Dataset.from_tensors(b'').map(decoding.decode)
    assert dataset.element_spec == tf.TensorSpec([None, None, 3], tf.float32)
    turned = tf.data.Dataset.from_tensors(b'').map(lambda data: decoding.decode(data, rule=decoding.Rule('apply')))
    assert turned.element_spec == tf.TensorSpec([None, None, 3], tf.float32)


@pytest.mark.parametrize('encoded', [b'', b'\xff', b'GIF89a', save(GRAY, 'BMP')],
                         ids=['empty', 'one_byte', 'gif', 'bmp'])
def test_other_formats_are_named(encoded: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match='photo 7: neither a JPEG nor a PNG; convert it to one'):
        decoding.decode(encoded, 'photo 7')
    assert decoding.refusal(encoded, decoding.AS_STORED).numpy() == decoding.UNKNOWN_FORMAT.encode()


@pytest.mark.parametrize('encoded', [FILES['jpeg'][:900], FILES['png'][:200], b'\xff\xd8\xff', FILES['png'][:12]],
                         ids=['jpeg', 'png', 'jpeg_signature', 'png_signature'])
def test_damaged_files_are_refused(run: Run, encoded: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(decoding.decode, [encoded])


@pytest.mark.parametrize('name', FILES)
def test_the_size_is_read_from_the_header(name: str) -> None:
    size = decoding.stored_size(FILES[name])
    assert size.dtype == tf.int64 and size.numpy().tolist() == list(pillow(FILES[name]).shape[:2])


def header(width: int, height: int) -> bytes:
    """A PNG of 33 bytes: a header with this size, and no pixels."""
    body = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + body + struct.pack('>I', zlib.crc32(body))


@pytest.mark.parametrize(('width', 'height'), [(12000, 12001), (2 ** 31 - 1, 2 ** 31 - 1)],
                         ids=['large', 'beyond_int32'])
def test_a_large_file_is_refused_before_it_is_decoded(run: Run, width: int, height: int) -> None:
    rule, encoded = decoding.Rule(max_pixels=50_000_000), header(width, height)
    text = (f'{width} px wide and {height} px high, which is {width * height} pixels; make it smaller, or raise '
            'max_pixels, which is 50000000')
    reason, = run(lambda data: decoding.refusal(data, rule), [encoded])
    assert reason.decode() == text
    with pytest.raises(tf.errors.InvalidArgumentError, match=f'a.png: {text}'):
        run(lambda data: decoding.decode(data, 'a.png', rule), [encoded])


def test_the_status_of_files() -> None:
    rule = decoding.Rule('error', 13 * 21)
    turned = save(RGB, 'JPEG', exif=exif(6))
    files = {save(RGB, 'PNG'): decoding.OK, b'GIF89a': decoding.NOT_AN_IMAGE, save(RGB, 'PNG')[:200]: decoding.DAMAGED,
             b'\xff\xd8\xff': decoding.DAMAGED, header(12000, 12001): decoding.TOO_LARGE, turned: decoding.TO_BE_TURNED}

    @tf.function(autograph=False)
    def attempt(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decoding.try_decode(encoded, rule, lambda pixels: tf.cast(pixels, tf.float32), tf.zeros([1, 1, 3]))

    found = [attempt(tf.constant(file)) for file in files]
    assert [int(status) for status, _ in found] == list(files.values())
    np.testing.assert_array_equal(found[0][1], pillow(save(RGB, 'PNG')))
    assert all(pixels.shape == [1, 1, 3] for _, pixels in found[1:])


def test_the_end_of_the_pipeline_of_a_file_waits_for_no_tuning_thread() -> None:
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def attempt(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decoding.try_decode(encoded, decoding.Rule(), tf.shape, tf.zeros([3], tf.int32))

    found, = (node for node in attempt.get_concrete_function().graph.as_graph_def().node if node.op == 'OptionsDataset')
    options = dataset_options_pb2.Options.FromString(found.attr['serialized_options'].s)
    assert options.autotune_options.WhichOneof('optional_enabled') and not options.autotune_options.enabled


def test_an_image_with_exactly_the_limit_of_pixels_is_accepted() -> None:
    for limit, refused in ((13 * 21, False), (13 * 21 - 1, True)):
        assert bool(decoding.refusal(FILES['png'], decoding.Rule(max_pixels=limit)).numpy()) == refused
        assert bool(decoding.refusal(save(RGB, 'JPEG'), decoding.Rule(max_pixels=limit)).numpy()) == refused


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_photographs_are_rotated_as_by_pillow(run: Run, kind: str) -> None:
    files = [save(RGB, kind, exif=exif(value, endian)) for value in ORIENTATIONS for endian in '<>']
    assert run(decoding.orientation, files) == [value for value in ORIENTATIONS for _ in '<>']
    for encoded, turned in zip(files, run(lambda data: decoding.decode(data, rule=decoding.Rule('apply')), files),
                               strict=True):
        np.testing.assert_array_equal(turned, pillow(encoded, turned=True))


def test_16_bit_images_are_rotated_too() -> None:
    deep = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 257)
    turned = decoding.decode(save(deep, 'PNG', exif=exif(6)), rule=decoding.Rule('apply'))
    assert turned[..., 0].numpy().tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize('value', ORIENTATIONS)
def test_a_photograph_with_an_orientation_is_refused_only_by_the_rule_error(value: int) -> None:
    encoded = save(RGB, 'JPEG', exif=exif(value))
    np.testing.assert_array_equal(decoding.decode(encoded), pillow(encoded))      # a record's pixels are as stored
    text = decoding.refusal(encoded, decoding.Rule('error')).numpy().decode()
    assert text == ('' if value == 1 else f'its EXIF says to turn it (orientation {value}); turn its pixels, or choose '
                                          'exif=apply or ignore')
    assert decoding.refusal(encoded, decoding.Rule('apply')).numpy() == b''


def tiff(entries: bytes, count: int, start: int = 8) -> bytes:
    """EXIF with one directory, big-endian."""
    return b'MM\0*' + struct.pack('>I', start) + struct.pack('>H', count) + entries


def entry(tag: int = 0x0112, kind: int = 3, count: int = 1, value: bytes = b'\0\6\0\0') -> bytes:
    return struct.pack('>HHI', tag, kind, count) + value


SIX = tiff(entry(), 1)


def jpeg(*segments: bytes) -> bytes:
    return FILES['jpeg'][:2] + b''.join(segments) + FILES['jpeg'][2:]


def segment(body: bytes, marker: int = 0xe1) -> bytes:
    return bytes([0xff, marker]) + struct.pack('>H', 2 + len(body)) + body


def png(name: bytes, body: bytes, before: bytes = b'IDAT') -> bytes:
    at = FILES['png'].index(before) - 4
    chunk = struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))
    return FILES['png'][:at] + chunk + FILES['png'][at:]


EXIF = b'Exif\0\0'
WITH_ORIENTATION = {
    'alone': (6, jpeg(segment(EXIF + SIX))),
    'after other segments': (6, jpeg(segment(bytes(60000), 0xe2), segment(b'http://ns.adobe.com/xap/1.0/\0<x/>'),
                                      segment(EXIF + SIX))),
    'after fill bytes': (6, jpeg(b'\xff\xff\xff', segment(EXIF + SIX))),
    'as a long': (6, jpeg(segment(EXIF + tiff(entry(kind=4, value=b'\0\0\0\6'), 1)))),
    'later directory': (6, jpeg(segment(EXIF + b'MM\0*\0\0\0\x0c' + bytes(4) + b'\0\1' + entry()))),
    'the first of two': (6, jpeg(segment(EXIF + SIX), segment(EXIF + tiff(entry(value=b'\0\3\0\0'), 1)))),
    'after the pixels of a png': (6, png(b'eXIf', SIX, b'IEND')),
    'before the pixels of a png': (6, png(b'eXIf', SIX)),
    'no value': (1, jpeg(segment(EXIF + tiff(entry(value=b'\0\0\0\0'), 1)))),
    'nine': (1, jpeg(segment(EXIF + tiff(entry(value=b'\0\x09\0\0'), 1)))),
    'two values': (1, jpeg(segment(EXIF + tiff(entry(count=2), 1)))),
    'as a byte': (1, jpeg(segment(EXIF + tiff(entry(kind=1, value=b'\6\0\0\0'), 1)))),
    'no entries': (1, jpeg(segment(EXIF + tiff(b'', 0)))),
    'fewer entries than announced': (1, jpeg(segment(EXIF + tiff(entry(tag=1), 60000)))),
    'directory beyond the end': (1, jpeg(segment(EXIF + tiff(entry(), 1, 2 ** 32 - 1)))),
    'directory at its own start': (1, jpeg(segment(EXIF + tiff(entry(), 1, 0)))),
    'no TIFF': (1, jpeg(segment(EXIF + b'XX' + SIX[2:]))),
    'empty': (1, jpeg(segment(EXIF))),
    'another segment': (1, jpeg(segment(EXIF + SIX, 0xe2))),
    'after the start of the scan': (1, FILES['jpeg'] + segment(EXIF + SIX)),
    'text in the pixels': (1, FILES['png'] + b'eXIf no TIFF'),
    'nothing': (1, b''), 'two bytes': (1, b'\xff\xd8'), 'a signature': (1, b'\xff\xd8\xff'), 'text': (1, b'hello'),
    'png signature': (1, b'\x89PNG\r\n\x1a\n'), 'segments without end': (1, b'\xff\xd8' + b'\xff\xe2\0\2' * 2 ** 16),
    'fill bytes without end': (1, b'\xff\xd8' + b'\xff' * 2 ** 20),
    'names without end': (1, FILES['png'] + b'eXIf' * 5000),
    'length 0': (1, b'\xff\xd8' + b'\xff\xe2\0\0' * 100),
}


@pytest.mark.parametrize('name', WITH_ORIENTATION)
def test_places_of_the_orientation(name: str) -> None:
    expected, encoded = WITH_ORIENTATION[name]
    assert decoding.orientation(encoded).numpy() == expected


def test_any_bytes_have_an_orientation() -> None:
    """If Pillow can still read the orientation of a damaged file, it is the same one."""
    generator = random.Random(0)
    read = 0
    for _ in range(1000):
        kind = generator.choice(['JPEG', 'PNG'])
        data = bytearray(save(RGB, kind, exif=exif(generator.choice(ORIENTATIONS), generator.choice('<>'))))
        at = data.index(b'Exif' if kind == 'JPEG' else b'eXIf')
        for _ in range(generator.randint(1, 3)):
            data[generator.randrange(max(at - 8, 0), at + 60)] = generator.randrange(256)
        damaged = bytes(data[:generator.randrange(len(data))] if generator.random() < 0.2 else data)
        orientation = int(decoding.orientation(damaged))
        assert 1 <= orientation <= 8
        expected = pillow_orientation(damaged)
        if expected in ORIENTATIONS[1:]:
            read += 1
            assert orientation == expected, damaged[at - 8:at + 60]
    assert read > 100


def pillow_orientation(encoded: bytes) -> int | None:
    """Return the orientation by Pillow, None if it cannot read the file."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                return image.getexif().get(0x0112)
        except Exception:      # Pillow raises almost anything
            return None
