"""THE record of one image, its TFRecord schema and the manifest of a set: encode (numpy) and parse (tf) side by side.

n objects and m proposals of an image, K classes. Boxes are float32 [y1, x1, y2, x2] in px of the image, continuous
edges; labels are 1..K. The feature keys are those of the TF Object Detection API, so TF Model Garden reads our shards
and we read its; `image/id`, `image/object/box` and `image/object/annotation_id` are ours, and replaced where a record
lacks them; `image/proposal/*`, `image/channels`, `image/dtype`, `image/split` and `image/city` are ours.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.input import mask_png

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
}
_PROPOSALS = {'image/proposal/box': tf.float32, 'image/proposal/score': tf.float32}


class ManifestError(ValueError):
    """A manifest or category list that cannot be used; the message is one line: file, what is wrong, remedy."""


@dataclass
class ObjectAnnotation:
    """One object of an image."""
    box: tuple[float, float, float, float]    # y1, x1, y2, x2 in px
    label: int                                # 1..K
    name: str
    area: float                               # px^2, as annotated
    crowd: bool = False                       # the region holds many objects that nobody told apart
    annotation_id: int = 0
    mask: bytes | None = None                 # what encode_mask gives
    difficult: bool | None = None             # VOC: not counted by its evaluation; None: the set does not say
    truncated: bool | None = None             # VOC: goes on beyond the box


class Proposals(NamedTuple):
    """Boxes that may hold an object of any class, found beforehand; best first."""
    boxes: np.ndarray                         # float32 [m, 4], px
    scores: np.ndarray                        # float32 [m]


@dataclass
class Annotated:
    """One image and what is on it."""
    encoded: bytes                            # the file as it is
    format: str                               # 'jpeg' or 'png'
    filename: str
    source_id: str                            # the data set's id as text
    image_id: int
    height: int                               # px
    width: int
    objects: list[ObjectAnnotation] = field(default_factory=list)
    channels: int | None = None               # of the file: 1 grey, 2 with transparency, 3 colour, 4; None: not known
    dtype: str = ''                           # of the file's pixels: 'uint8', 'uint16'; empty: not known
    split: str = ''                           # the data set's own: 'train', ...; empty: it has none
    city: str = ''                            # Cityscapes
    proposals: Proposals | None = None        # None: nobody has looked for any
    extra: dict[str, tf.train.Feature] = field(default_factory=dict)    # further features, written as they are


def encode_mask(mask: np.ndarray) -> bytes:
    """PNG (8 bit grey, 0 or 1) of a mask of the whole image, [height, width], any type, non-zero inside."""
    inside = np.asarray(mask) != 0
    rows = np.flatnonzero(inside.any(axis=1))
    first, last = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
    return mask_png.encode(inside[first:last].view(np.uint8), (int(first), 0), (inside.shape[0], inside.shape[1]))


def encode(example: Annotated) -> bytes:
    """The serialized tf.train.Example of one image, equal bytes for equal examples.

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
        **_normalised(example),
        'image/object/class/label': _ints([o.label for o in objects]),
        'image/object/class/text': _bytes([o.name for o in objects]),
        'image/object/is_crowd': _ints([int(o.crowd) for o in objects]),
        'image/object/area': _floats([o.area for o in objects]),
        'image/object/annotation_id': _ints([o.annotation_id for o in objects]),
    }
    features |= _where_known(example) | example.extra
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor, with_masks: bool, with_proposals: bool = False) -> dict[str, tf.Tensor]:
    """Reads one record, ours or Model Garden's, inside a graph.

    Where a record lacks it, `image_id` is the number in `image/source_id`, else a hash of it; boxes come from the
    normalised ones; crowd, difficult and truncated are False, area that of the box, annotation_ids 1..n.

    Returns:
        encoded string [], image_id int64 [], source_id string [], height and width int32 [] (px), boxes
        float32 [n, 4] (px), labels int32 [n], crowd bool [n], area float32 [n] (px^2), annotation_ids int64 [n],
        difficult and truncated bool [n]; when `with_masks`, masks string [n] (PNG of the whole image, 0 or 1); when
        `with_proposals`, proposals float32 [m, 4] (px) and proposal_scores float32 [m], best first, none where the
        record has none.

    Raises:
        tf.errors.InvalidArgumentError: image bytes or size are missing, features of unequal length, no masks.
    """
    optional = {**_OPTIONAL, **({'image/object/mask': tf.string} if with_masks else {}),
                **(_PROPOSALS if with_proposals else {})}
    values = tf.io.parse_single_example(serialized, {
        **{key: tf.io.FixedLenFeature([], kind) for key, kind in _REQUIRED.items()},
        **{key: tf.io.FixedLenSequenceFeature([], kind, allow_missing=True) for key, kind in optional.items()}})
    labels = tf.cast(values['image/object/class/label'], tf.int32)
    boxes, zeros = _boxes(values, tf.size(labels)), tf.zeros_like(labels, tf.int64)
    parsed = {
        'encoded': values['image/encoded'],
        'image_id': _image_id(values),
        'source_id': _source_id(values),
        'height': tf.cast(values['image/height'], tf.int32),
        'width': tf.cast(values['image/width'], tf.int32),
        'boxes': boxes,
        'labels': labels,
        'crowd': _column(values, 'is_crowd', zeros) > 0,
        'area': _column(values, 'area', tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=1)),
        'annotation_ids': _column(values, 'annotation_id', tf.range(1, tf.size(labels, tf.int64) + 1)),
        'difficult': _column(values, 'difficult', zeros) > 0,
        'truncated': _column(values, 'truncated', zeros) > 0,
    }
    if with_masks:
        parsed['masks'] = _masks(values, tf.size(labels))
    if with_proposals:
        parsed['proposals'] = tf.reshape(values['image/proposal/box'], [-1, 4])
        parsed['proposal_scores'] = values['image/proposal/score']
        _same_length(values, 'proposals', tf.shape(parsed['proposals'])[0], tf.size(parsed['proposal_scores']))
    return parsed


