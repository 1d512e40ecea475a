"""Image files as they come: which of them TensorFlow will be able to decode, found out before training.

A photograph may ask viewers to turn it (EXIF orientation). TensorFlow does not; most annotation tools do, and then its
boxes are of the turned picture. Files of other formats than JPEG and PNG can become PNGs that hold the same values.
"""
from __future__ import annotations

import contextlib
import io
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from data_tools.issues import Unusable
from mrcnn_tf import files
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import decoding

TOO_LARGE = 'image too large'
UNSUPPORTED = 'unsupported image format'
TRANSCODABLE = 'image format that needs --transcode'

# MPO: what many cameras write, a JPEG with further pictures behind the first.
_FORMATS = ('JPEG', 'MPO', 'PNG')
_ORIENTATION = 0x0112    # EXIF, and TIFF
# By EXIF's number; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}
_QUARTERS = (5, 6, 7, 8)    # these exchange height and width
_CHANNELS_OF_MODE = {'L': 1, 'RGB': 3, 'CMYK': 4}
_CHANNELS_OF_PNG = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}    # by the header's colour type; 3 is a palette of colours
# Within a scan 0 follows a value of 255; markers 01, D0..D8 stand alone.
_SEGMENT = re.compile(rb'\xff[^\x00\x01\xd0-\xd8\xff]')
_JPEG_END = 0xd9
_EXIF = (b'Exif\0\0', b'eXIf')    # how a segment of a JPEG begins; name of a PNG's chunk
_TEXTS = (b'tiff:Orientation', b'Raw profile type exif', b'XML:com.adobe.xmp')    # XMP, keywords of a PNG's chunks
_PNG_END = b'\0\0\0\0IEND\xaeB`\x82'
_EXACT_AS_PNG = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')
_SAME_IN = {'RGBX': 'RGB', 'PA': 'RGBA'}     # modes that a PNG does not have, by one that holds the same colours
_OF_NUMBERS = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')    # grey, of more than 8 bit
_BITS, _PHOTOMETRIC, _EXTRA_SAMPLES = 258, 262, 338            # tags of a TIFF
_WHITE_IS_ZERO, _PREMULTIPLIED = 0, 1


class ImageFile(NamedTuple):
    """A file that decodes."""
    data: bytes
    format: str            # 'jpeg' or 'png'
    height: int            # px, as stored: an EXIF orientation is not applied, as tf.io does not apply it
    width: int
    channels: int          # as stored: 1 grey, 2 with transparency, 3 colour, 4 with transparency or CMYK
    dtype: str             # 'uint8' or 'uint16'
    orientation: int = 1   # EXIF's; 1 is upright
    elsewhere: int = 1     # what XMP or a text says where EXIF says nothing; viewers do not heed it
    transcoded: str = ''   # what it was, where `data` is a PNG of the same values

    def turned_size(self) -> tuple[int, int]:
        """Height and width as a viewer shows it, which heeds the orientation."""
        return (self.width, self.height) if self.orientation in _QUARTERS else (self.height, self.width)


def read(path: pathlib.Path, max_pixels: int | None = None, transcode: bool = False) -> ImageFile:
    """Reads an image file and decodes it whole; see `check`.

    Raises:
        Unusable: missing or unreadable file, and what `check` raises.
    """
    return check(_read_bytes(path), str(path), max_pixels, transcode)


def check(data: bytes, name: str, max_pixels: int | None = None, transcode: bool = False) -> ImageFile:
    """Decodes the bytes of a file whole.

    Args:
        data: the bytes.
        name: what messages call it.
        max_pixels: a larger image is refused by its header, before it is decoded; None: by Pillow's own limit.
        transcode: make a PNG of other formats, where it holds the same values.

    Raises:
        Unusable: corrupt, too large, another format.
    """
    if not data:
        raise Unusable('corrupt image', f'{name}: the file is empty; copy it again')
    with _decoding(name, max_pixels), Image.open(io.BytesIO(data)) as image:
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise Unusable(TOO_LARGE, f'{name}: {image.width} px wide and {image.height} px high, which is '
                                      f'{image.width * image.height} pixels; make it smaller, or raise --max-pixels, '
                                      f'which is {max_pixels}')
        if image.format not in _FORMATS:
            return _transcoded(image, name, transcode)
        return _png(image, data) if image.format == 'PNG' else _jpeg(image, data)


