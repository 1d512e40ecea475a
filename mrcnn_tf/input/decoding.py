"""Decode image files in a graph: size and EXIF orientation from the header, pixels, rotation by the orientation.

h, w height and width in px. `encoded` holds the bytes of a file, string [], which may be invalid.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.input.images import as_float
from mrcnn_tf.input.tuning import untuned

UNKNOWN_FORMAT = 'neither a JPEG nor a PNG; convert it to one'

JPEG = b'\xff\xd8\xff'      # first bytes of a file
PNG = b'\x89PNG\r\n\x1a\n'
_PNG_EXIF = b'eXIf'      # name of the chunk
_PNG_HEADER = 25         # bytes from the signature to the depth of a channel
_TIFF = (b'II*\0', b'MM\0*')    # how EXIF begins: least or most significant byte first
_JPEG_EXIF = b'Exif\0\0'
_SEARCHED = 2 ** 20      # bytes of a JPEG, or of a PNG's chunk, that are searched: EXIF comes first; limits the time
_MAX_SEGMENTS = 1000     # of a JPEG before its EXIF
_FILL, _APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xff, 0xe1, 0xda, 0xd9
_WITHOUT_LENGTH = (0x01, *range(0xd0, 0xd9))    # markers
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4

OK, NOT_AN_IMAGE, DAMAGED, TOO_LARGE, TO_BE_TURNED = range(5)     # what `try_decode` says of a file


@dataclass(frozen=True)
class Rule:
    """Which image files are decoded, and whether they are rotated by their EXIF orientation.

    Attributes:
        exif: treatment of a photograph with an EXIF orientation: 'apply' rotates or mirrors it, 'ignore' keeps its
            pixels as stored, 'error' refuses it.
        max_pixels: files with more pixels are refused before they are decoded; None: no limit.
    """
    exif: str = 'ignore'
    max_pixels: int | None = None

    @classmethod
    def of(cls, data: DataConfig) -> Rule:
        """Return the rule of a model for the files that it predicts on."""
        return cls(data.exif, data.max_pixels)


AS_STORED = Rule()       # for records, whose boxes are in px of the image as stored
DEFAULT = Rule.of(DataConfig())


def decode(encoded: tf.Tensor, name: tf.Tensor | str = 'image', rule: Rule = AS_STORED,
           then: Callable[[tf.Tensor], Any] = as_float) -> Any:
    """Return `then` of the pixels of a JPEG or PNG file: 8 or 16 bits, gray, palette or color; drops transparency.

    Args:
        encoded: string [], the bytes of the file.
        name: string [], what an error calls the image.
        rule: which files are refused, and whether photographs are rotated.
        then: called with the pixels [h, w, 3], RGB: uint8, or float32 0..255 of a 16-bit PNG, whose values are divided
            by 257 so that 65535 becomes 255. A graph traces it with both, so it must return the same types. Resizing
            here, before any cast, takes a quarter of the memory.

    Returns:
        What `then` returns; by default float32 [h, w, 3], 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the file is damaged, or `refusal` gives a reason to refuse it.
    """
    reason = refusal(encoded, rule)
    accepted = tf.debugging.Assert(tf.equal(reason, ''), [tf.strings.join([name, ': ', reason])])
    with tf.control_dependencies([accepted]):      # the decoders accept other formats too, and differ in that
        encoded = tf.identity(encoded)
    return _decode_accepted(encoded, rule, then)


def try_decode(encoded: tf.Tensor, rule: Rule, then: Callable[[tf.Tensor], Any], otherwise: Any,
               extract: Callable[[tf.Tensor], tf.Tensor] = tf.identity) -> tuple[tf.Tensor, Any]:
    """Return the status of a file, and `then` of its pixels; no file raises an error.

    Args:
        encoded: string [], the bytes of the file.
        rule: as `decode`.
        then: as `decode`.
        otherwise: the result for a file that is not OK, of the types that `then` returns.
        extract: returns the file in `encoded`, for example one of a tf.train.Example. If it fails, the status is
            DAMAGED.

    Returns:
        int32 []: OK; NOT_AN_IMAGE, neither a JPEG nor a PNG; DAMAGED, TensorFlow cannot decode it; TOO_LARGE, more than
        `rule.max_pixels`; TO_BE_TURNED, `rule.exif` is 'error' and the file has an EXIF orientation. And what `then`
        returns.
    """
    def read(encoded: tf.Tensor) -> tuple[tf.Tensor, Any]:
        file = extract(encoded)
        status = _status(file, rule)
        return status, tf.cond(status == OK, lambda: _decode_accepted(file, rule, then), lambda: otherwise)

    # No operation catches the error of another one. tf.data does: it leaves out elements whose computation fails.
    result = tf.data.Dataset.from_tensors(encoded).map(read).ignore_errors()
    damaged = tf.data.Dataset.from_tensors((tf.constant(DAMAGED), otherwise))
    status, value = untuned(result.concatenate(damaged).take(1)).get_single_element()
    return status, value


def _decode_accepted(encoded: tf.Tensor, rule: Rule, then: Callable[[tf.Tensor], Any]) -> Any:
    """Return `then` of the pixels of a file that the rule accepts."""
    turned = orientation(encoded) if rule.exif == 'apply' else None

    def finish(pixels: tf.Tensor) -> Any:
        return then(pixels if turned is None else turn(pixels, turned))

    return tf.cond(_is_png_of_16_bit(encoded), lambda: finish(_decode_16_bit(encoded)),
                   lambda: finish(_decode_8_bit(encoded)))


def refusal(encoded: tf.Tensor, rule: Rule) -> tf.Tensor:
    """Return the reason to refuse a file, string [], from its header alone; '' if it is accepted.

    Raises:
        tf.errors.InvalidArgumentError: `rule` limits the pixels, and the header of a JPEG is damaged.
    """
    def too_large() -> tf.Tensor:
        if rule.max_pixels is None:
            return tf.constant('')
        size = stored_size(encoded)
        height, width, pixels = tf.unstack(tf.strings.as_string(tf.concat([size, [tf.reduce_prod(size)]], axis=0)))
        text = tf.strings.join([width, ' px wide and ', height, ' px high, which is ', pixels, ' pixels; make it '
                                f'smaller, or raise max_pixels, which is {rule.max_pixels}'])
        return tf.where(tf.reduce_prod(size) > rule.max_pixels, text, '')

    def to_be_turned() -> tf.Tensor:
        if rule.exif != 'error':
            return tf.constant('')
        value = orientation(encoded)
        text = tf.strings.join(['its EXIF says to turn it (orientation ', tf.strings.as_string(value), '); turn its '
                                'pixels, or choose exif=apply or ignore'])
        return tf.where(value == 1, '', text)

    def by_rule() -> tf.Tensor:
        reasons = tf.stack([too_large(), to_be_turned()])
        return tf.strings.reduce_join(tf.boolean_mask(reasons, reasons != ''), separator='; ')

    return tf.cond(_is_png(encoded) | _is_jpeg(encoded), by_rule, lambda: tf.constant(UNKNOWN_FORMAT))


def _status(encoded: tf.Tensor, rule: Rule) -> tf.Tensor:
    """Return the status of a file, int32 [], as far as its header tells: not DAMAGED.

    Raises:
        tf.errors.InvalidArgumentError: `rule` limits the pixels, and the header of a JPEG is damaged.
    """
    def by_rule() -> tf.Tensor:
        status = tf.constant(OK)
        if rule.exif == 'error':
            status = tf.where(orientation(encoded) == 1, status, TO_BE_TURNED)
        if rule.max_pixels is not None:
            status = tf.where(tf.reduce_prod(stored_size(encoded)) > rule.max_pixels, TOO_LARGE, status)
        return status

    return tf.cond(_is_png(encoded) | _is_jpeg(encoded), by_rule, lambda: tf.constant(NOT_AN_IMAGE))


def stored_size(encoded: tf.Tensor) -> tf.Tensor:
    """Return height and width of a JPEG or PNG, int64 [2], from its header, without regard to the EXIF orientation.

    Raises:
        tf.errors.InvalidArgumentError: the header of a JPEG is damaged.
    """
    def of_png() -> tf.Tensor:
        header = _png_header(encoded)
        return tf.stack([_number(header[20:24], True), _number(header[16:20], True)])

    return tf.ensure_shape(tf.cond(
        _is_png(encoded), of_png, lambda: tf.io.extract_jpeg_shape(encoded, output_type=tf.int64)[:2]), [2])


# A tf.function, because eagerly these operations would take longer than decoding the image.
@tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation, int32 [], 1 to 8, from a JPEG's first EXIF segment or a PNG's eXIf chunk.

    Without a valid one, and for bytes that are no image, it is 1 (upright). Orientations in other places (XMP, text
    chunks) are ignored, as in web browsers.
    """
    def of_jpeg() -> tf.Tensor:
        head = _bytes(encoded, _SEARCHED)
        begin, end = _exif_segment(head)
        return _orientation_of_tiff(head[begin:end])

    def of_png() -> tf.Tensor:
        # The chunk may follow the pixels, after thousands of other chunks, so search for its name.
        candidates = tf.strings.split(encoded, _PNG_EXIF)[1:]
        valid = tf.reduce_any(tf.strings.substr(candidates, 0, 4)[:, None] == tf.constant(_TIFF), axis=1)
        first = tf.concat([tf.boolean_mask(candidates, valid), ['']], axis=0)[0]
        return _orientation_of_tiff(_bytes(first, _SEARCHED))

    return tf.case([(_is_jpeg(encoded), of_jpeg), (_is_png(encoded), of_png)], lambda: tf.constant(1))


