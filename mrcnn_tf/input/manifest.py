"""The manifest NAME.json of a converted set, which describes its shards and lists what was left out; categories.

K classes; labels are 1..K.
"""
from __future__ import annotations

import dataclasses
import operator
import os
import pathlib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mrcnn_tf import files
from mrcnn_tf.files.text import one_line

# Reasons of issues of photographs with an EXIF orientation.
EXIF_APPLIED = 'EXIF orientation applied'
EXIF_IGNORED = 'EXIF orientation ignored'


class ManifestError(ValueError):
    """A manifest or list of categories cannot be used; the message is one line: file, what is wrong, what to do."""


@dataclass
class Category:
    """A class: its label in records and predictions (1..K), and the data set's own id and name."""
    label: int
    id: int
    name: str


@dataclass
class IssueEntry:
    """An image or annotation that was dropped, repaired, or kept with a warning; the ids are the data set's own."""
    image_id: int | str | None
    annotation_id: int | str | None
    detail: str
    file: str = ''                            # the image or annotation file with the issue, as the data set names it
    annotations: int = 0                      # of an image that was dropped


@dataclass
class Shard:
    """A TFRecord file beside the manifest."""
    file: str
    records: int
    bytes: int
    sha256: str


@dataclass
class Counts:
    """Number of images and objects in the shards; objects include crowds."""
    images: int = 0
    images_without_objects: int = 0
    objects: int = 0
    crowds: int = 0
    objects_without_mask: int = 0             # objects of a set with masks that have a box only

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))


@dataclass
class Source:
    """The data set before the conversion."""
    kind: str                                 # 'coco', ...
    annotations: str
    images: str


