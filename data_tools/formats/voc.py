"""PASCAL VOC's annotations: an xml for each image with boxes, and where there is a SegmentationObject, masks.

In SegmentationObject/ID.png, pixel k is object k of the xml, from 1; 255 is the border between objects.

VOC counts pixels from 1 and a box includes its last pixel: xmin = 1, xmax = 10 are ten pixels, 0..10 in continuous
edges. So 1 is taken from the minima only. Annotation tools mostly write continuous edges: nothing is taken then.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from defusedxml import ElementTree

from data_tools import conversion, images, objects
from data_tools.conversion import DataSet, Item, Told
from data_tools.file_names import AMBIGUOUS, RENAMED, FileNames, Found, inside
from data_tools.formats import voc_folders
from data_tools.formats.categories import WITHOUT_OBJECTS
from data_tools.formats.voc_folders import SEGMENTS, Folders
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, Fault, Log, Unusable
from mrcnn_tf import files
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
    'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
_SIDES = ('ymin', 'xmin', 'ymax', 'xmax')
_LABELMAP = '# label:color_rgb:parts:actions'      # the first line of labelmap.txt of CVAT and Datumaro
_UNSTATED = 'Unspecified'        # VOC's own word
_BORDER = 255
_CODE = np.array([1 << 16, 1 << 8, 1])      # red, green, blue to one number
_ID_ROOM = 1_000_000             # annotation ids of an image
_BYTES_OF_MASKS = 20_000         # of an image's, roughly
_SAMPLE = 200                    # xml files whose classes are looked at, evenly spread
_MOST_LISTED = 20                # classes in a message


class Place(NamedTuple):
    """Which image of a set."""
    folder: int                  # index of its root
    ordinal: int                 # from 1
    xml: str                     # file below Folders.xmls
    missing: Fault | None        # why there is no image file


class _Image(NamedTuple):
    """An image that is listed."""
    folder: int                  # index of its root
    entry: voc_folders.Entry
    picture: Found


class Annotation(NamedTuple):
    """An object of an xml file."""
    number: int                       # from 1
    element: Element
    pixels: np.ndarray | None         # SegmentationObject of the image


def find(roots: Sequence[str | os.PathLike[str]], split: str | None = None, years: Sequence[str] = (),
         classes: str | os.PathLike[str] | None = None, masks: bool | None = None, first_pixel: int = 1,
         follow: bool = False) -> DataSet:
    """Return what the folders of a split hold, of several roots as one set.

    Args:
        roots: each a directory as `voc_folders` describes it; with `years`, one with a VOC<year> for each.
        split: name of a list in ImageSets/Main, or a path in ImageSets: 'Segmentation/train'. None: the only list, or
            where there are no lists all xml files.
        classes: file of class names, one a line, in the order of the labels; None: the 20 of VOC.
        masks: read masks and drop images without; False: boxes only; None: masks where every image has them.
        first_pixel: number of the first row and column; 0: boxes are continuous edges.
        follow: read files that their names or symlinks put outside of these directories.

    Raises:
        ConversionError: a directory, list or class file is missing or empty, an id is listed twice, `classes` are not
            those of the xml files.
    """
    log = Log()
    folders = voc_folders.folders(roots, years)
    lists = [voc_folders.listed(folder, split, log) for folder in folders]
    voc_folders.check_ids(lists)
    images = [_Image(number, entry, _picture(names, folder, entry))
              for number, (folder, found) in enumerate(zip(folders, lists, strict=True))
              for names in [FileNames(folder.pictures, follow=follow)] for entry in found.entries]
    for number, folder in enumerate(folders):
        if split is None and not folder.lists:
            _drop_unannotated(folder, {image.picture.name for image in images if image.folder == number}, log)
    for image in images:
        if image.picture.repair:
            log.repair(image.picture.repair, image.entry.id, file=image.entry.xml)
    if masks is None:
        masks = _all_have_masks(images, folders, log)
    categories = conversion.categories(_classes(classes))
    source = Voc(tuple(folders), {category.name: category for category in categories}, masks, first_pixel, follow)
    head = Manifest(
        name='', categories=categories, counts=Counts(), max_objects_per_image=0, dropped=log.dropped,
        repaired=log.repaired, kept=log.kept, shards=[], has_masks=masks, source=Source(
            'voc', ', '.join(str(found.source) for found in lists), ', '.join(str(each.pictures) for each in folders)))
    numbers = conversion.numbers([image.entry.id for image in images])
    items = [source.item(image, number, ordinal, (split or '').rpartition('/')[2])
             for ordinal, (image, number) in enumerate(zip(images, numbers, strict=True), 1)]
    _check_classes(source, items, classes, log)
    return DataSet(head, items, source)


@dataclass(frozen=True)
class Voc:
    """Annotations as VOC's folders hold them."""
    folders: tuple[Folders, ...]
    categories: dict[str, Category]      # by name
    masks: bool
    first_pixel: int = 1
    follow: bool = False                 # files that lie elsewhere

    def item(self, image: _Image, number: int, ordinal: int, split: str) -> Item:
        """The image of this id."""
        place = Place(image.folder, ordinal, image.entry.xml, image.picture.missing)
        folder, image_id = self.folders[place.folder], image.entry.id
        others = [folder.xmls / place.xml, *([folder.segments / f'{image_id}.png'] if self.masks else [])]
        size, modified = conversion.held(folder.pictures / image.picture.name, *others)
        size += _BYTES_OF_MASKS if self.masks else 0
        return Item(image_id, number, image.picture.name, size, modified, place, split)

    def path(self, item: Item) -> pathlib.Path:
        """The image's file; raises Unusable where there is none."""
        if item.told.missing:
            raise Unusable(*item.told.missing)
        return self.folders[item.told.folder].pictures / item.file_name

    def tell(self, item: Item) -> Told:
        """What the xml says of an image."""
        folder = self.folders[item.told.folder]
        root = _parse(inside(folder.xmls, item.told.xml, self.follow))
        pixels = _segments(inside(folder.segments, f'{item.id}.png', self.follow)) if self.masks else None
        elements = root.findall('object')
        size, odd = _size(root)
        odd += _strangers(pixels, len(elements)) + _of_another(root, item)
        found = [(number, Annotation(number, element, pixels)) for number, element in enumerate(elements, 1)]
        return Told(found, f'{folder.xmls.name}/{item.told.xml}', size, _number(root, 'size/depth') or None, odd)

    def annotate(self, item: Item, value: Annotation, file: ImageFile,
                 ) -> tuple[records.ObjectAnnotation, list[Fault], list[Fault]]:
        """One object as a record holds it."""
        name = _text(value.element, 'name')
        category = self.category(name)
        if category is None:
            raise Unusable('category not in the list', f'name is {name!r:.40}')
        box, repairs = _box(value.element, file, self.first_pixel)
        if name != category.name:
            repairs.append(Fault('class in other letter case', f'{name!r:.40} is read as {category.name!r:.40}'))
        mask = None if value.pixels is None else _mask(value.pixels, value.number, file)
        has_mask = mask is None or bool(mask.any())
        covered = objects.box_area(box) if mask is None or not has_mask else float(np.count_nonzero(mask))
        made = records.ObjectAnnotation(
            box=box, label=category.label, name=category.name, area=covered,
            annotation_id=item.told.ordinal * _ID_ROOM + value.number,
            mask=None if mask is None else records.encode_mask(mask), has_mask=has_mask,
            difficult=_flag(value.element, 'difficult'), truncated=_flag(value.element, 'truncated'))
        if not has_mask:
            odd = [Fault(objects.NO_MASK, f'{SEGMENTS} has no pixel of {value.number}; it has box losses and no mask '
                                          'loss')]
        else:
            odd = [] if mask is None else objects.disagreement(box, objects.mask_box(mask))
        return made, repairs, [*_thin(value.element), *_unread(value.element), *odd]

    def category(self, name: str) -> Category | None:
        """The category of this name, in other letter case if that leaves one only."""
        if name in self.categories:
            return self.categories[name]
        alike = [each for each in self.categories.values() if each.name.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else None


def _picture(names: FileNames, folder: Folders, entry: voc_folders.Entry) -> Found:
    """The image of an xml file: the one of the same name, whatever its suffix, else the one that the xml names."""
    found = names.find(entry.id)
    if not found.missing:
        same = entry.id in (found.name, os.path.splitext(found.name)[0])
        return found._replace(repair=None if same else Fault(RENAMED, f'{entry.xml!r} is of {found.name!r}'))
    try:
        stated = _text(_parse(folder.xmls / entry.xml), 'filename')
    except Unusable:      # told when the image's turn comes
        return found
    named = names.find(stated) if stated else found
    if named.missing:
        return found
    several = found.missing.reason == AMBIGUOUS
    return named if several or named.repair else named._replace(
        repair=Fault(RENAMED, f'{entry.id!r} is {named.name!r}: it is the filename in the xml'))


def _drop_unannotated(folder: Folders, named: set[str], log: Log) -> None:
    for name in voc_folders.pictures_without_xml(folder, named):
        log.drop(Fault('image without an xml file', f'{folder.pictures / name} is in no xml file of {folder.xmls}'),
                 os.path.splitext(name)[0], file=name)


def _all_have_masks(images: Sequence[_Image], folders: Sequence[Folders], log: Log) -> bool:
    having = [image for image in images if (folders[image.folder].segments / f'{image.entry.id}.png').is_file()]
    if 0 < len(having) < len(images):
        log.keep(Fault('masks not read', f'{len(having)} of {len(images)} images have a {SEGMENTS}: give --masks to '
                                         'convert these alone'),
                 having[0].entry.id)
    return len(having) == len(images)


def _check_classes(source: Voc, items: Sequence[Item], path: str | os.PathLike[str] | None, log: Log) -> None:
    """Raises ConversionError where the classes of a sample of the xml files are others: their own are listed then.

    Classes of the file `path` that no object has are logged.
    """
    sample = _class_counts(source, items[::max(1, len(items) // _SAMPLE)])
    known = sum(count for name, count in sample.items() if source.category(name))
    if known * 2 >= sample.total() if path is None else known or not sample:
        if path is not None and known and _unused(source, sample):
            for category in _unused(source, _class_counts(source, items)):
                log.keep(Fault(WITHOUT_OBJECTS, f'{category.name!r}; remove it from the file to leave it out'), None,
                         file=os.path.basename(path))
        return
    found = _class_counts(source, items).most_common()
    listed = ', '.join(f'{name!r:.40} ({count})' for name, count in found[:_MOST_LISTED])
    more = f' and {len(found) - _MOST_LISTED} more' if found[_MOST_LISTED:] else ''
    where = ', '.join(str(folder.xmls) for folder in source.folders)
    wrong = "most objects are of none of VOC's 20 classes" if path is None else f'no object is of a class of {path}'
    there = next((file for folder in source.folders if (file := folder.root / 'classes.txt').is_file()), None)
    hint = f'; if {there} is one, give that' if there and path is None else ''
    raise ConversionError(f'{where}: {wrong}, but of {listed}{more}: write these names to a file, one a line, and give '
                          f'it as --classes{hint}')


def _unused(source: Voc, counts: Counter[str]) -> list[Category]:
    found = [source.category(name) for name in counts]
    return [category for category in source.categories.values() if category not in found]


def _class_counts(source: Voc, items: Sequence[Item]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for item in items:
        with contextlib.suppress(Unusable):      # told when the image's turn comes
            root = _parse(source.folders[item.told.folder].xmls / item.told.xml)
            counts.update(_text(element, 'name') or '(no name)' for element in root.findall('object'))
    return counts


def _classes(path: str | os.PathLike[str] | None) -> Sequence[str]:
    if path is None:
        return CLASSES
    names = [line.strip() for line in voc_folders.read_text(pathlib.Path(path)).splitlines() if line.strip()]
    if names[:1] == [_LABELMAP]:
        names = [name for name in (line.partition(':')[0] for line in names[1:]) if name != 'background']
    if not names or len(set(names)) < len(names):
        wrong = f'class {Counter(names).most_common(1)[0][0]!r} is listed twice' if names else 'no class is listed'
        raise ConversionError(f'{path}: {wrong}; write the name of each class on a line of its own')
    return names


def _parse(path: pathlib.Path) -> Element:
    try:
        root = ElementTree.fromstring(files.read_bytes(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Unusable('missing annotation file', str(path)) from None
    except OSError as error:
        raise Unusable('unreadable annotation file', f'{path}: {error.strerror}') from None
    except (SyntaxError, ValueError, LookupError) as error:      # of xml, forbidden entities, unknown encoding
        raise Unusable('malformed xml', f'{path}: {error_line(error)}') from None
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


def _of_another(root: Element, item: Item) -> list[Fault]:
    stated = re.split(r'[\\/]', _text(root, 'filename'))[-1]
    file = pathlib.PurePath(item.file_name)
    same = not stated or stated in (file.name, file.stem) or pathlib.PurePath(stated).stem == file.stem
    return [] if same else [Fault('file name differs', f'filename is {stated!r:.80}')]


def _segments(path: pathlib.Path) -> np.ndarray:
    """Index of the object of each pixel, uint8 [height, width]; 0 outside."""
    if not path.is_file():
        raise Unusable('no segmentation', str(path))
    pixels = images.pixels(images.read(path), str(path))
    if pixels.dtype != np.uint8 or pixels.shape[2:] == (2,):
        raise Unusable('malformed annotation', f'{path}: expected a palette, grey values of 8 bit or colours; '
                                               '--boxes converts without masks')
    if pixels.ndim == 3:
        pixels = _indices(pixels[..., :3], path)
    return np.where(pixels == _BORDER, 0, pixels)


def _indices(pixels: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Index of each colour, uint8 [height, width]."""
    colours, codes = colour_map() @ _CODE, pixels @ _CODE
    order = np.argsort(colours)
    indices = order[np.searchsorted(colours, codes, sorter=order).clip(max=_BORDER)]
    wrong = pixels[colours[indices] != codes]
    if len(wrong):
        raise Unusable('malformed annotation', f"{path}: RGB {wrong[0].tolist()} is no colour of VOC's map; "
                                               '--boxes converts without masks')
    return indices.astype(np.uint8)


def colour_map() -> np.ndarray:
    """Return VOC's colours, uint8 [256, 3]: of an index the lowest three bits are the highest of red, green and blue,
    the next three the second highest, and so on.
    """
    bits = np.arange(256)[:, None] >> np.arange(9) & 1      # [256, 9], the lowest first
    return (bits.reshape(256, 3, 3) << np.array([7, 6, 5])[:, None]).sum(1).astype(np.uint8)


def _strangers(pixels: np.ndarray | None, count: int) -> list[Fault]:
    values = [] if pixels is None else np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    beyond = [value for value in values if value > count]
    return [Fault('segments of no object', f'{beyond[:5]}, the xml has {count} objects')] if beyond else []


def _mask(pixels: np.ndarray, number: int, file: ImageFile) -> np.ndarray:
    if pixels.shape != (file.height, file.width):
        raise Unusable('mask of another size', f'{SEGMENTS} is {pixels.shape[1]} wide and {pixels.shape[0]} high, '
                                               f'the image {file.width} wide and {file.height} high')
    return pixels == number


def _box(element: Element, file: ImageFile, first: int) -> tuple[objects.Box, list[Fault]]:
    texts = [_text(element, f'bndbox/{side}') for side in _SIDES]
    text = ', '.join(f'{side} {value!r:.20}' for side, value in zip(_SIDES, texts, strict=True))
    if element.find('robndbox') is not None:
        raise Unusable('rotated box', 'robndbox is turned by an angle; export upright boxes')
    try:
        top, left, bottom, right = objects.finite([float(value) for value in texts], text)
    except ValueError:
        raise Unusable('malformed box', text) from None
    if 0 <= min(top, left) < max(bottom, right) <= 1 and any(side % 1 for side in (top, left, bottom, right)):
        raise Unusable('normalised box', f'{text} are shares of the image, VOC has pixels; export pixels')
    box, clipped = objects.clip((top - first, left - first, bottom, right), (file.height, file.width), text)
    if first and min(top, left) == 0:
        clipped = [fault._replace(detail=f'{fault.detail}; if the set counts from 0, give --first-pixel 0')
                   for fault in clipped]
    return box, clipped


def _thin(element: Element) -> list[Fault]:
    """A fault where the first and the last pixel are the same: mostly a click that was meant to be a box."""
    texts = [_text(element, f'bndbox/{side}') for side in _SIDES]
    same = texts[0] == texts[2] or texts[1] == texts[3]
    return [Fault('box one pixel wide or high', f'{", ".join(texts)} ({", ".join(_SIDES)})')] if same else []


def _unread(element: Element) -> list[Fault]:
    """A fault for each part of an object that is not read though it says something."""
    found = []
    if element.find('polygon') is not None:
        found.append(Fault('polygon not read', 'VOC has masks in SegmentationObject; export COCO for masks'))
    if (boxes := len(element.findall('bndbox'))) > 1:
        found.append(Fault('object of several boxes', f'the first of {boxes} is read; give each box its own object'))
    for name in ('difficult', 'truncated'):
        if (text := _text(element, name)) not in ('', _UNSTATED) and _flag(element, name) is None:
            found.append(Fault('flag neither 0 nor 1', f'{name} is {text!r:.40}, and counts as not stated'))
    return found


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or '').strip()


def _number(element: Element, path: str) -> int | None:
    text = _text(element, path)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _flag(element: Element, name: str) -> bool | None:
    """None where it is neither 0 nor 1: not stated."""
    return {'0': False, '1': True}.get(_text(element, name))