@dataclass
class Category:
    """A class: its label in records and predictions (1..K), and the data set's own id and name."""
    label: int
    id: int
    name: str


@dataclass
class Incident:
    """Something that was dropped, repaired, or odd and kept; the ids are the data set's own."""
    image_id: int | str | None
    annotation_id: int | str | None
    detail: str
    file: str = ''                            # the image or the annotation file at fault, as the data set names it


@dataclass
class Shard:
    """A TFRecord file beside the manifest."""
    file: str
    records: int
    bytes: int
    sha256: str


@dataclass
class Counts:
    """What the shards hold; crowds are counted among the objects."""
    images: int = 0
    images_without_objects: int = 0
    objects: int = 0
    crowds: int = 0


@dataclass
class Source:
    """What the set was converted from."""
    kind: str                                 # 'coco', ...
    annotations: str
    images: str


@dataclass
class Manifest:
    """What a converted set is: NAME.json, written after its shards, which lie beside it."""
    FORMAT: ClassVar[str] = 'mrcnn_tf manifest'
    VERSION: ClassVar[int] = 1

    name: str
    categories: list[Category]
    counts: Counts
    max_objects_per_image: int
    dropped: dict[str, list[Incident]]        # by reason
    repaired: dict[str, list[Incident]]
    shards: list[Shard]
    has_masks: bool
    source: Source
    has_proposals: bool = False
    max_proposals_per_image: int = 0
    kept: dict[str, list[Incident]] = field(default_factory=dict)    # odd, and in the records as it is
    proposals_from: str = ''                  # file, or the method that computed them

    @classmethod
    def read(cls, path: str | os.PathLike[str], shards: bool = True) -> Manifest:
        """Reads a manifest and, unless told otherwise, checks that its shards are there, each of its size.

        Raises:
            ManifestError: no such file, not a manifest, a field missing or of a wrong type, a shard missing or cut.
        """
        path = pathlib.Path(path)
        data = _load(path, 'give the NAME.json that `mrcnn convert` wrote')
        if not isinstance(data, dict) or data.get('format') != cls.FORMAT:
            raise ManifestError(f'{path}: not a manifest; give the NAME.json that `mrcnn convert` wrote')
        if data.get('version') != cls.VERSION:
            raise ManifestError(f'{path}: version {data.get("version")!r}, this release reads {cls.VERSION}; '
                                'convert the data again')
        manifest = _build(cls, {k: v for k, v in data.items() if k not in ('format', 'version')}, str(path), '')
        if manifest.categories or manifest.counts.objects:      # a test set may list none
            _check_categories(manifest.categories, path)
        if shards:
            manifest.check_shards(path)
        return typing.cast(Manifest, manifest)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the manifest atomically.

        Raises:
            OSError: the disk is full, no permission.
        """
        files.write_json(path, {'format': self.FORMAT, 'version': self.VERSION, **dataclasses.asdict(self)})

    def shard_paths(self, path: str | os.PathLike[str]) -> list[str]:
        """Paths of the shards in order, given the path of the manifest."""
        return [str(pathlib.Path(path).parent / shard.file) for shard in self.shards]

    def check_shards(self, path: str | os.PathLike[str]) -> None:
        """Raises ManifestError for a shard that is missing or of another size than stated; does not read them."""
        for shard, file in zip(self.shards, self.shard_paths(path), strict=True):
            size = os.path.getsize(file) if os.path.isfile(file) else None
            if size is None:
                raise ManifestError(f'{path}: its shard {file} is missing; copy it there or convert the data again')
            if size != shard.bytes:
                raise ManifestError(f'{path}: its shard {file} has {size} bytes, expected {shard.bytes}; '
                                    'copy it again or convert the data again')
        if sum(shard.records for shard in self.shards) != self.counts.images:
            raise ManifestError(f'{path}: counts.images is {self.counts.images} and the shards hold '
                                f'{sum(shard.records for shard in self.shards)}; convert the data again')


def write_categories(path: str | os.PathLike[str], categories: Sequence[Category]) -> None:
    """Writes the categories as JSON: what a model directory keeps as categories.json."""
    files.write_json(path, [dataclasses.asdict(category) for category in categories])


def read_categories(path: str | os.PathLike[str]) -> list[Category]:
    """What `write_categories` wrote.

    Raises:
        ManifestError: no such file, not such a list, labels other than 1..K in order.
    """
    path = pathlib.Path(path)
    categories = _build(list[Category], _load(path, 'give a directory that `mrcnn train` wrote'), str(path), '')
    _check_categories(categories, path)
    return typing.cast('list[Category]', categories)


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
    """Features that are absent where the data set does not have them."""
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
    if proposals is not None:
        features['image/proposal/box'] = _floats(proposals.boxes.ravel().tolist())
        features['image/proposal/score'] = _floats(proposals.scores.tolist())
    return features


def _normalised(example: Annotated) -> dict[str, tf.train.Feature]:
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
    # Without any id, equal hashes are equal pictures.
    text = tf.where(tf.equal(source_id, ''), values['image/encoded'], source_id)
    stand_in = tf.where(is_number, tf.strings.to_number(tf.where(is_number, source_id, '0'), tf.int64),
                        tf.strings.to_hash_bucket_fast(text, 2 ** 63 - 1))
    return tf.concat([values['image/id'], stand_in[None]], axis=0)[0]


def _boxes(values: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.stack([values['image/height'], values['image/width']] * 2), tf.float32)
    normalised = tf.stack([values[f'image/object/bbox/{side}'] for side in SIDES], axis=1)    # [n, 4]
    exact = tf.reshape(values['image/object/box'], [-1, 4])
    boxes = tf.cond(tf.size(exact) > 0, lambda: exact, lambda: normalised * size)
    _same_length(values, 'boxes', tf.shape(boxes)[0], count)
    return boxes


def _column(values: dict[str, tf.Tensor], name: str, default: tf.Tensor) -> tf.Tensor:
    """A feature [n] of the objects, or the default where the record does not have it."""
    column = values[f'image/object/{name}']
    column = tf.cond(tf.size(column) > 0, lambda: column, lambda: default)
    _same_length(values, name, tf.size(column), tf.size(default))
    return column


def _masks(values: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    masks = values['image/object/mask']
    _same_length(values, 'masks', tf.size(masks), count)
    return masks


def _same_length(values: dict[str, tf.Tensor], name: str, found: tf.Tensor, count: tf.Tensor) -> None:
    tf.debugging.Assert(tf.equal(found, count), [tf.strings.join([
        'record of image/source_id ', _source_id(values), f': {name} of ', tf.as_string(found), ' objects, labels of ',
        tf.as_string(count), '; convert the data again'])])


def _load(path: pathlib.Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise ManifestError(f'{path}: no such file; {remedy}') from None
    except OSError as error:
        raise ManifestError(f'{path}: {error.strerror}; {remedy}') from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f'{path}: not JSON ({error}); {remedy}') from None


def _build(kind: Any, value: Any, path: str, key: str) -> Any:
    """`value`, as JSON gives it, as an object of the type hint `kind`; `key` is the dotted place for messages."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is list and isinstance(value, list):
        return [_build(arguments[0], item, path, f'{key}[{i}]') for i, item in enumerate(value)]
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return {name: _build(arguments[1], item, path, f'{key}.{name}') for name, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _build_fields(kind, value, path, f'{key}.' if key else '')
    allowed = arguments if isinstance(kind, types.UnionType) else (kind,)
    if type(value) not in allowed:      # bool is an int for isinstance
        raise ManifestError(f'{path}: {key or "the top"} has a wrong type, {type(value).__name__}; '
                            'the file was changed or is of another release: make it again')
    return value


def _build_fields(kind: Any, value: dict[str, Any], path: str, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    # What a later release of this version has added has a default, so that older files are read.
    needed = [f.name for f in dataclasses.fields(kind)
              if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    for name in [*needed, *value]:
        if name not in value or name not in names:
            state = 'unknown' if name in value else 'missing'
            raise ManifestError(f'{path}: {prefix}{name} is {state}; the file was changed or is of another release: '
                                'make it again')
    return kind(**{name: _build(hints[name], value[name], path, prefix + name) for name in value})


def _check_categories(categories: Sequence[Category], path: pathlib.Path) -> None:
    labels = [category.label for category in categories]
    if not labels or labels != list(range(1, len(labels) + 1)):
        raise ManifestError(f'{path}: category labels are {labels}, expected 1..K in order; make the file again')
