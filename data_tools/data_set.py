"""A data set before conversion: the interface between the formats (COCO, VOC, Cityscapes) and the conversion.

A format returns a `DataSet`: its images in order as `Item`s, and a `Source` that reads the annotations of each.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from data_tools import images
from data_tools.issues import InvalidDataError, Issue
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Manifest

_MAX_OBJECTS = 100_000    # of an image


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a data set, before its files are read."""
    id: int | str             # the data set's
    number: int               # `image/id` of the record
    file_name: str            # as the data set names it
    bytes: int                # approximate size of the record
    modified: int             # of its files, from `file_stamp`: changed files make another item
    reference: Any = None     # what the Source needs to read its annotations
    split: str = ''
    city: str = ''


@dataclass(frozen=True)
class ImageAnnotations:
    """The annotations of an image."""
    objects: Sequence[tuple[Any, Any]]         # the data set's id, and the value that Source.convert_object takes
    file: str                                  # the annotation file, for messages
    size: tuple[int, int] | None = None        # height, width in px; None: not stated
    channels: int | None = None                # of the image; None: not stated
    warnings: list[Issue] = field(default_factory=list)


class ConvertedObject(NamedTuple):
    """An object as a record holds it."""
    annotation: records.ObjectAnnotation
    repairs: list[Issue]
    warnings: list[Issue]


class Source(Protocol):
    """Reads annotations in one format; can be pickled."""

    def path(self, item: Item) -> pathlib.Path:
        """Return the path of the image; raises InvalidDataError if there is no such file."""

    def read(self, item: Item) -> ImageAnnotations:
        """Return the annotations of an image; raises InvalidDataError if they cannot be read."""

    def convert_object(self, item: Item, value: Any, file: images.ImageFile) -> ConvertedObject:
        """Return one object and its issues; raises InvalidDataError if it cannot be used.

        Args:
            item: the image.
            value: of the object, from `ImageAnnotations.objects`.
            file: the decoded image.
        """


@dataclass(frozen=True)
class DataSet:
    """A data set before any image is read."""
    head: Manifest            # everything of the manifest that is known so far, except its name
    items: Sequence[Item]
    source: Source


def check_object_count(annotations: int) -> None:
    """Raise InvalidDataError if an image has more annotations than are converted."""
    if annotations > _MAX_OBJECTS:
        raise InvalidDataError('too many annotations', f'{annotations:,} on one image, at most {_MAX_OBJECTS:,} are '
                                                       'converted; cut the image into smaller ones', annotations)


def numbered_categories(names: Sequence[str]) -> list[Category]:
    """Return categories with labels and ids 1..K in the order of the names."""
    return [Category(label, label, name) for label, name in enumerate(names, 1)]


def image_numbers(ids: Sequence[str]) -> list[int]:
    """Return `image/id` of each text id: the id itself if all are different numbers, else its ordinal from 1."""
    values = [int(each) if each.isascii() and each.isdigit() and len(each) < 19 else None for each in ids]
    if None in values or len(set(values)) < len(values):
        return list(range(1, len(ids) + 1))
    return [value for value in values if value is not None]


def file_stamp(*paths: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the bytes of the existing files and the sum of their modification times, ns; it changes if a file does."""
    size = modified = 0
    for path in paths:
        with contextlib.suppress(OSError, ValueError):      # ValueError: a NUL in the name
            status = os.stat(path)
            size, modified = size + status.st_size, modified + status.st_mtime_ns
    return size, modified
