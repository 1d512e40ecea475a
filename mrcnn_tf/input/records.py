"""The TFRecord schema of one image: `encode` writes a record, `parse` reads it in a graph.

n objects and m proposals of an image, K classes. Boxes are float32 [y1, x1, y2, x2] in px of the image, continuous
edges; labels are 1..K. The feature keys are those of the TF Object Detection API, so TF Model Garden and this project
read each other's shards. These keys are additions: `image/id`, `image/object/box` and `image/object/annotation_id`,
which `parse` replaces if a record lacks them, and `image/proposal/*`, `image/object/has_mask`, `image/channels`,
`image/dtype`, `image/split` and `image/city`, which are optional.
"""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf.input import mask_png
from mrcnn_tf.input.manifest import Counts

FORMATS = ('jpeg', 'png')
DTYPES = ('uint8', 'uint16')
SIDES = ('ymin', 'xmin', 'ymax', 'xmax')
_REQUIRED = {'image/encoded': tf.string, 'image/height': tf.int64, 'image/width': tf.int64}
_OPTIONAL = {
    'image/id': tf.int64,
    'image/source_id': tf.string,
    'image/object/box': tf.float32,
    **{f'image/object/bbox/{side}': tf.float32 for side in SIDES},
    'image/object/class/label': tf.int64,
    'image/object/is_crowd': tf.int64,
    'image/object/area': tf.float32,
    'image/object/annotation_id': tf.int64,
    'image/object/difficult': tf.int64,
    'image/object/truncated': tf.int64,
    'image/object/has_mask': tf.int64,
}
_PROPOSALS = {'image/proposal/box': tf.float32, 'image/proposal/score': tf.float32}


@dataclass
class ObjectAnnotation:
    """One object of an image."""
    box: tuple[float, float, float, float]    # y1, x1, y2, x2 in px
    label: int                                # 1..K
    name: str
    area: float                               # px^2, as annotated
    crowd: bool = False                       # a group of objects under one annotation
    annotation_id: int = 0
    mask: bytes | None = None                 # from encode_mask; None: the set has no masks
    has_mask: bool = True                     # False: this object of a set with masks has a box only; mask is empty
    difficult: bool | None = None             # VOC: not counted by its evaluation; None: unknown
    truncated: bool | None = None             # VOC: the object extends beyond the box; None: unknown


class Proposals(NamedTuple):
    """Region proposals that were computed before training, best first."""
    boxes: np.ndarray                         # float32 [m, 4], px
    scores: np.ndarray                        # float32 [m]


@dataclass
class Annotated:
    """One image with its annotations."""
    encoded: bytes                            # the unchanged bytes of the file
    format: str                               # 'jpeg' or 'png'
    filename: str
    source_id: str                            # the data set's id as text
    image_id: int
    height: int                               # px
    width: int
    objects: list[ObjectAnnotation] = field(default_factory=list)
    channels: int | None = None               # of the file: 1 gray, 3 color, 2 and 4 with transparency; None: unknown
    dtype: str = ''                           # of the file's pixels: 'uint8', 'uint16'; empty: unknown
    split: str = ''                           # the data set's own name of it: 'train', ...; empty: it has none
    city: str = ''                            # Cityscapes
    proposals: Proposals | None = None        # None: none were computed
    extra: dict[str, tf.train.Feature] = field(default_factory=dict)    # other features, written unchanged


def encode_mask(mask: np.ndarray) -> bytes:
    """Return the PNG, 8-bit gray, 0 or 1, of a mask of the whole image: [height, width], non-zero inside."""
    inside = np.asarray(mask) != 0
    rows = np.flatnonzero(inside.any(axis=1))
    first, last = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
    return mask_png.encode(inside[first:last].view(np.uint8), (int(first), 0), (inside.shape[0], inside.shape[1]))


def count(example: Annotated) -> Counts:
    """Return what one record adds to the counts of its set."""
    objects = example.objects
    return Counts(1, int(not objects), len(objects), sum(each.crowd for each in objects),
                  sum(not each.has_mask for each in objects))


