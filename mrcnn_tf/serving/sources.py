"""Images to predict on: paths, bytes of files, arrays and PIL images.

A PIL image is written as a PNG in memory, an array only for a model that takes bytes of files, such as a SavedModel. So
one rule (size limit, EXIF) serves all of them. H, W: size of an image in px.
"""
from __future__ import annotations

import io
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from mrcnn_tf import files
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import decoding

Source = str | os.PathLike[str] | bytes | np.ndarray | Image.Image

_DAMAGED = 'the file is damaged or cut; copy it again, or save the image anew'
_EXPECTED = 'expected uint8 [height, width, 3], RGB 0..255, or [height, width], gray'
_PNG_MODES = ('1', 'L', 'LA', 'I;16', 'I;16B', 'P', 'RGB', 'RGBA')
_ORIENTATION = 0x0112    # EXIF


class InferenceError(ValueError):
    """A model or an image that cannot be used; the message is one line: the file, what is wrong, the remedy."""


class Encoded:
    """A JPEG or PNG file, or pixels that can be written as one.

    Attributes:
        name: what messages call the image.
        pixels: uint8 [H, W, 1 or 3] if the image is not a file.
    """

    def __init__(self, name: str, content: bytes | None = None, pixels: np.ndarray | None = None) -> None:
        self.name, self.pixels, self._content = name, pixels, content

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        if self._content is None:
            self._content = tf.io.encode_png(self.pixels, compression=0).numpy()    # faster than PIL's
        return self._content


def encode(image: Source, name: str = 'image') -> Encoded:
    """Return an image as a file. Its bytes may be invalid if they are those of a path or were given.

    Args:
        image: path, bytes of a JPEG or PNG file, uint8 [H, W, 3] (RGB) or [H, W] (gray), or PIL image.
        name: what messages call an image that is not a path.

    Raises:
        InferenceError: a file cannot be read; an array has another type or shape; a PIL image is damaged or has a mode
            without 8 or 16 bits.
    """
    if isinstance(image, str | os.PathLike):
        return Encoded(os.fspath(image), _read(image))
    if isinstance(image, bytes):
        return Encoded(name, _not_empty(name, image))
    if isinstance(image, np.ndarray):
        _check_array(image, name)
        return Encoded(name, pixels=image if image.ndim == 3 else image[..., None])
    if isinstance(image, Image.Image):
        return Encoded(name, _png(image, name))
    raise InferenceError(f'{name}: got {type(image).__name__}; expected a path, the bytes of a JPEG or PNG file, a '
                         'uint8 array or a PIL image')


def decode(encoded: Encoded, rule: decoding.Rule) -> tf.Tensor:
    """Return the pixels of an image as a model with this rule sees them, RGB [H, W, 3].

    Returns:
        uint8, or float32 0..255 for an image of 16 bits.

    Raises:
        InferenceError: it is neither JPEG nor PNG, it is damaged, or `rule` refuses it.
    """
    refuse(encoded, rule)
    if encoded.pixels is not None:
        return tf.constant(np.broadcast_to(encoded.pixels, [*encoded.pixels.shape[:2], 3]))
    try:
        return decoding.decode(tf.constant(encoded.content), os.fsencode(encoded.name), rule,
                               then=lambda pixels: pixels)
    except tf.errors.InvalidArgumentError:
        raise InferenceError(f'{encoded.name}: {_DAMAGED}') from None


def refuse(encoded: Encoded, rule: decoding.Rule) -> None:
    """Raise InferenceError for an image that is not decoded, by its header."""
    if encoded.pixels is not None and encoded.pixels[..., 0].size <= (rule.max_pixels or float('inf')):
        return
    try:
        reason = decoding.refusal(tf.constant(encoded.content), rule).numpy().decode()
    except tf.errors.InvalidArgumentError:
        reason = _DAMAGED
    if reason:
        raise InferenceError(f'{encoded.name}: {reason}')


def read_image(image: Source, rule: decoding.Rule = decoding.DEFAULT) -> np.ndarray:
    """Return the pixels of an image as a model with this rule sees them: RGB uint8 [H, W, 3].

    Images of 16 bits are converted to 8.

    Raises:
        InferenceError: as `encode` and `decode`.
    """
    pixels = decode(encode(image), rule).numpy()
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return _not_empty(os.fspath(path), files.read_bytes(path))
    except OSError as error:
        raise InferenceError(f'{path}: {error.strerror}; give an image file that can be read') from None


def _not_empty(name: str, content: bytes) -> bytes:
    if not content:
        raise InferenceError(f'{name}: the file is empty; copy it again')
    return content


def _check_array(image: np.ndarray, name: str) -> None:
    """Raise InferenceError unless the array is an RGB or gray image of bytes."""
    if image.dtype == np.uint8 and image.size and (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        return
    remedy = ''
    if image.ndim == 4:
        remedy = '; give the images of a batch as a list: list(images)'
    elif image.ndim == 3 and image.shape[2] not in (1, 3, 4) and image.shape[0] == 3:
        remedy = '; move the channels to the end: image.transpose(1, 2, 0)'
    elif image.ndim == 3 and image.shape[2] == 4:
        remedy = '; leave out the alpha channel: image[..., :3]'
    elif np.issubdtype(image.dtype, np.floating):
        remedy = "; convert values of 0..1 with (255 * image).round().astype('uint8')"
    raise InferenceError(f'{name}: {image.dtype} array of shape {list(image.shape)}; {_EXPECTED}{remedy}')


def _png(image: Image.Image, name: str) -> bytes:
    """Return a PIL image as an uncompressed PNG, with its EXIF orientation and no other metadata."""
    if image.mode in ('F', 'I'):
        raise InferenceError(f'{name}: PIL image of mode {image.mode}; convert it to 8 bits a channel')
    stream, exif = io.BytesIO(), Image.Exif()
    try:
        image.load()
        if _ORIENTATION in image.getexif():
            exif[_ORIENTATION] = image.getexif()[_ORIENTATION]
        converted = image if image.mode in _PNG_MODES else image.convert('RGB')
        converted.save(stream, 'PNG', compress_level=0, exif=exif, icc_profile=None)
    except (OSError, SyntaxError, ValueError, AttributeError, AssertionError) as error:
        # PIL raises a SyntaxError for a damaged PNG, and one of the last three for a closed file.
        raise InferenceError(f'{name}: the PIL image cannot be read ({error_line(error)}); open the file anew'
                             ) from None
    return stream.getvalue()
