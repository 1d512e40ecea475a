"""Cityscapes: the images of leftImg8bit with the instances of gtFine or gtCoarse.

    ROOT/leftImg8bit/SPLIT/CITY/BASE_leftImg8bit.png
    ROOT/gtFine/SPLIT/CITY/BASE_gtFine_instanceIds.png, or BASE_gtFine_polygons.json where it is missing

A pixel of instanceIds (16 bit) is 1000 times the id of its class plus the number of the instance. A value below 1000 is
the id of a class; if that class has instances, the pixel belongs to a group of them, a crowd. Polygons are drawn in
order, so later ones hide earlier ones, as they did when the instanceIds were made.

The table of classes is that of cityscapesscripts (extra `cityscapes`).
"""
from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data_tools import data_set, images, objects
from data_tools.data_set import ConvertedObject, DataSet, ImageAnnotations, Item
from data_tools.file_names import inside
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, InvalidDataError, Issue
from mrcnn_tf import files
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source

ANNOTATIONS = {'fine': 'gtFine', 'coarse': 'gtCoarse', 'none': ''}
_PICTURES = 'leftImg8bit'
_SUFFIX = f'_{_PICTURES}.png'
_INSTANCES_FROM = 1000           # smaller values are groups
_IDS_PER_IMAGE = 100_000         # annotation ids: more than the largest instance id
_MASK_BYTES = 60_000             # of an image, approximately
_FARTHEST = 1e6                  # px: farther than any image reaches
_MAX_PIXELS = 10 ** 8


class Table(NamedTuple):
    """The official table of classes."""
    ids: dict[str, int]                          # of all classes, by name
    instances: frozenset[int]                    # ids of the classes with instances
    evaluated: dict[int, Category]       # the 8 classes that the instance benchmark evaluates, by id


class Polygon(NamedTuple):
    """An object of a polygon file."""
    label: str
    points: list[tuple[float, float]]    # x, y in px


def find(root: str | os.PathLike[str], split: str, annotations: str = 'fine', masks: bool = True,
         follow: bool = False) -> DataSet:
    """Return the data set of a split.

    The categories are the 8 classes whose instances the benchmark evaluates, with its ids (24 person, ...). The
    `image/source_id` of a record is the name of the file up to `_leftImg8bit`.

    Args:
        root: directory of leftImg8bit and gtFine or gtCoarse.
        split: 'train', 'val', 'test', or 'train_extra', which has coarse annotations only.
        annotations: 'fine', 'coarse', or 'none' for a test set.
        masks: read masks; False: boxes only.
        follow: also read files that symlinks place outside these directories.

    Raises:
        ConversionError: a directory is missing or empty, cityscapesscripts is not installed.
    """
    root = pathlib.Path(root)
    if annotations not in ANNOTATIONS:
        raise ConversionError(f'annotations is {annotations!r}, expected one of {", ".join(ANNOTATIONS)}')
    kind = ANNOTATIONS[annotations]
    paths = _paths(root / _PICTURES, split)
    if kind and not (root / kind / split).is_dir():
        raise ConversionError(f'{root / kind / split}: no such directory; unpack {kind} there, or give other '
                              'annotations: none for a test set')
    source = Cityscapes(root, split, kind, masks, official(), follow)
    head = Manifest(
        name='', categories=list(source.table.evaluated.values()), counts=Counts(), max_objects_per_image=0,
        dropped={}, repaired={}, shards=[], has_masks=masks and bool(kind), source=Source(
            'cityscapes', str(root / kind / split) if kind else '', str(root / _PICTURES / split)))
    return DataSet(head, [source.item(number, path) for number, path in enumerate(paths, 1)], source)


def official() -> Table:
    """Return the table of classes of cityscapesscripts.

    Raises:
        ConversionError: cityscapesscripts is not installed.
    """
    try:
        from cityscapesscripts.helpers.labels import labels
    except ImportError:
        raise ConversionError('cityscapesscripts, which holds the table of classes, is not installed: '
                              f'{install("cityscapes")}') from None
    evaluated = sorted((label.id, label.name) for label in labels if label.hasInstances and not label.ignoreInEval)
    return Table({label.name: label.id for label in labels},
                 frozenset(label.id for label in labels if label.hasInstances),
                 {id: Category(number, id, name) for number, (id, name) in enumerate(evaluated, 1)})