def encode(example: Annotated) -> bytes:
    """Return the serialized tf.train.Example of one image; equal examples give equal bytes.

    Raises:
        ValueError: an unknown image format, a label below 1, masks on some objects and not on others, proposals whose
            boxes and scores are not [m, 4] and [m].
    """
    _check(example)
    objects = example.objects
    features = {
        'image/encoded': _bytes([example.encoded]),
        'image/format': _bytes([example.format]),
        'image/filename': _bytes([example.filename]),
        'image/source_id': _bytes([example.source_id]),
        'image/key/sha256': _bytes([hashlib.sha256(example.encoded).hexdigest()]),
        'image/id': _ints([example.image_id]),
        'image/height': _ints([example.height]),
        'image/width': _ints([example.width]),
        'image/object/box': _floats([edge for o in objects for edge in o.box]),
        **_normalized(example),
        'image/object/class/label': _ints([o.label for o in objects]),
        'image/object/class/text': _bytes([o.name for o in objects]),
        'image/object/is_crowd': _ints([int(o.crowd) for o in objects]),
        'image/object/area': _floats([o.area for o in objects]),
        'image/object/annotation_id': _ints([o.annotation_id for o in objects]),
    }
    features |= _where_known(example) | example.extra
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor, with_masks: bool, with_proposals: bool = False) -> dict[str, tf.Tensor]:
    """Return the features of one record, written by this project or by Model Garden, in a graph.

    Missing features have defaults: `image_id` is the number in `image/source_id`, or else a hash of it; boxes are
    computed from the normalized ones; crowd, difficult and truncated are False, has_mask is True, area is that of the
    box, annotation_ids are 1..n, and there are no proposals.

    Args:
        serialized: string [].
        with_masks: return masks and has_mask too.
        with_proposals: return proposals and proposal_scores too.

    Returns:
        encoded string [], image_id int64 [], source_id string [], height and width int32 [] (px), boxes
        float32 [n, 4] (px), labels int32 [n], crowd bool [n], area float32 [n] (px^2), annotation_ids int64 [n],
        difficult and truncated bool [n]; masks string [n] (PNGs of the whole image, 0 or 1) and has_mask bool [n]
        (False: the object has a box only, and its mask is empty); proposals float32 [m, 4] (px) and proposal_scores
        float32 [m], best first.

    Raises:
        tf.errors.InvalidArgumentError: image bytes, size or masks are missing, or features differ in length.
    """
    optional = {**_OPTIONAL, **({'image/object/mask': tf.string} if with_masks else {}),
                **(_PROPOSALS if with_proposals else {})}
    values = tf.io.parse_single_example(serialized, {
        **{key: tf.io.FixedLenFeature([], kind) for key, kind in _REQUIRED.items()},
        **{key: tf.io.FixedLenSequenceFeature([], kind, allow_missing=True) for key, kind in optional.items()}})
    boxes = _boxes(values, tf.size(values['image/object/class/label']))
    classes = _labels_and_crowd(values)
    labels = classes['labels']
    zeros = tf.zeros_like(labels, tf.int64)
    parsed = {
        'encoded': values['image/encoded'],
        'image_id': _image_id(values),
        'source_id': _source_id(values),
        'height': tf.cast(values['image/height'], tf.int32),
        'width': tf.cast(values['image/width'], tf.int32),
        'boxes': boxes,
        **classes,
        'area': _column(values, 'area', tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=1)),
        'annotation_ids': _column(values, 'annotation_id', tf.range(1, tf.size(labels, tf.int64) + 1)),
        'difficult': _column(values, 'difficult', zeros) > 0,
        'truncated': _column(values, 'truncated', zeros) > 0,
    }
    if with_masks:
        parsed['masks'] = _masks(values, tf.size(labels))
        parsed['has_mask'] = _column(values, 'has_mask', zeros + 1) > 0
    if with_proposals:
        parsed['proposals'] = tf.reshape(values['image/proposal/box'], [-1, 4])
        parsed['proposal_scores'] = values['image/proposal/score']
        _same_length(values, 'proposals', tf.shape(parsed['proposals'])[0], tf.size(parsed['proposal_scores']))
    return parsed