def pixels(file: ImageFile, name: str) -> np.ndarray:
    """[height, width] or [height, width, channels]: the values as stored, those of a palette as indices.

    Colours of 16 bit come as 8 bit; `check` tells what they are.

    Raises:
        Unusable: Pillow does not decode what TensorFlow does.
    """
    with _decoding(name), Image.open(io.BytesIO(file.data)) as image:
        return np.asarray(image)


def turn(file: ImageFile, name: str) -> ImageFile:
    """The picture as a viewer shows it: exactly the pixels of the file, turned, as a PNG.

    A JPEG is not written as a JPEG again: that would change its pixels.

    Raises:
        Unusable: CMYK, or colours of 16 bit, which cannot be written so.
    """
    with _decoding(name), Image.open(io.BytesIO(file.data)) as image:
        if image.mode not in _EXACT_AS_PNG or (file.dtype == 'uint16' and file.channels > 1):
            raise Unusable('image cannot be turned', f'{name}: {image.mode} of {file.dtype}; store it upright')
        turned = image.transpose(_TURNS[file.orientation])
    stream = io.BytesIO()
    turned.info.pop('exif', None)
    turned.save(stream, 'PNG', compress_level=1, exif=b'')
    return check(stream.getvalue(), name)


@contextlib.contextmanager
def _decoding(name: str, max_pixels: int | None = None) -> Iterator[None]:
    """Pillow's decoders raise almost anything: all of it is a corrupt image. A limit of ours takes the place of its."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = limit if max_pixels is None else None
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # Pillow's, of tags that do not matter here
            yield
    except (Unusable, MemoryError):
        raise
    except Exception as error:
        raise Unusable('corrupt image', f'{name}: {_reason(error)}') from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _jpeg(image: Image.Image, data: bytes) -> ImageFile:
    _check_end(_jpeg_ends(data))
    height, width, channels = image.height, image.width, _CHANNELS_OF_MODE[image.mode]
    # At an eighth of its size, and grey: all of the file is read as for the whole, only the pixels are not worked out.
    image.draft('L' if image.mode == 'RGB' else image.mode, (1, 1))
    image.load()
    return ImageFile(data, 'jpeg', height, width, channels, 'uint8', *_orientations(data))


def _png(image: Image.Image, data: bytes) -> ImageFile:
    _check_end(_PNG_END in data)
    image.verify()      # checksums, which decoding leaves out in part
    try:
        tf.io.decode_png(tf.constant(data))      # stricter than Pillow with a stream in disorder
    except tf.errors.OpError:
        raise ValueError('its pixels cannot be decoded') from None
    channels, dtype = _of_png(data)
    return ImageFile(data, 'png', image.height, image.width, channels, dtype, *_orientations(data))


def _transcoded(image: Image.Image, name: str, wanted: bool) -> ImageFile:
    """A PNG of the values of the first picture of a file of another format, as stored."""
    kind, orientation = image.format, _orientation(image)
    exact, note = _exact(image, name)
    if not wanted:
        raise Unusable(TRANSCODABLE, f'{name} is {kind}; --transcode stores it as a PNG without loss')
    if kind == 'TIFF' and orientation != 1:     # Pillow has turned it, and nothing else
        exact = exact.transpose(_TURNS[{6: 8, 8: 6}.get(orientation, orientation)])
    stream = io.BytesIO()
    exact.info.pop('exif', None)
    exact.save(stream, 'PNG', compress_level=1, exif=b'', icc_profile=None)
    return check(stream.getvalue(), name)._replace(orientation=orientation, transcoded=f'{kind}{note}')


def _exact(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """The picture in a mode that a PNG has, with the same values, and what to note of it; raises Unusable."""
    tags = getattr(image, 'tag_v2', {})
    note = ', the first of several pictures' if getattr(image, 'is_animated', False) else ''
    if tags.get(_EXTRA_SAMPLES, (0,))[0] == _PREMULTIPLIED:
        raise _inexact(image, name, 'its colours are multiplied by their transparency')
    image.load()
    if image.mode in _OF_NUMBERS:
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise _inexact(image, name, 'its white is 0')
        values = _whole_numbers(image, name)
        return Image.fromarray(values), f', {image.mode} as {values.dtype}{note}'
    if max(tags.get(_BITS, (8,))) > 8:
        raise _inexact(image, name, 'its colours have more than 8 bit, of which Pillow reads 8')
    mode = _SAME_IN.get(image.mode, image.mode)
    if mode not in _EXACT_AS_PNG:
        raise _inexact(image, name, f'PNG has no {mode}')
    extra = len(tags.get(_EXTRA_SAMPLES, ())) - (mode == 'RGBA')
    return image if mode == image.mode else image.convert(mode), f'{", without its extra channels" * (extra > 0)}{note}'


def _whole_numbers(image: Image.Image, name: str) -> np.ndarray:
    """[h, w] as uint16; numbers of 32 bit, that have no range of their own, as uint8 where none is above 255."""
    values = np.asarray(image)
    if values.dtype.itemsize > 2:
        if not ((values >= 0) & (values <= 65535) & (values == np.floor(values))).all():
            raise _inexact(image, name, f'its values, from {np.min(values):g} to {np.max(values):g}, are not all whole '
                                        'numbers from 0 to 65535')
        if values.max(initial=0) <= 255:
            return values.astype(np.uint8)
    return values.astype(np.uint16)


def _inexact(image: Image.Image, name: str, why: str) -> Unusable:
    return Unusable(UNSUPPORTED, f'{name} is {image.format} and cannot become a PNG without loss: {why}; store it as a '
                                 'PNG or JPEG as you find right')


def _check_end(found: bool) -> None:
    """Pillow does without the mark of the end, TensorFlow does not."""
    if not found:
        raise ValueError('it breaks off: the mark of its end is missing')


def _jpeg_ends(data: bytes) -> bool:
    """Goes from segment to segment, over the scans between them, to the end."""
    at = 2
    while match := _SEGMENT.search(data, at):
        if data[match.start() + 1] == _JPEG_END:
            return True
        at = match.start() + 2 + int.from_bytes(data[match.end():match.end() + 2], 'big')
    return False


def _of_png(data: bytes) -> tuple[int, str]:
    """Channels and type out of the header: Pillow reads colours of 16 bit as 8."""
    if data[12:16] != b'IHDR':
        raise ValueError('its header is not the first chunk')
    return _CHANNELS_OF_PNG[data[25]], 'uint16' if data[24] == 16 else 'uint8'


def _orientations(data: bytes) -> tuple[int, int]:
    """EXIF's orientation of a JPEG or PNG, by the rule of prediction and serving; and what stands elsewhere."""
    orientation = int(decoding.orientation(data)) if any(mark in data for mark in _EXIF) else 1
    if orientation != 1 or not any(mark in data for mark in _TEXTS):
        return orientation, 1
    with Image.open(io.BytesIO(data)) as image:
        return 1, _orientation(image)


def _orientation(image: Image.Image) -> int:
    """As Pillow finds it, in EXIF or elsewhere."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:      # a damaged EXIF block says nothing, to viewers neither
        return 1
    return value if value in _TURNS else 1


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return files.read_bytes(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Unusable('missing image file', str(path)) from None
    except OSError as error:
        raise Unusable('unreadable image file', f'{path}: {error.strerror}') from None


def _reason(error: Exception) -> str:
    """Return the message without the addresses in memory that Pillow names: they differ from run to run."""
    return re.sub(r' <[^<>]* at 0x[0-9a-f]+>', '', error_line(error))
