"""Read image files and check that TensorFlow will be able to decode them, before training.

Viewers and most annotation tools rotate a photograph by its EXIF orientation, TensorFlow does not; then the boxes are
for the rotated image. Files of other formats than JPEG and PNG can be stored as PNGs with the same values.
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

from data_tools.issues import InvalidDataError
from mrcnn_tf import files
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import decoding

TOO_LARGE = 'image too large'
UNSUPPORTED = 'unsupported image format'
TRANSCODABLE = 'image format that needs --transcode'

# MPO: a JPEG with further images behind the first, which many cameras write.
_FORMATS = ('JPEG', 'MPO', 'PNG')
_ORIENTATION = 0x0112    # EXIF, and TIFF
# By EXIF orientation; 1 is upright.
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}
_QUARTERS = (5, 6, 7, 8)    # orientations that exchange height and width
_CHANNELS_OF_MODE = {'L': 1, 'RGB': 3, 'CMYK': 4}
_CHANNELS_OF_PNG = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}    # by the header's colour type; 3 is a palette of colours
# Start of a segment. Within a scan, 0 follows a value of 255; the markers 01 and D0..D8 have no length.
_SEGMENT = re.compile(rb'\xff[^\x00\x01\xd0-\xd8\xff]')
_JPEG_END = 0xd9
_EXIF = (b'Exif\0\0', b'eXIf')    # start of a segment of a JPEG; name of a chunk of a PNG
_TEXTS = (b'tiff:Orientation', b'Raw profile type exif', b'XML:com.adobe.xmp')    # in XMP; keywords of chunks of a PNG
_PNG_END = b'\0\0\0\0IEND\xaeB`\x82'
_EXACT_AS_PNG = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')
_SAME_IN = {'RGBX': 'RGB', 'PA': 'RGBA'}     # modes that PNG does not have: one with the same colours
_NUMERIC = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')    # gray, more than 8 bit
_BITS, _PHOTOMETRIC, _EXTRA_SAMPLES = 258, 262, 338            # tags of a TIFF
_WHITE_IS_ZERO, _PREMULTIPLIED = 0, 1


class ImageFile(NamedTuple):
    """An image file that can be decoded."""
    data: bytes
    format: str            # 'jpeg' or 'png'
    height: int            # px, as stored: the EXIF orientation is not applied
    width: int
    channels: int          # as stored: 1 gray, 2 gray and alpha, 3 color, 4 color and alpha or CMYK
    dtype: str             # 'uint8' or 'uint16'
    orientation: int = 1   # of EXIF; 1 is upright
    other_orientation: int = 1     # of XMP or a text, if EXIF has none; viewers ignore it
    transcoded: str = ''   # the original format, if `data` is a PNG with the same values
    pictures: int = 1      # in the file: animated PNG, MPO; the first is read

    def turned_size(self) -> tuple[int, int]:
        """Return height and width as a viewer shows the image, rotated by its orientation."""
        return (self.width, self.height) if self.orientation in _QUARTERS else (self.height, self.width)


def read(path: pathlib.Path, max_pixels: int | None = None, transcode: bool = False) -> ImageFile:
    """Read an image file and decode it completely; see `check`.

    Raises:
        InvalidDataError: the file is missing or unreadable, and what `check` raises.
    """
    return check(_read_bytes(path), str(path), max_pixels, transcode)


def check(data: bytes, name: str, max_pixels: int | None = None, transcode: bool = False) -> ImageFile:
    """Decode the bytes of an image file completely.

    Args:
        data: the bytes.
        name: of the file, for messages.
        max_pixels: a larger image is refused by its header, before it is decoded; None: Pillow's own limit holds.
        transcode: store other formats as PNG, if a PNG can hold the same values.

    Raises:
        InvalidDataError: the image is corrupt, too large, or of another format.
    """
    if not data:
        raise InvalidDataError('corrupt image', f'{name}: the file is empty; copy it again')
    with _decoding(name, max_pixels), Image.open(io.BytesIO(data)) as image:
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise InvalidDataError(
                TOO_LARGE, f'{name}: {image.width} px wide and {image.height} px high, which is '
                           f'{image.width * image.height} pixels; make it smaller, or raise --max-pixels, which is '
                           f'{max_pixels}')
        if image.format not in _FORMATS:
            return _transcoded(image, name, transcode)
        pictures = getattr(image, 'n_frames', 1)      # JPEGs do not have it
        file = _png(image, data) if image.format == 'PNG' else _jpeg(image, data)
        return file._replace(pictures=pictures)


def pixels(file: ImageFile, name: str) -> np.ndarray:
    """Return the values as stored, [height, width] or [height, width, channels]; for a palette, its indices.

    Colors of 16 bit are reduced to 8 bit; `ImageFile.dtype` has the stored type.

    Raises:
        InvalidDataError: Pillow cannot decode an image that TensorFlow can.
    """
    with _decoding(name), Image.open(io.BytesIO(file.data)) as image:
        return np.asarray(image)


def turn(file: ImageFile, name: str) -> ImageFile:
    """Return the image rotated by its orientation, with exactly the same pixels, as a PNG.

    A JPEG does not stay a JPEG: encoding it again would change its pixels.

    Raises:
        InvalidDataError: the image is CMYK or has colors of 16 bit, which Pillow cannot write.
    """
    with _decoding(name), Image.open(io.BytesIO(file.data)) as image:
        if image.mode not in _EXACT_AS_PNG or (file.dtype == 'uint16' and file.channels > 1):
            raise InvalidDataError('image cannot be turned', f'{name}: {image.mode} of {file.dtype} cannot be '
                                                             'written as PNG; store it upright')
        turned = image.transpose(_ROTATIONS[file.orientation])
    stream = io.BytesIO()
    turned.info.pop('exif', None)
    turned.save(stream, 'PNG', compress_level=1, exif=b'')
    return check(stream.getvalue(), name)


@contextlib.contextmanager
def _decoding(name: str, max_pixels: int | None = None) -> Iterator[None]:
    """Turn any exception of Pillow's decoders into 'corrupt image'; `max_pixels` replaces Pillow's own limit."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = limit if max_pixels is None else None
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # of Pillow, about tags that do not matter here
            yield
    except (InvalidDataError, MemoryError):
        raise
    except Exception as error:
        raise InvalidDataError('corrupt image', f'{name}: {_reason(error)}') from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _jpeg(image: Image.Image, data: bytes) -> ImageFile:
    _check_end(_jpeg_ends(data))
    height, width, channels = image.height, image.width, _CHANNELS_OF_MODE[image.mode]
    # Draft mode, an eighth of the size and gray: the whole file is read, and most of the pixels need not be computed.
    image.draft('L' if image.mode == 'RGB' else image.mode, (1, 1))
    image.load()
    return ImageFile(data, 'jpeg', height, width, channels, 'uint8', *_orientations(data))


