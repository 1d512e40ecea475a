"""Cityscapes: the pictures of leftImg8bit with the instances of gtFine or gtCoarse.

    ROOT/leftImg8bit/SPLIT/CITY/BASE_leftImg8bit.png
    ROOT/gtFine/SPLIT/CITY/BASE_gtFine_instanceIds.png, or BASE_gtFine_polygons.json where it is missing

A pixel of instanceIds (16 bit) is 1000 times the id of its class plus the number of the instance; below 1000 it is a
class, and where that has instances a group whose members nobody told apart: a crowd. Polygons are drawn in their
order, so that later ones hide earlier ones; that is how the instanceIds were made.

Which classes there are is told by cityscapesscripts (extra `cityscapes`), whose table is not repeated here.
"""
from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data_tools import conversion, images, objects
from data_tools.conversion import DataSet, Item, Told
from data_tools.file_names import inside
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, Fault, Unusable
from mrcnn_tf import files
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source

ANNOTATIONS = {'fine': 'gtFine', 'coarse': 'gtCoarse', 'none': ''}
_PICTURES = 'leftImg8bit'
_SUFFIX = f'_{_PICTURES}.png'
_GROUPS_BELOW = 1000
_ID_ROOM = 100_000               # annotation ids of an image: more than the largest instance id
_BYTES_OF_MASKS = 60_000         # of an image's, roughly
_FARTHEST = 1e6                  # px, beyond any picture
_MOST_PIXELS = 10 ** 8


class Table(NamedTuple):
    """The official classes."""
    ids: dict[str, int]                          # of all, by name
    instances: frozenset[int]                    # ids of those with instances
    evaluated: dict[int, Category]       # of the 8 with instances that the benchmark evaluates, by id


class Polygon(NamedTuple):
    """An object of the polygon files."""
    label: str
    points: list[tuple[float, float]]    # x, y in px


def find(root: str | os.PathLike[str], split: str, annotations: str = 'fine', masks: bool = True,
         follow: bool = False) -> DataSet:
    """What the folders of a split hold.

    The categories are the 8 classes whose instances the benchmark evaluates, by its own ids (24 person, ...). The
    records' `image/source_id` is the file's name up to `_leftImg8bit`.

    Args:
        root: directory of leftImg8bit and gtFine or gtCoarse.
        split: 'train', 'val', 'test', or 'train_extra', which has coarse annotations only.
        annotations: 'fine', 'coarse', or 'none': a test set.
        masks: read masks; False: boxes only.
        follow: read files that symlinks put outside of these folders.

    Raises:
        ConversionError: a folder is missing or empty, cityscapesscripts is not installed.
    """
    root = pathlib.Path(root)
    if annotations not in ANNOTATIONS:
        raise ConversionError(f'annotations is {annotations!r}, expected one of {", ".join(ANNOTATIONS)}')
    kind = ANNOTATIONS[annotations]
    paths = _paths(root / _PICTURES, split)
    if kind and not (root / kind / split).is_dir():
        raise ConversionError(f'{root / kind / split}: no such directory; unpack {kind} there, or choose other '
                              'annotations, none for a test set')
    source = Cityscapes(root, split, kind, masks, official(), follow)
    head = Manifest(
        name='', categories=list(source.table.evaluated.values()), counts=Counts(), max_objects_per_image=0,
        dropped={}, repaired={}, shards=[], has_masks=masks and bool(kind), source=Source(
            'cityscapes', str(root / kind / split) if kind else '', str(root / _PICTURES / split)))
    return DataSet(head, [source.item(number, path) for number, path in enumerate(paths, 1)], source)


def official() -> Table:
    """The table of classes of cityscapesscripts.

    Raises:
        ConversionError: cityscapesscripts is not installed.
    """
    try:
        from cityscapesscripts.helpers.labels import labels
    except ImportError:
        raise ConversionError("cityscapesscripts, which holds the table of classes, is not installed; "
                              "pip install 'mrcnn-tf[cityscapes]'") from None
    evaluated = sorted((label.id, label.name) for label in labels if label.hasInstances and not label.ignoreInEval)
    return Table({label.name: label.id for label in labels},
                 frozenset(label.id for label in labels if label.hasInstances),
                 {id: Category(number, id, name) for number, (id, name) in enumerate(evaluated, 1)})


