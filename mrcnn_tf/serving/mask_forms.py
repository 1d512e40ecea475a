"""The forms in which an exported model returns masks: computed in its graph, decoded here by numpy.

D detections of an image, m cells a side of a predicted mask (28), H x W the image in px.
"""
from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf.ops import paste_tensors
from mrcnn_tf.ops.paste_tensors import PastedMask

_THRESHOLD = .5


class Found(NamedTuple):
    """The masks of an image, float32 [D, m, m], probabilities; boxes float32 [D, 4] px; valid bool [D]; size int32 [2];
    the dialect of pasting.
    """
    masks: tf.Tensor
    boxes: tf.Tensor
    valid: tf.Tensor
    size: tf.Tensor
    dialect: str


class MaskForm(NamedTuple):
    """A form of masks.

    Attributes:
        suffix: of the output's name. TF Serving's REST API encodes a string as base64 if its name ends in `_bytes`.
        spec: of the output of an image, by D and m.
        encode: computes it in a graph.
        decode: of valid detections, to float32 or bool [n, m, m] over the boxes, or bool [n, H, W].
    """
    suffix: str
    spec: Callable[[int, int], tf.TensorSpec]
    encode: Callable[[Found], tf.Tensor]
    decode: Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def _to_bits(found: Found) -> tf.Tensor:
    """Return whether each cell reaches the threshold, packed by eight, the first in the highest bit: uint8 [D, n]."""
    reached = tf.reshape(tf.cast(found.masks >= _THRESHOLD, tf.int32), [found.masks.shape[0], -1])
    reached = tf.where(found.valid[:, None], reached, 0)
    cells = reached.shape[1]
    eights = tf.reshape(tf.pad(reached, [[0, 0], [0, -cells % 8]]), [-1, -(-cells // 8), 8])
    return tf.cast(tf.reduce_sum(eights * tf.constant([128, 64, 32, 16, 8, 4, 2, 1]), axis=2), tf.uint8)


def _from_bits(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    side = int(np.sqrt(8 * values.shape[1]))
    return np.unpackbits(values, axis=1)[:, :side * side].reshape(-1, side, side).astype(np.float32)


def _to_uint8(found: Found) -> tf.Tensor:
    """Return 255 times the probabilities, rounded: those of at least 0.5 become 128 or more."""
    return tf.cast(tf.round(found.masks * 255.), tf.uint8)


def _of_each(found: Found, encode: Callable[[tuple[tf.Tensor, tf.Tensor]], tf.Tensor]) -> tf.Tensor:
    """Return a string for each valid detection from its mask and box, string [D]; '' for the others."""
    count = tf.reduce_sum(tf.cast(found.valid, tf.int32))                     # the valid ones come first
    texts = tf.map_fn(encode, (found.masks[:count], found.boxes[:count]),
                      fn_output_signature=tf.TensorSpec([], tf.string))
    limit = found.masks.shape[0]
    return tf.ensure_shape(tf.pad(texts, [[0, limit - count]], constant_values=''), [limit])


def _of_each_pasted(found: Found, encode: Callable[[PastedMask], tf.Tensor]) -> tf.Tensor:
    return _of_each(found, lambda each: encode(paste_tensors.paste(*each, found.size, found.dialect, _THRESHOLD)))


def _to_png(found: Found) -> tf.Tensor:
    masks = _to_uint8(found)[..., None]
    return _of_each(found._replace(masks=masks), lambda each: tf.io.encode_png(each[0]))


def _to_image_png(found: Found) -> tf.Tensor:
    return _of_each_pasted(found, lambda pasted: tf.io.encode_png(255 * paste_tensors.full(pasted)[..., None]))


def _to_rle(found: Found) -> tf.Tensor:
    return _of_each_pasted(found, lambda pasted: paste_tensors.run_length_text(paste_tensors.runs(pasted)))


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(value))) for value in values])


def _from_rle(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    masks = [coco_mask.decode({'size': list(size), 'counts': text}) for text in values]
    return np.stack(masks).astype(bool)


def _strings(limit: int, side: int) -> tf.TensorSpec:
    return tf.TensorSpec([limit], tf.string)


FORMS = {
    'float32': MaskForm('', lambda limit, side: tf.TensorSpec([limit, side, side], tf.float32),
                        lambda found: found.masks, lambda values, size: values),
    'uint8': MaskForm('', lambda limit, side: tf.TensorSpec([limit, side, side], tf.uint8),
                      _to_uint8, lambda values, size: values.astype(np.float32) / 255),
    'bits': MaskForm('_bits', lambda limit, side: tf.TensorSpec([limit, -(-side * side // 8)], tf.uint8),
                     _to_bits, _from_bits),
    'png': MaskForm('_bytes', _strings, _to_png, lambda values, size: _pixels(values).astype(np.float32) / 255),
    'rle': MaskForm('_rle', _strings, _to_rle, _from_rle),
    'image_png': MaskForm('_bytes', _strings, _to_image_png, lambda values, size: _pixels(values) > 0),
}


def decode(form: str, values: np.ndarray, size: tuple[int, int]) -> Any:
    """Return the masks that an exported model gave in a form.

    Args:
        form: a key of `FORMS`, `masks` in the SavedModel's `assets.extra/mrcnn.json`.
        values: of the valid detections of an image, [n, ...].
        size: height and width of the image, px.

    Returns:
        float32 [n, m, m], probabilities over the boxes; with 'rle' and 'image_png' bool [n, H, W].
    """
    if not len(values):
        return np.zeros([0, *size], bool)
    return FORMS[form].decode(values, size)