def _png(image: Image.Image, data: bytes) -> ImageFile:
    _check_end(_PNG_END in data)
    image.verify()      # checksums, some of which decoding does not compare
    try:
        tf.io.decode_png(tf.constant(data))      # stricter than Pillow about damaged streams
    except tf.errors.OpError:
        raise ValueError('its pixels cannot be decoded') from None
    channels, dtype = _of_png(data)
    return ImageFile(data, 'png', image.height, image.width, channels, dtype, *_orientations(data))


def _transcoded(image: Image.Image, name: str, wanted: bool) -> ImageFile:
    """Return a PNG with the stored values of the first image of a file of another format."""
    kind, orientation = image.format, _orientation(image)
    exact, note = _exact(image, name)
    if not wanted:
        raise InvalidDataError(TRANSCODABLE, f'{name} is {kind}; give --transcode to store it as a PNG without loss')
    if kind == 'TIFF' and orientation != 1:     # Pillow rotates only TIFF when it loads: undo it
        exact = exact.transpose(_ROTATIONS[{6: 8, 8: 6}.get(orientation, orientation)])
    stream = io.BytesIO()
    exact.info.pop('exif', None)
    exact.save(stream, 'PNG', compress_level=1, exif=b'', icc_profile=None)
    return check(stream.getvalue(), name)._replace(orientation=orientation, transcoded=f'{kind}{note}')