@dataclass(frozen=True)
class Cityscapes:
    """Annotations as Cityscapes' folders hold them."""
    root: pathlib.Path
    split: str
    kind: str                      # gtFine, gtCoarse, or empty: none
    masks: bool
    table: Table
    follow: bool = False           # files that lie elsewhere

    def item(self, number: int, path: pathlib.Path) -> Item:
        """The picture with this ordinal."""
        base, city = path.name[:-len(_SUFFIX)], path.parent.name
        size, modified = conversion.held(path, *self._candidates(city, base))
        return Item(base, number, f'{city}/{path.name}', size + (_BYTES_OF_MASKS if self.masks else 2000), modified,
                    split=self.split, city=city)

    def path(self, item: Item) -> pathlib.Path:
        """The image's file."""
        return inside(self.root / _PICTURES / self.split, item.file_name, self.follow)

    def tell(self, item: Item) -> Told:
        """Which instances the picture shows."""
        if not self.kind:
            return Told([], '')
        candidates = self._candidates(item.city, str(item.id))
        file = next((path for path in candidates if path.is_file()), None)
        if file is None:
            raise Unusable('missing annotation file', str(candidates[0]))
        inside(self.root / self.kind / self.split, f'{item.city}/{file.name}', self.follow)
        pixels, odd = (_read_pixels(file), []) if file.suffix == '.png' else draw(*_read_polygons(file), self.table)
        values = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
        unknown = [value for value in values if _class(value) not in self.table.ids.values()]
        if unknown:
            odd = [*odd, Fault('unknown instance ids', f'{unknown[:5]}')]
        evaluated = self.table.evaluated
        found = [(value, (value, evaluated[_class(value)], pixels)) for value in values if _class(value) in evaluated]
        height, width = pixels.shape
        return Told(found, str(file.relative_to(self.root)), (height, width), odd=odd)

    def annotate(self, item: Item, value: tuple[int, Category, np.ndarray], file: ImageFile,
                 ) -> tuple[records.ObjectAnnotation, list[Fault], list[Fault]]:
        """One instance or group as a record holds it."""
        instance_id, category, pixels = value
        mask = pixels == instance_id
        return records.ObjectAnnotation(
            box=objects.mask_box(mask), label=category.label, name=category.name, area=float(np.count_nonzero(mask)),
            crowd=instance_id < _GROUPS_BELOW, annotation_id=item.number * _ID_ROOM + instance_id,
            mask=records.encode_mask(mask) if self.masks else None), [], []

    def _candidates(self, city: str, base: str) -> list[pathlib.Path]:
        """Where the annotations of a picture may lie; pixels come before the polygons that they were made of."""
        folder = self.root / self.kind / self.split / city
        return [folder / f'{base}_{self.kind}_{what}' for what in ('instanceIds.png', 'polygons.json')
                ] if self.kind else []


def draw(size: tuple[int, int], polygons: Sequence[Polygon], table: Table) -> tuple[np.ndarray, list[Fault]]:
    """Instance ids of polygons drawn one over the other: int32 [height, width], and what could not be drawn.

    Args:
        size: height and width, px.
    """
    image, odd = Image.new('I', (size[1], size[0])), []
    drawer, counts = ImageDraw.Draw(image), dict.fromkeys(table.instances, 0)
    for label, points in polygons:
        group = label not in table.ids and label.endswith('group')
        label_id = table.ids.get(label[:-len('group')] if group else label)
        if label_id is None or len(points) < 3:
            odd.append(Fault('unknown class', f'{label!r:.40}') if label_id is None else
                       Fault('polygon with fewer than 3 points', f'{label}: {len(points)} points'))
            continue
        value = label_id
        if label_id in table.instances and not group:
            value = label_id * _GROUPS_BELOW + counts[label_id]
            counts[label_id] += 1
        if value >= 0:      # the table has one class below 0, which is never drawn
            drawer.polygon(points, fill=value)
    return np.asarray(image, np.int32), odd


def _paths(directory: pathlib.Path, split: str) -> list[pathlib.Path]:
    """The pictures of a split in order of their names."""
    folder = directory / split
    if not folder.is_dir():
        splits = sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
        there = f'; there are {", ".join(splits)}' if splits else ''
        raise ConversionError(f'{folder}: no such directory{there}; give the root and a split of it')
    paths = sorted(folder.glob(f'*/*{_SUFFIX}'))
    if not paths:
        raise ConversionError(f'{folder}: no CITY/*{_SUFFIX} in it; unpack {_PICTURES} there')
    return paths


def _class(value: int) -> int:
    return value if value < _GROUPS_BELOW else value // _GROUPS_BELOW


def _read_pixels(path: pathlib.Path) -> np.ndarray:
    """int32 [height, width]."""
    file = images.read(path)
    if file.format != 'png' or file.dtype != 'uint16' or file.channels != 1:
        raise Unusable('malformed annotation', f'{path} is a {file.format} of {file.channels} channels of '
                                               f'{file.dtype}, expected a grey one of uint16')
    return images.pixels(file, str(path)).astype(np.int32)


def _read_polygons(path: pathlib.Path) -> tuple[tuple[int, int], list[Polygon]]:
    """Height and width, and the objects that nobody has deleted."""
    try:
        data = files.read_json(path)
        size = data['imgHeight'], data['imgWidth']
        if not all(type(side) is int and side > 0 for side in size) or size[0] * size[1] > _MOST_PIXELS:
            raise ValueError(f'imgHeight and imgWidth are {size!r:.40}')
        return size, [_polygon(each) for each in data['objects'] if not each.get('deleted')]
    except OSError as error:
        raise Unusable('unreadable annotation file', f'{path}: {error.strerror}') from None
    except KeyError as error:
        raise Unusable('malformed annotation', f'{path}: no {error}') from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable('malformed annotation', f'{path}: {error_line(error, 80)}') from None


def _polygon(each: dict[str, Any]) -> Polygon:
    points = [(x, y) for x, y in each['polygon']]
    # Not so for NaN either.
    if not all(type(v) in (int, float) and abs(v) <= _FARTHEST for point in points for v in point):
        raise ValueError(f'a polygon of {each["label"]!r:.40} has coordinates that are no numbers or too far away')
    if not isinstance(each['label'], str):
        raise ValueError(f'a label is {each["label"]!r:.40}')
    return Polygon(each['label'], points)