@dataclass(frozen=True)
class Cityscapes:
    """Reads annotations of the directories of Cityscapes."""
    root: pathlib.Path
    split: str
    kind: str                      # gtFine, gtCoarse, or '': no annotations
    masks: bool
    table: Table
    follow: bool = False           # also read files outside the directories

    def item(self, number: int, path: pathlib.Path) -> Item:
        """Return the item of an image; number: its ordinal."""
        base, city = path.name[:-len(_SUFFIX)], path.parent.name
        size, modified = data_set.file_stamp(path, *self._candidates(city, base))
        return Item(base, number, f'{city}/{path.name}', size + (_MASK_BYTES if self.masks else 2000), modified,
                    split=self.split, city=city)

    def path(self, item: Item) -> pathlib.Path:
        """Return the path of the image."""
        return inside(self.root / _PICTURES / self.split, item.file_name, self.follow)

    def read(self, item: Item) -> ImageAnnotations:
        """Return the instances of an image."""
        if not self.kind:
            return ImageAnnotations([], '')
        candidates = self._candidates(item.city, str(item.id))
        file = next((path for path in candidates if path.is_file()), None)
        if file is None:
            raise InvalidDataError('missing annotation file', str(candidates[0]))
        inside(self.root / self.kind / self.split, f'{item.city}/{file.name}', self.follow)
        pixels, warnings = (
            (_read_pixels(file), []) if file.suffix == '.png' else draw(*_read_polygons(file), self.table))
        values = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
        unknown = [value for value in values if _class(value) not in self.table.ids.values()]
        if unknown:
            warnings = [*warnings, Issue('unknown instance ids', f'{unknown[:5]}')]
        evaluated = self.table.evaluated
        instances = [(value, (value, evaluated[_class(value)], pixels))
                     for value in values if _class(value) in evaluated]
        height, width = pixels.shape
        return ImageAnnotations(instances, str(file.relative_to(self.root)), (height, width), warnings=warnings)

    def convert_object(self, item: Item, value: tuple[int, Category, np.ndarray], file: ImageFile) -> ConvertedObject:
        """Return one instance or group as a record holds it."""
        instance_id, category, pixels = value
        mask = pixels == instance_id
        return ConvertedObject(records.ObjectAnnotation(
            box=objects.mask_box(mask), label=category.label, name=category.name, area=float(np.count_nonzero(mask)),
            crowd=instance_id < _INSTANCES_FROM, annotation_id=item.number * _IDS_PER_IMAGE + instance_id,
            mask=records.encode_mask(mask) if self.masks else None), [], [])

    def _candidates(self, city: str, base: str) -> list[pathlib.Path]:
        """Return the paths that an image's annotations may have, instanceIds before polygons."""
        folder = self.root / self.kind / self.split / city
        return [folder / f'{base}_{self.kind}_{what}' for what in ('instanceIds.png', 'polygons.json')
                ] if self.kind else []


def draw(size: tuple[int, int], polygons: Sequence[Polygon], table: Table) -> tuple[np.ndarray, list[Issue]]:
    """Return instance ids of polygons drawn over each other, int32 [height, width], and issues of those not drawn.

    Args:
        size: height and width of the image, px.
        polygons: in order.
        table: of classes.
    """
    image, issues = Image.new('I', (size[1], size[0])), []
    drawer, counts = ImageDraw.Draw(image), dict.fromkeys(table.instances, 0)
    for label, points in polygons:
        group = label not in table.ids and label.endswith('group')
        label_id = table.ids.get(label[:-len('group')] if group else label)
        if label_id is None or len(points) < 3:
            issues.append(Issue('unknown class', f'{label!r:.40}') if label_id is None else
                          Issue('polygon with fewer than 3 points', f'{label}: {len(points)} points'))
            continue
        value = label_id
        if label_id in table.instances and not group:
            value = label_id * _INSTANCES_FROM + counts[label_id]
            counts[label_id] += 1
        if value >= 0:      # one class has a negative id and is not drawn
            drawer.polygon(points, fill=value)
    return np.asarray(image, np.int32), issues


def _paths(directory: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Return the images of a split in order of their names."""
    folder = directory / split
    if not folder.is_dir():
        splits = sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
        there = f'; there are {", ".join(splits)}' if splits else ''
        raise ConversionError(f'{folder}: no such directory{there}; give a root that holds this split')
    paths = sorted(folder.glob(f'*/*{_SUFFIX}'))
    if not paths:
        raise ConversionError(f'{folder}: it holds no CITY/*{_SUFFIX}; unpack {_PICTURES} there')
    return paths


def _class(value: int) -> int:
    return value if value < _INSTANCES_FROM else value // _INSTANCES_FROM


def _read_pixels(path: pathlib.Path) -> np.ndarray:
    """Return the instance ids of instanceIds.png, int32 [height, width]."""
    file = images.read(path)
    if file.format != 'png' or file.dtype != 'uint16' or file.channels != 1:
        raise InvalidDataError('malformed annotation', f'{path} is a {file.format} of {file.channels} channels of '
                                                       f'{file.dtype}, expected gray of uint16')
    return images.pixels(file, str(path)).astype(np.int32)


def _read_polygons(path: pathlib.Path) -> tuple[tuple[int, int], list[Polygon]]:
    """Return height and width, and the objects that are not marked as deleted."""
    try:
        data = files.read_json(path)
        size = data['imgHeight'], data['imgWidth']
        if not all(type(side) is int and side > 0 for side in size) or size[0] * size[1] > _MAX_PIXELS:
            raise ValueError(f'imgHeight and imgWidth are {size!r:.40}')
        return size, [_polygon(each) for each in data['objects'] if not each.get('deleted')]
    except OSError as error:
        raise InvalidDataError('unreadable annotation file', f'{path}: {error.strerror}') from None
    except KeyError as error:
        raise InvalidDataError('malformed annotation', f'{path}: no {error}') from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidDataError('malformed annotation', f'{path}: {error_line(error, 80)}') from None


def _polygon(each: dict[str, Any]) -> Polygon:
    points = [(x, y) for x, y in each['polygon']]
    # Also False for NaN.
    if not all(type(v) in (int, float) and abs(v) <= _FARTHEST for point in points for v in point):
        raise ValueError(f'a polygon of {each["label"]!r:.40} has coordinates that are no numbers or beyond 1e6 px')
    if not isinstance(each['label'], str):
        raise ValueError(f'a label is {each["label"]!r:.40}')
    return Polygon(each['label'], points)
