"""Image files as they come: which of them TensorFlow will be able to decode, found out before training.

A photograph may ask viewers to turn it (EXIF orientation). TensorFlow does not; most annotation tools do, and then its
boxes are of the turned picture.
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

from data_tools.incidents import Unusable
from mrcnn_tf import files

# MPO: what many cameras write, a JPEG with further pictures behind the first.
_FORMATS = ('JPEG', 'MPO', 'PNG')
_ORIENTATION = 0x0112    # EXIF
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
_MAY_ORIENT_PNG = (b'eXIf', b'Raw profile type exif', b'XML:com.adobe.xmp')    # chunk, or keyword of one with text
_PNG_END = b'\0\0\0\0IEND\xaeB`\x82'
_EXACT_AS_PNG = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')


class ImageFile(NamedTuple):
    """A file that decodes."""
    data: bytes
    format: str            # 'jpeg' or 'png'
    height: int            # px, as stored: an EXIF orientation is not applied, as tf.io does not apply it
    width: int
    channels: int          # as stored: 1 grey, 2 with transparency, 3 colour, 4 with transparency or CMYK
    dtype: str             # 'uint8' or 'uint16'
    orientation: int = 1   # EXIF's; 1 is upright

    def turned_size(self) -> tuple[int, int]:
        """Height and width as a viewer shows it, which heeds the orientation."""
        return (self.width, self.height) if self.orientation in _QUARTERS else (self.height, self.width)


def read(path: pathlib.Path) -> ImageFile:
    """Reads a JPEG or PNG and decodes it whole.

    Raises:
        Unusable: missing, unreadable or corrupt file, another format.
    """
    return check(_read_bytes(path), str(path))


def check(data: bytes, name: str) -> ImageFile:
    """Decodes the bytes of a file whole; `name` is what messages call it.

    Raises:
        Unusable: corrupt, another format.
    """
    with _decoding(name), Image.open(io.BytesIO(data)) as image:
        if image.format not in _FORMATS:
            raise Unusable('unsupported image format', f'{name} is {image.format}; JPEG and PNG can be read')
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
def _decoding(name: str) -> Iterator[None]:
    """Pillow's decoders raise almost anything: all of it is a corrupt image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # Pillow's, of tags that do not matter here
            yield
    except (Unusable, MemoryError):
        raise
    except Exception as error:
        raise Unusable('corrupt image', f'{name}: {_one_line(error)}') from None


def _jpeg(image: Image.Image, data: bytes) -> ImageFile:
    _check_end(_jpeg_ends(data))
    height, width, channels = image.height, image.width, _CHANNELS_OF_MODE[image.mode]
    # At an eighth of its size, and grey: all of the file is read as for the whole, only the pixels are not worked out.
    image.draft('L' if image.mode == 'RGB' else image.mode, (1, 1))
    image.load()
    return ImageFile(data, 'jpeg', height, width, channels, 'uint8', _orientation(image))


def _png(image: Image.Image, data: bytes) -> ImageFile:
    _check_end(_PNG_END in data)
    image.verify()      # checksums, which decoding leaves out in part
    try:
        tf.io.decode_png(tf.constant(data))      # stricter than Pillow with a stream in disorder
    except tf.errors.OpError:
        raise ValueError('its pixels cannot be decoded') from None
    channels, dtype = _of_png(data)
    return ImageFile(data, 'png', image.height, image.width, channels, dtype, _orientation_of_png(data))


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


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:      # a damaged EXIF block says nothing, to viewers neither
        return 1
    return value if value in _TURNS else 1


def _orientation_of_png(data: bytes) -> int:
    # Pillow decodes all of a PNG to look for what few of them have, since it may stand behind the pixels.
    if not any(mark in data for mark in _MAY_ORIENT_PNG):
        return 1
    with Image.open(io.BytesIO(data)) as image:
        return _orientation(image)


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return files.read_bytes(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Unusable('missing image file', str(path)) from None
    except OSError as error:
        raise Unusable('unreadable image file', f'{path}: {error.strerror}') from None


def _one_line(error: BaseException) -> str:
    # Pillow tells where in the memory the bytes lie, which is different in every run.
    text = re.sub(r' <[^<>]* at 0x[0-9a-f]+>', '', str(error))
    return ' '.join(text.split()) or type(error).__name__