def turn(pixels: tf.Tensor, value: tf.Tensor | int) -> tf.Tensor:
    """Return the image as viewers show it, [h, w, c] or [w, h, c]; value: the EXIF orientation, int32 [], 1 to 8."""
    def turned() -> tf.Tensor:
        along = tf.cond(tf.greater_equal(value, 5), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        axes = tf.stack([_is_one_of(value, (3, 4, 7, 8)), _is_one_of(value, (2, 3, 6, 7))])
        return tf.reverse(along, tf.boolean_mask([0, 1], axes))

    result = tf.cond(tf.equal(value, 1), lambda: pixels, turned)
    return tf.ensure_shape(result, [None, None, pixels.shape[2]])


def _exif_segment(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return begin and end of the TIFF data in a JPEG's first EXIF segment; equal if there is none.

    head: the first bytes of the file, uint8 [n].
    """
    size = tf.size(head)
    padded = tf.concat([head, tf.zeros([4 + len(_JPEG_EXIF)], tf.uint8)], axis=0)

    def length(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(_number(padded[at + 2:at + 4], True), tf.int32)

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        name = padded[at + 4:at + 4 + len(_JPEG_EXIF)]
        return (padded[at] == _FILL) & (padded[at + 1] == _APP1) & _equal(name, _JPEG_EXIF)

    def is_before(at: tf.Tensor) -> tf.Tensor:
        return (padded[at] == _FILL) & ~is_exif(at) & ~_is_one_of(padded[at + 1], (_START_OF_SCAN, _END_OF_IMAGE))

    def next_segment(at: tf.Tensor) -> tf.Tensor:
        marker = padded[at + 1]
        step = tf.where(marker == _FILL, 1, tf.where(_is_one_of(marker, _WITHOUT_LENGTH), 2, 2 + length(at)))
        return tf.minimum(at + step, size)

    at, = tf.while_loop(is_before, lambda at: [next_segment(at)], [tf.minimum(2, size)],
                        maximum_iterations=_MAX_SEGMENTS)
    begin = at + 4 + len(_JPEG_EXIF)
    return begin, tf.where(is_exif(at), at + 2 + length(at), begin)


def _orientation_of_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """Return the orientation in the first directory of a TIFF, uint8 [n]; int32 [], 1 if it has none."""
    little, big = (_equal(tiff[:4], signature) for signature in _TIFF)
    begin = 2 + _number(tiff[4:8], big)
    entries = tiff[begin:begin + 12 * _number(tiff[begin - 2:begin], big)]
    entries = tf.reshape(entries[:tf.size(entries) // 12 * 12], [-1, 12])    # tag 2, type 2, count 4, value 4 bytes
    tag, kind, count = (_number(entries[:, first:last], big) for first, last in ((0, 2), (2, 4), (4, 8)))
    value = tf.where(kind == _SHORT, _number(entries[:, 8:10], big), _number(entries[:, 8:12], big))
    usable = ((tag == _ORIENTATION) & (count == 1) & ((kind == _SHORT) | (kind == _LONG)) & (value >= 1) & (value <= 8)
              & (little | big))
    return tf.cast(tf.concat([tf.boolean_mask(value, usable), [1]], axis=0)[0], tf.int32)


def _decode_8_bit(encoded: tf.Tensor) -> tf.Tensor:
    # The accurate transform gives the same pixels as Pillow; the default differs by up to 5.
    return tf.cond(_is_png(encoded), lambda: tf.io.decode_png(encoded, channels=3),
                   lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method='INTEGER_ACCURATE'))


def _decode_16_bit(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16), tf.float32) / 257.


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, len(JPEG)), JPEG)


def _is_png(encoded: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, len(PNG)), PNG)


def _is_png_of_16_bit(encoded: tf.Tensor) -> tf.Tensor:
    return _is_png(encoded) & tf.equal(_png_header(encoded)[24], 16)


def _bytes(encoded: tf.Tensor, limit: int) -> tf.Tensor:
    """Return the first bytes of a string, uint8 [n], n at most `limit`."""
    return tf.io.decode_raw(tf.strings.substr(encoded, 0, limit), tf.uint8)


def _png_header(encoded: tf.Tensor) -> tf.Tensor:
    """Return the bytes of a PNG up to its bit depth, uint8 [25]; zeros beyond the end of a truncated file."""
    missing = _PNG_HEADER - tf.minimum(tf.strings.length(encoded), _PNG_HEADER)
    return tf.concat([_bytes(encoded, _PNG_HEADER), tf.zeros([missing], tf.uint8)], axis=0)


def _number(digits: tf.Tensor, big: tf.Tensor | bool) -> tf.Tensor:
    """Return unsigned integers, int64 [...], from bytes [..., n], n at most 4; big: most significant byte first."""
    places = tf.range(tf.shape(digits, tf.int64)[-1])
    shifts = 8 * tf.where(big, places[::-1], places)
    return tf.reduce_sum(tf.bitwise.left_shift(tf.cast(digits, tf.int64), shifts), axis=-1)


def _equal(values: tf.Tensor, expected: bytes) -> tf.Tensor:
    """Return whether bytes, uint8 [n], are the expected ones; bool []."""
    return tf.equal(tf.size(values), len(expected)) & tf.reduce_all(
        values == tf.constant(list(expected), tf.uint8)[:tf.size(values)])


def _is_one_of(value: tf.Tensor | int, values: tuple[int, ...]) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    return tf.reduce_any(value == tf.constant(values, value.dtype))
