"""Image files as they come: which of them TensorFlow will be able to decode, found out before training."""
from __future__ import annotations

import io
import pathlib
from typing import NamedTuple

from PIL import Image

from data_tools.incidents import Unusable

# MPO: what many cameras write, a JPEG with further pictures behind the first.
FORMATS = {'JPEG': 'jpeg', 'MPO': 'jpeg', 'PNG': 'png'}
_ORIENTATION = 0x0112    # EXIF


class ImageFile(NamedTuple):
    """A file that decodes."""
    data: bytes
    format: str      # 'jpeg' or 'png'
    height: int      # px, as stored: an EXIF orientation is not applied, as tf.io does not apply it
    width: int
    rotated: bool    # EXIF asks viewers to turn it by a quarter


def read(path: pathlib.Path) -> ImageFile:
    """Reads a JPEG or PNG and decodes it whole.

    Raises:
        Unusable: missing, unreadable or corrupt file, another format.
    """
    data = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in FORMATS:
                raise Unusable('unsupported image format', f'{path} is {image.format}; JPEG and PNG can be read')
            image.verify()      # checksums, which loading leaves out
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return ImageFile(data, FORMATS[str(image.format)], image.height, image.width,
                             image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8))
    except (Unusable, MemoryError):
        raise
    except Exception as error:      # Pillow's decoders raise almost anything
        raise Unusable('corrupt image', f'{path}: {_one_line(error)}') from None


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Unusable('missing image file', str(path)) from None
    except (OSError, ValueError) as error:      # ValueError: a NUL in the name
        raise Unusable('unreadable image file', f'{path}: {_one_line(error)}') from None


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
