"""PASCAL VOC's folders: an xml for each image with boxes, and where there is a SegmentationObject, masks.

    ROOT/ImageSets/Main/SPLIT.txt          the ids of the images
    ROOT/JPEGImages/ID.jpg                 or png
    ROOT/Annotations/ID.xml
    ROOT/SegmentationObject/ID.png         pixel k: object k of the xml, from 1; 255: the border between objects

VOC counts pixels from 1 and a box includes its last pixel: xmin = 1, xmax = 10 are ten pixels, 0..10 in continuous
edges. So 1 is taken from the minima only.
"""
from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from defusedxml import ElementTree

from data_tools import conversion, images, objects
from data_tools.conversion import DataSet, Item, Told
from data_tools.images import ImageFile
from data_tools.incidents import ConversionError, Fault, Unusable
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
    'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
_PICTURES, _XMLS, _SEGMENTS = 'JPEGImages', 'Annotations', 'SegmentationObject'
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG')
_SIDES = ('ymin', 'xmin', 'ymax', 'xmax')
_BORDER = 255
_ID_ROOM = 1_000_000             # annotation ids of an image
_BYTES_OF_MASKS = 20_000         # of an image's, roughly


class Place(NamedTuple):
    """Which image of a set."""
    folder: int      # index of its root
    ordinal: int     # from 1


class Annotation(NamedTuple):
    """An object of an xml file."""
    number: int                       # from 1
    element: Element
    pixels: np.ndarray | None         # SegmentationObject of the image


def find(roots: Sequence[str | os.PathLike[str]], split: str, years: Sequence[str] = (),
         classes: str | os.PathLike[str] | None = None, masks: bool | None = None) -> DataSet:
    """What the folders of a split hold, of several roots as one set.

    Args:
        roots: each a folder with Annotations, ImageSets and JPEGImages; with `years`, one with a VOC<year> for each.
        split: name of a list in ImageSets/Main, or a path in ImageSets: 'Segmentation/train'.
        classes: file of class names, one a line, in the order of the labels; None: the 20 of VOC.
        masks: read masks and drop images without; False: boxes only; None: masks where every image has them.

    Raises:
        ConversionError: a folder, list or class file is missing or empty, an id is listed twice.
    """
    folders = _folders(roots, years)
    lists = [_list(folder, split) for folder in folders]
    places = [(folder, image_id) for folder, ids in enumerate(lists) for image_id in ids]
    _check_ids([image_id for _, image_id in places], folders, split)
    if masks is None:
        masks = all((folders[folder] / _SEGMENTS / f'{image_id}.png').is_file() for folder, image_id in places)
    categories = conversion.categories(_classes(classes))
    source = Voc(tuple(folders), {category.name: category for category in categories}, masks)
    head = Manifest(
        name='', categories=categories, counts=Counts(), max_objects_per_image=0, dropped={}, repaired={},
        shards=[], has_masks=masks, source=Source(
            'voc', ', '.join(str(_list_path(folder, split)) for folder in folders),
            ', '.join(str(folder / _PICTURES) for folder in folders)))
    numbers = conversion.numbers([image_id for _, image_id in places])
    items = [source.item(image_id, number, Place(folder, ordinal), split.rpartition('/')[2])
             for ordinal, ((folder, image_id), number) in enumerate(zip(places, numbers, strict=True), 1)]
    return DataSet(head, items, source)