def _exact(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """Return the image in a mode of PNG with the same values, and a note; raises InvalidDataError if there is none."""
    tags = getattr(image, 'tag_v2', {})
    note = ', the first of several images' if getattr(image, 'is_animated', False) else ''
    if tags.get(_EXTRA_SAMPLES, (0,))[0] == _PREMULTIPLIED:
        raise _inexact(image, name, 'its colors are multiplied by their alpha')
    image.load()
    if image.mode in _NUMERIC:
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise _inexact(image, name, 'its white is 0')
        values = _whole_numbers(image, name)
        return Image.fromarray(values), f', {image.mode} as {values.dtype}{note}'
    if max(tags.get(_BITS, (8,))) > 8:
        raise _inexact(image, name, 'its colors have more than 8 bit, of which Pillow reads 8')
    mode = _SAME_IN.get(image.mode, image.mode)
    if mode not in _EXACT_AS_PNG:
        raise _inexact(image, name, f'PNG has no {mode}')
    extra = len(tags.get(_EXTRA_SAMPLES, ())) - (mode == 'RGBA')
    return image if mode == image.mode else image.convert(mode), f'{", without its extra channels" * (extra > 0)}{note}'


def _whole_numbers(image: Image.Image, name: str) -> np.ndarray:
    """Return [height, width] as uint16; numbers of 32 bit, whose range is not known, as uint8 if none is above 255."""
    values = np.asarray(image)
    if values.dtype.itemsize > 2:
        if not ((values >= 0) & (values <= 65535) & (values == np.floor(values))).all():
            raise _inexact(image, name, f'its values, from {np.min(values):g} to {np.max(values):g}, are not all whole '
                                        'numbers from 0 to 65535')
        if values.max(initial=0) <= 255:
            return values.astype(np.uint8)
    return values.astype(np.uint16)


def _inexact(image: Image.Image, name: str, why: str) -> InvalidDataError:
    return InvalidDataError(UNSUPPORTED, f'{name} is {image.format} and cannot become a PNG without loss: {why}; '
                                         'convert it to PNG or JPEG yourself')


def _check_end(complete: bool) -> None:
    """Raise ValueError if the end marker is missing: Pillow accepts that, TensorFlow does not."""
    if not complete:
        raise ValueError('it is cut off: its end marker is missing')


def _jpeg_ends(data: bytes) -> bool:
    """Return whether the end marker comes after the last segment."""
    at = 2
    while match := _SEGMENT.search(data, at):
        if data[match.start() + 1] == _JPEG_END:
            return True
        at = match.start() + 2 + int.from_bytes(data[match.end():match.end() + 2], 'big')
    return False


def _of_png(data: bytes) -> tuple[int, str]:
    """Return channels and dtype from the header: Pillow reads colors of 16 bit as 8 bit."""
    if data[12:16] != b'IHDR':
        raise ValueError('its header is not the first chunk')
    return _CHANNELS_OF_PNG[data[25]], 'uint16' if data[24] == 16 else 'uint8'


def _orientations(data: bytes) -> tuple[int, int]:
    """Return the EXIF orientation of a JPEG or PNG, read as prediction and serving do, and any other orientation."""
    orientation = int(decoding.orientation(data)) if any(mark in data for mark in _EXIF) else 1
    if orientation != 1 or not any(mark in data for mark in _TEXTS):
        return orientation, 1
    with Image.open(io.BytesIO(data)) as image:
        return 1, _orientation(image)


def _orientation(image: Image.Image) -> int:
    """Return the orientation that Pillow finds, in EXIF or elsewhere."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:      # viewers ignore a damaged EXIF block too
        return 1
    return value if value in _ROTATIONS else 1


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return files.read_bytes(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InvalidDataError('missing image file', str(path)) from None
    except OSError as error:
        raise InvalidDataError('unreadable image file', f'{path}: {error.strerror}') from None


def _reason(error: Exception) -> str:
    """Return the message without the addresses in memory that Pillow names: they differ from run to run."""
    return re.sub(r' <[^<>]* at 0x[0-9a-f]+>', '', error_line(error))