def parse_size(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return height and width of a record as `parse` does, in a fraction of its time."""
    values = tf.io.parse_single_example(serialized, {
        f'image/{side}': tf.io.FixedLenFeature([], tf.int64) for side in ('height', 'width')})
    return {side: tf.cast(values[f'image/{side}'], tf.int32) for side in ('height', 'width')}


def parse_labels(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return labels and crowd of a record as `parse` does, in a fraction of its time."""
    kept = ('image/source_id', 'image/object/class/label', 'image/object/is_crowd')
    values = tf.io.parse_single_example(serialized, {
        key: tf.io.FixedLenSequenceFeature([], _OPTIONAL[key], allow_missing=True) for key in kept})
    return _labels_and_crowd(values)


def _labels_and_crowd(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    labels = tf.cast(values['image/object/class/label'], tf.int32)
    return {'labels': labels, 'crowd': _column(values, 'is_crowd', tf.zeros_like(labels, tf.int64)) > 0}


def _check(example: Annotated) -> None:
    if example.format not in FORMATS:
        raise ValueError(f'{example.filename}: format {example.format!r}, expected one of {", ".join(FORMATS)}')
    if example.dtype not in ('', *DTYPES):
        raise ValueError(f'{example.filename}: dtype {example.dtype!r}, expected one of {", ".join(DTYPES)}')
    for each in example.objects:
        if each.label < 1:
            raise ValueError(f'{example.filename}: annotation {each.annotation_id} has label {each.label}, not 1..K')
    if len({each.mask is None for each in example.objects}) > 1:
        raise ValueError(f'{example.filename}: some objects have a mask and some have none')
    if example.proposals is not None and example.proposals.boxes.shape != (len(example.proposals.scores), 4):
        raise ValueError(f'{example.filename}: proposals of shape {example.proposals.boxes.shape} and scores of '
                         f'{example.proposals.scores.shape}, expected [m, 4] and [m]')


def _where_known(example: Annotated) -> dict[str, tf.train.Feature]:
    """Return the optional features that the data set has."""
    objects, proposals = example.objects, example.proposals
    features = {f'image/{name}': _bytes([getattr(example, name)])
                for name in ('dtype', 'split', 'city') if getattr(example, name)}
    if example.channels is not None:
        features['image/channels'] = _ints([example.channels])
    for name in ('difficult', 'truncated'):
        flags = [getattr(each, name) for each in objects]
        if any(flag is not None for flag in flags):
            features[f'image/object/{name}'] = _ints([int(bool(flag)) for flag in flags])
    masks = [o.mask for o in objects if o.mask is not None]
    if masks:
        features['image/object/mask'] = _bytes(masks)
    if not all(each.has_mask for each in objects):
        features['image/object/has_mask'] = _ints([int(each.has_mask) for each in objects])
    if proposals is not None:
        features['image/proposal/box'] = _floats(proposals.boxes.ravel().tolist())
        features['image/proposal/score'] = _floats(proposals.scores.tolist())
    return features


def _normalized(example: Annotated) -> dict[str, tf.train.Feature]:
    sizes = (example.height, example.width) * 2
    return {f'image/object/bbox/{side}': _floats([each.box[i] / sizes[i] for each in example.objects])
            for i, side in enumerate(SIDES)}


def _bytes(values: Sequence[bytes | str]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(
        value=[v.encode() if isinstance(v, str) else v for v in values]))


def _ints(values: Sequence[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _floats(values: Sequence[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _source_id(values: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.strings.reduce_join(values['image/source_id'])    # [0 or 1] -> []


def _image_id(values: dict[str, tf.Tensor]) -> tf.Tensor:
    source_id = _source_id(values)
    is_number = tf.strings.regex_full_match(source_id, r'-?[0-9]{1,18}')
    # Without any id, use the image's bytes: equal images get equal ids.
    text = tf.where(tf.equal(source_id, ''), values['image/encoded'], source_id)
    stand_in = tf.where(is_number, tf.strings.to_number(tf.where(is_number, source_id, '0'), tf.int64),
                        tf.strings.to_hash_bucket_fast(text, 2 ** 63 - 1))
    return tf.concat([values['image/id'], stand_in[None]], axis=0)[0]


def _boxes(values: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.stack([values['image/height'], values['image/width']] * 2), tf.float32)
    normalized = tf.stack([values[f'image/object/bbox/{side}'] for side in SIDES], axis=1)    # [n, 4]
    exact = tf.reshape(values['image/object/box'], [-1, 4])
    boxes = tf.cond(tf.size(exact) > 0, lambda: exact, lambda: normalized * size)
    _same_length(values, 'boxes', tf.shape(boxes)[0], count)
    return boxes


def _column(values: dict[str, tf.Tensor], name: str, default: tf.Tensor) -> tf.Tensor:
    """Return a feature [n] of the objects, or the default if the record lacks it."""
    column = values[f'image/object/{name}']
    column = tf.cond(tf.size(column) > 0, lambda: column, lambda: default)
    _same_length(values, name, tf.size(column), tf.size(default))
    return column


def _masks(values: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    masks = values['image/object/mask']
    _same_length(values, 'masks', tf.size(masks), count)
    return masks


def _same_length(values: dict[str, tf.Tensor], name: str, length: tf.Tensor, count: tf.Tensor) -> None:
    tf.debugging.Assert(tf.equal(length, count), [tf.strings.join([
        'record of image/source_id ', _source_id(values), f': {name} of ', tf.as_string(length), ' objects, labels of ',
        tf.as_string(count), '; convert the data again'])])