@dataclass(frozen=True)
class Voc:
    """Annotations as VOC's folders hold them."""
    folders: tuple[pathlib.Path, ...]
    categories: dict[str, Category]      # by name
    masks: bool

    def item(self, image_id: str, number: int, place: Place, split: str) -> Item:
        """The image of this id."""
        folder = self.folders[place.folder]
        pictures = folder / _PICTURES
        name = next((f'{image_id}{suffix}' for suffix in _SUFFIXES if (pictures / f'{image_id}{suffix}').is_file()),
                    f'{image_id}{_SUFFIXES[0]}')
        others = [folder / _XMLS / f'{image_id}.xml', *([folder / _SEGMENTS / f'{image_id}.png'] if self.masks else [])]
        size, modified = conversion.held(pictures / name, *others)
        return Item(image_id, number, name, size + (_BYTES_OF_MASKS if self.masks else 0), modified, place, split)

    def path(self, item: Item) -> pathlib.Path:
        """The image's file."""
        return self.folders[item.told.folder] / _PICTURES / item.file_name

    def tell(self, item: Item) -> Told:
        """What the xml says of an image."""
        folder = self.folders[item.told.folder]
        root = _parse(folder / _XMLS / f'{item.id}.xml')
        pixels = _segments(folder / _SEGMENTS / f'{item.id}.png') if self.masks else None
        elements = root.findall('object')
        size, odd = _size(root)
        odd += _strangers(pixels, len(elements)) + _of_another(root, str(item.id))
        found = [(number, Annotation(number, element, pixels)) for number, element in enumerate(elements, 1)]
        return Told(found, f'{_XMLS}/{item.id}.xml', size, _number(root, 'size/depth') or None, odd)

    def annotate(self, item: Item, value: Annotation, file: ImageFile,
                 ) -> tuple[records.ObjectAnnotation, list[Fault], list[Fault]]:
        """One object as a record holds it."""
        category = self.categories.get(_text(value.element, 'name'))
        if category is None:
            raise Unusable('category not in the list', f'name is {_text(value.element, "name")!r:.40}')
        box, repairs = _box(value.element, file)
        mask = None if value.pixels is None else _mask(value.pixels, value.number, file)
        covered = objects.box_area(box) if mask is None else float(np.count_nonzero(mask))
        made = records.ObjectAnnotation(
            box=box, label=category.label, name=category.name, area=covered,
            annotation_id=item.told.ordinal * _ID_ROOM + value.number,
            mask=None if mask is None else records.encode_mask(mask),
            difficult=_flag(value.element, 'difficult'), truncated=_flag(value.element, 'truncated'))
        odd = [] if mask is None else objects.disagreement(box, objects.mask_box(mask))
        return made, repairs, [*_thin(value.element), *odd]


def _folders(roots: Sequence[str | os.PathLike[str]], years: Sequence[str]) -> list[pathlib.Path]:
    folders = [folder for root in roots for folder in (
        [pathlib.Path(root) / f'VOC{year}' for year in years] or [pathlib.Path(root)])]
    for folder in folders:
        for name in (_XMLS, 'ImageSets', _PICTURES):
            if not (folder / name).is_dir():
                below = sorted(path.name[3:] for path in folder.glob('VOC*') if path.is_dir())
                hint = f'; choose the year {" or ".join(below)}' if below else ''
                raise ConversionError(f'{folder}: no directory {name}{hint}; give the directory of {_XMLS}, ImageSets '
                                      f'and {_PICTURES}')
    return folders