@dataclass
class Manifest:
    """The description of a converted set: NAME.json, which is written last, beside the shards.

    Example:
        >>> import mrcnn_tf as m
        >>> manifest = m.Manifest.read('data/train.json')
        >>> manifest.counts.images, [category.name for category in manifest.categories]
        (16, ['low', 'high'])
    """
    FORMAT: ClassVar[str] = 'mrcnn_tf manifest'
    VERSION: ClassVar[int] = 1

    name: str
    categories: list[Category]
    counts: Counts
    max_objects_per_image: int
    dropped: dict[str, list[IssueEntry]]        # by reason
    repaired: dict[str, list[IssueEntry]]
    shards: list[Shard]
    has_masks: bool
    source: Source
    has_proposals: bool = False
    max_proposals_per_image: int = 0
    kept: dict[str, list[IssueEntry]] = field(default_factory=dict)    # looks wrong, and is in the records unchanged
    proposals_from: str = ''                  # file, or the method that computed them
    exif: str = ''                            # rule of conversion: error, apply, ignore; empty: not known

    @property
    def any_masks(self) -> bool:
        """Whether at least one object can have a mask: False if every object of a set with masks has a box only."""
        return self.has_masks and not 0 < self.counts.objects == self.counts.objects_without_mask

    @classmethod
    def read(cls, path: str | os.PathLike[str], shards: bool = True) -> Manifest:
        """Return the manifest at `path`.

        Args:
            path: of NAME.json.
            shards: check that the shards exist and have the listed sizes.

        Raises:
            ManifestError: no such file, not a manifest, a field is missing or has a wrong type, a shard is missing or
                truncated.
        """
        path = pathlib.Path(path)
        data = _load(path, 'give the NAME.json that `mrcnn convert` wrote')
        if not isinstance(data, dict) or data.get('format') != cls.FORMAT:
            raise ManifestError(f'{path}: not a manifest; give the NAME.json that `mrcnn convert` wrote')
        if data.get('version') != cls.VERSION:
            raise ManifestError(f'{path}: version {data.get("version")!r}, this release reads {cls.VERSION}; '
                                'convert the data again')
        manifest = _build(cls, {k: v for k, v in data.items() if k not in ('format', 'version')}, str(path), '')
        if manifest.categories or manifest.counts.objects:      # a set without annotations may have no categories
            _check_categories(manifest.categories, path)
        manifest.check_places(path)
        if shards:
            manifest.check_shards(path)
        return typing.cast(Manifest, manifest)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest atomically.

        Raises:
            OSError: the disk is full, no permission.
        """
        files.write_json(path, {'format': self.FORMAT, 'version': self.VERSION, **dataclasses.asdict(self)})

    def shard_paths(self, path: str | os.PathLike[str]) -> list[str]:
        """Return the paths of the shards in order; path: of the manifest."""
        return [str(pathlib.Path(path).parent / shard.file) for shard in self.shards]

    def check_places(self, path: str | os.PathLike[str]) -> None:
        """Raise ManifestError for a shard that is not beside the manifest, or is a link to another directory."""
        for shard in self.shards:
            try:
                files.inside(pathlib.Path(path).parent, shard.file)
                beside = pathlib.PurePath(shard.file).name == shard.file
            except files.OutsideError:
                beside = False
            if not beside:
                raise ManifestError(f'{path}: its shard {one_line(shard.file, 200)!r} is not beside it; '
                                    'copy the shards into its directory, or convert the data again')

    def turned_otherwise(self, exif: str) -> int:
        """Return how many photographs were rotated, or not, unlike by a model whose `data.exif` is `exif`."""
        reason = {'apply': EXIF_IGNORED, 'ignore': EXIF_APPLIED}.get(exif, '')
        return len(self.kept.get(reason, ())) + len(self.repaired.get(reason, ()))

    def check_shards(self, path: str | os.PathLike[str]) -> None:
        """Raise ManifestError for a shard that is missing or has another size than listed; does not read the shards."""
        for shard, file in zip(self.shards, self.shard_paths(path), strict=True):
            size = os.path.getsize(file) if os.path.isfile(file) else None
            if size is None:
                what = 'no file' if os.path.exists(file) else 'missing'
                raise ManifestError(f'{path}: its shard {one_line(file)} is {what}; '
                                    'copy it there or convert the data again')
            if size != shard.bytes:
                raise ManifestError(f'{path}: its shard {file} has {size} bytes, expected {shard.bytes}; '
                                    'copy it again or convert the data again')
        if sum(shard.records for shard in self.shards) != self.counts.images:
            raise ManifestError(f'{path}: counts.images is {self.counts.images} and the shards hold '
                                f'{sum(shard.records for shard in self.shards)}; convert the data again')


def write_categories(path: str | os.PathLike[str], categories: Sequence[Category]) -> None:
    """Write the categories as JSON, the file categories.json of a model directory."""
    files.write_json(path, [dataclasses.asdict(category) for category in categories])


def read_categories(path: str | os.PathLike[str]) -> list[Category]:
    """Return the categories that `write_categories` wrote.

    Raises:
        ManifestError: no such file, not a list of categories, or labels other than 1..K in order.
    """
    path = pathlib.Path(path)
    categories = _build(list[Category], _load(path, 'give a directory that `mrcnn train` wrote'), str(path), '')
    _check_categories(categories, path)
    return typing.cast('list[Category]', categories)


def _load(path: pathlib.Path, remedy: str) -> Any:
    try:
        return files.read_json(path)
    except FileNotFoundError:
        raise ManifestError(f'{path}: no such file; {remedy}') from None
    except OSError as error:
        raise ManifestError(f'{path}: {error.strerror}; {remedy}') from None
    except ValueError as error:
        raise ManifestError(f'{path}: not JSON ({error}); {remedy}') from None


def _build(kind: Any, value: Any, path: str, key: str) -> Any:
    """Return a value from JSON as an object of the type hint `kind`; `key` is its dotted name for messages."""
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
                            'the file was changed or is from another release; create it again')
    return value


def _build_fields(kind: Any, value: dict[str, Any], path: str, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    # A field that a later release added has a default, so that older files can be read.
    needed = [f.name for f in dataclasses.fields(kind)
              if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    for name in [*needed, *value]:
        if name not in value or name not in names:
            state = 'unknown' if name in value else 'missing'
            raise ManifestError(f'{path}: {prefix}{name} is {state}; the file was changed or is from another release; '
                                'create it again')
    return kind(**{name: _build(hints[name], value[name], path, prefix + name) for name in value})


def _check_categories(categories: Sequence[Category], path: pathlib.Path) -> None:
    labels = [category.label for category in categories]
    if not labels or labels != list(range(1, len(labels) + 1)):
        raise ManifestError(f'{path}: category labels are {labels}, expected 1..K in order; create the file again')
