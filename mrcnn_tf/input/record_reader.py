"""Read records from shards outside of a graph: their positions in the files, and their decoded content.

n objects of an image. For each record, a TFRecord file holds its length (8 bytes), the checksum of the length (4), the
record, and its checksum (4).
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from mrcnn_tf.files import open_regular
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import decoding, records
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.tuning import untuned

_HEAD, _TAIL = 12, 4     # bytes around a record
_SIGNATURES = {b'\xff\xd8\xff': 'jpeg', b'\x89PNG': 'png'}
_OURS = {
    **dict.fromkeys(('image/encoded', 'image/format', 'image/filename', 'image/source_id', 'image/key/sha256',
                     'image/dtype', 'image/split', 'image/city', 'image/object/class/text', 'image/object/mask'),
                    'bytes_list'),
    **dict.fromkeys(('image/id', 'image/height', 'image/width', 'image/channels', *(f'image/object/{name}' for name in (
        'class/label', 'is_crowd', 'annotation_id', 'difficult', 'truncated', 'has_mask'))), 'int64_list'),
    **dict.fromkeys(('image/object/box', 'image/object/area', 'image/proposal/box', 'image/proposal/score',
                     *(f'image/object/bbox/{side}' for side in records.SIDES)), 'float_list')}


class RecordError(ValueError):
    """A shard or record cannot be used; the message is one line: the file, which record, what to do."""


@dataclass(frozen=True)
class Place:
    """The position of a record in a shard, without its checksums."""
    file: str
    number: int      # in its file, from 0
    start: int       # first byte in the file
    length: int      # bytes


def places(manifest: str | os.PathLike[str]) -> Iterator[tuple[Place, bytes]]:
    """Yield each record of a set, in order, with its place; verifies the checksums.

    Raises:
        ManifestError: the manifest cannot be used.
        RecordError: a damaged shard.
    """
    for file in Manifest.read(manifest).shard_paths(manifest):
        start = 0
        for number, serialized in records_of(file):
            yield Place(file, number, start + _HEAD, len(serialized)), serialized
            start += _HEAD + len(serialized) + _TAIL


def records_of(file: str) -> Iterator[tuple[int, bytes]]:
    """Each record of a shard with its number, from 0; checksums are compared on the way.

    Raises:
        RecordError: a damaged shard, or none.
    """
    number = 0
    try:
        for serialized in untuned(tf.data.TFRecordDataset(file)).as_numpy_iterator():
            yield number, serialized
            number += 1
    except tf.errors.OpError as error:
        raise RecordError(f'{file}: record {number} is damaged ({error_line(error)}); copy the shard again or '
                          'convert the data again') from None


def read(place: Place) -> bytes:
    """Return the serialized record at a place.

    Raises:
        OSError: the file is missing.
        RecordError: the file has become shorter.
    """
    with open_regular(place.file) as stream:
        stream.seek(place.start)
        serialized = stream.read(place.length)
    if len(serialized) < place.length:
        raise RecordError(f'{place.file}: record {place.number} is truncated; copy the shard again or convert the data '
                          'again')
    return serialized


def names(serialized: bytes, origin: str = 'record') -> tuple[str, str]:
    """Return `image/source_id` and `image/filename` of a record, '' if it lacks them.

    Args:
        serialized: the record.
        origin: name of the record in error messages.

    Raises:
        RecordError: not a record.
    """
    features = _Features(serialized, origin)
    return _text(features.one('image/source_id', b'')), _text(features.one('image/filename', b''))


def decode(serialized: bytes, origin: str = 'record') -> records.Annotated:
    """Return the content of a record, written by this project or by Model Garden.

    Missing features get the defaults of `records.parse`; unknown features are kept in `extra`. `records.encode` of the
    result gives a record of this project back byte for byte.

    Args:
        serialized: the record.
        origin: name of the record in error messages.

    Raises:
        RecordError: not a record; image bytes, size or labels are missing; features differ in length or have a wrong
            type.
    """
    features = _Features(serialized, origin)
    encoded, height, width = features.one('image/encoded'), features.one('image/height'), features.one('image/width')
    labels = features.all('image/object/class/label')
    boxes = _boxes(features, len(labels), height, width)
    columns = zip(
        boxes.tolist(), labels, map(_text, features.column('class/text', [b''] * len(labels))),
        features.column('area', np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).tolist()),
        map(bool, features.column('is_crowd', [0] * len(labels))),
        features.column('annotation_id', list(range(1, len(labels) + 1))),
        *(features.column(name, [None] * len(labels)) for name in ('mask', 'difficult', 'truncated')),
        features.column('has_mask', [1] * len(labels)), strict=True)
    return records.Annotated(
        encoded=encoded, format=_format(encoded, features), filename=_text(features.one('image/filename', b'')),
        source_id=_text(features.one('image/source_id', b'')), image_id=_image_id(features, serialized), height=height,
        width=width, objects=[_object(*column) for column in columns],
        channels=next(iter(features.all('image/channels')), None), dtype=_text(features.one('image/dtype', b'')),
        split=_text(features.one('image/split', b'')), city=_text(features.one('image/city', b'')),
        proposals=_proposals(features), extra={k: v for k, v in features.by_name.items() if k not in _OURS})


def pixels(example: records.Annotated, rule: decoding.Rule) -> np.ndarray:
    """Return the image of a record as training decodes it: uint8 [height, width, 3].

    Raises:
        RecordError: the image cannot be decoded, or the rule refuses it.
    """
    try:
        reason = decoding.refusal(example.encoded, rule).numpy().decode()
        if reason:
            raise RecordError(f'image {example.source_id}: {reason}')
        decoded = decoding.decode(example.encoded, then=lambda pixels: pixels)
    except tf.errors.OpError as error:
        raise RecordError(f'image {example.source_id}: cannot be decoded ({error_line(error)}); convert the data again'
                          ) from None
    return np.clip(np.asarray(decoded), 0, 255).astype(np.uint8)


def _object(box: list[float], *rest: Any) -> records.ObjectAnnotation:
    y1, x1, y2, x2 = box
    *known, difficult, truncated, has_mask = rest
    flags = [None if flag is None else bool(flag) for flag in (has_mask, difficult, truncated)]
    return records.ObjectAnnotation((y1, x1, y2, x2), *known, *flags)


class _Features:
    """The features of a record by name, with checks of their types and lengths."""

    def __init__(self, serialized: bytes, origin: str) -> None:
        try:
            self.by_name: dict[str, Any] = dict(tf.train.Example.FromString(serialized).features.feature)
        except DecodeError as error:
            raise RecordError(f'{origin}: not an Example ({error_line(error)}); convert the data again') from None
        self.origin = origin

    def all(self, key: str) -> list[Any]:
        feature = self.by_name.get(key)
        kind = feature.WhichOneof('kind') if feature is not None else None
        if kind is None:
            return []
        if kind != _OURS[key]:
            raise RecordError(f'{self.origin}: {key} is a {kind}, expected a {_OURS[key]}; convert the data again')
        return list(getattr(feature, kind).value)

    def one(self, key: str, default: Any = None) -> Any:
        values = self.all(key) or ([] if default is None else [default])
        if len(values) != 1:
            raise RecordError(f'{self.origin}: {key} holds {len(values)} values, expected one; convert the data again')
        return values[0]

    def column(self, name: str, default: list[Any]) -> list[Any]:
        """Return a feature of the objects, or the default if the record lacks it."""
        values = self.all(f'image/object/{name}') or default
        if len(values) != len(default):
            raise RecordError(f'{self.origin}: {name} of {len(values)} objects, labels of {len(default)}; '
                              'convert the data again')
        return values


def _boxes(features: _Features, count: int, height: int, width: int) -> np.ndarray:
    """Return the boxes, float32 [n, 4], px."""
    normalized = [features.column(f'bbox/{side}', [0.0] * count) for side in records.SIDES]
    exact = features.all('image/object/box')
    if exact and len(exact) != 4 * count:
        raise RecordError(f'{features.origin}: {len(exact)} numbers in image/object/box for {count} objects; '
                          'convert the data again')
    if exact or not count:
        return np.array(exact, np.float32).reshape(-1, 4)
    return np.array(normalized, np.float32).T * np.array([height, width] * 2, np.float32)


def _proposals(features: _Features) -> records.Proposals | None:
    if 'image/proposal/box' not in features.by_name:
        return None
    boxes, scores = features.all('image/proposal/box'), features.all('image/proposal/score')
    if len(boxes) != 4 * len(scores):
        raise RecordError(f'{features.origin}: {len(boxes)} numbers in image/proposal/box for {len(scores)} scores; '
                          'attach the proposals again')
    return records.Proposals(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32))


def _image_id(features: _Features, serialized: bytes) -> int:
    given = features.all('image/id')
    return given[0] if given else int(records.parse(tf.constant(serialized), with_masks=False)['image_id'])


def _format(encoded: bytes, features: _Features) -> str:
    """Return the format by the signature of the bytes, because Model Garden always writes 'jpg'."""
    return next((name for signature, name in _SIGNATURES.items() if encoded.startswith(signature)),
                _text(features.one('image/format', b'')))


def _text(value: bytes) -> str:
    return value.decode('utf-8', 'backslashreplace')