def _list_path(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / 'ImageSets' / (f'{split}.txt' if '/' in split else f'Main/{split}.txt')


def _list(folder: pathlib.Path, split: str) -> list[str]:
    """Ids of the images; of a list for one class, with 1, 0 or -1 behind each id, those that show it."""
    path = _list_path(folder, split)
    if not path.is_file():
        lists = (folder / 'ImageSets').glob('*/*.txt')
        there = sorted(str(each.relative_to(folder / 'ImageSets'))[:-4] for each in lists if '_' not in each.name)
        raise ConversionError(f'{path}: no such list of images; there are {", ".join(there) or "none"}')
    rows = [line.split() for line in _read_text(path).splitlines() if line.strip()]
    return [row[0] for row in rows if row[1:] != ['-1']]


def _check_ids(ids: Sequence[str], folders: Sequence[pathlib.Path], split: str) -> None:
    lists = ' and '.join(str(_list_path(folder, split)) for folder in folders)
    if not ids:
        raise ConversionError(f'{lists}: no image is listed; choose another split')
    image_id, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise ConversionError(f'{lists}: image {image_id} is listed {count} times; join sets of different images')


def _classes(path: str | os.PathLike[str] | None) -> Sequence[str]:
    if path is None:
        return CLASSES
    names = [line.strip() for line in _read_text(pathlib.Path(path)).splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        wrong = f'class {Counter(names).most_common(1)[0][0]!r} is listed twice' if names else 'no class is listed'
        raise ConversionError(f'{path}: {wrong}; write the name of each class on a line of its own')
    return names


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}; give a text file') from None
    except UnicodeDecodeError as error:
        raise ConversionError(f'{path}: not UTF-8 at byte {error.start}; store it as UTF-8') from None


def _parse(path: pathlib.Path) -> Element:
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Unusable('missing annotation file', str(path)) from None
    except OSError as error:
        raise Unusable('unreadable annotation file', f'{path}: {error.strerror}') from None
    except (SyntaxError, ValueError, LookupError) as error:      # of xml, forbidden entities, unknown encoding
        raise Unusable('malformed xml', f'{path}: {" ".join(str(error).split()) or type(error).__name__}') from None
    if root.tag != 'annotation':
        raise Unusable('malformed xml', f'{path}: it holds {root.tag!r:.40}, expected annotation')
    return root


def _size(root: Element) -> tuple[tuple[int, int] | None, list[Fault]]:
    """Height and width as stated, and a fault where they are none."""
    height, width = _number(root, 'size/height'), _number(root, 'size/width')
    if height and width:
        return (height, width), []
    return None, [Fault('size not stated', f'height {_text(root, "size/height")!r:.20}, '
                                           f'width {_text(root, "size/width")!r:.20}')]


def _of_another(root: Element, image_id: str) -> list[Fault]:
    name = _text(root, 'filename')
    same = not name or pathlib.PurePath(name).stem == image_id or name == image_id
    return [] if same else [Fault('file name differs', f'filename is {name!r:.80}')]


def _segments(path: pathlib.Path) -> np.ndarray:
    """Index of the object of each pixel, uint8 [height, width]; 0 outside."""
    if not path.is_file():
        raise Unusable('no segmentation', str(path))
    pixels = images.pixels(images.read(path), str(path))
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise Unusable('malformed annotation', f'{path}: expected a palette or grey values of 8 bit')
    return np.where(pixels == _BORDER, 0, pixels)


def _strangers(pixels: np.ndarray | None, count: int) -> list[Fault]:
    values = [] if pixels is None else np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    beyond = [value for value in values if value > count]
    return [Fault('segments of no object', f'{beyond[:5]}, the xml has {count} objects')] if beyond else []


def _mask(pixels: np.ndarray, number: int, file: ImageFile) -> np.ndarray:
    if pixels.shape != (file.height, file.width):
        raise Unusable('mask of another size', f'{_SEGMENTS} is {pixels.shape[0]} x {pixels.shape[1]}, '
                                               f'the image {file.height} x {file.width}')
    mask = pixels == number
    if not mask.any():
        raise Unusable('empty mask', f'{_SEGMENTS} has no pixel of {number}')
    return mask


def _box(element: Element, file: ImageFile) -> tuple[objects.Box, list[Fault]]:
    texts = [_text(element, f'bndbox/{side}') for side in _SIDES]
    text = ', '.join(f'{side} {value!r:.20}' for side, value in zip(_SIDES, texts, strict=True))
    try:
        top, left, bottom, right = objects.finite([float(value) for value in texts], text)
    except ValueError:
        raise Unusable('malformed box', text) from None
    return objects.clip((top - 1, left - 1, bottom, right), (file.height, file.width), text)


def _thin(element: Element) -> list[Fault]:
    """A fault where the first and the last pixel are the same: mostly a click that was meant to be a box."""
    texts = [_text(element, f'bndbox/{side}') for side in _SIDES]
    same = texts[0] == texts[2] or texts[1] == texts[3]
    return [Fault('box one pixel wide or high', f'{", ".join(texts)} ({", ".join(_SIDES)})')] if same else []


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or '').strip()


def _number(element: Element, path: str) -> int | None:
    text = _text(element, path)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _flag(element: Element, name: str) -> bool | None:
    """None where it is neither 0 nor 1: not stated."""
    return {'0': False, '1': True}.get(_text(element, name))
