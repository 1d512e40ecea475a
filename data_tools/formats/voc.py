"""PASCAL VOC: an xml file of objects for each image (`voc_xml`), and masks from SegmentationObject (`voc_masks`)."""
from __future__ import annotations

import contextlib
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_tools import data_set, objects
from data_tools.data_set import ConvertedObject, DataSet, ImageAnnotations, Item
from data_tools.file_names import AMBIGUOUS, RENAMED, FileMatch, FileNames, inside
from data_tools.formats import voc_folders, voc_masks, voc_xml
from data_tools.formats.categories import WITHOUT_OBJECTS
from data_tools.formats.voc_folders import SEGMENTS, Folders
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, InvalidDataError, Issue, IssueLog
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
    'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
_LABELMAP = '# label:color_rgb:parts:actions'      # the first line of labelmap.txt of CVAT and Datumaro
_IDS_PER_IMAGE = 1_000_000       # annotation ids
_MASK_BYTES = 20_000             # of an image, approximately
_SAMPLE = 200                    # xml files whose classes are compared, evenly spread
_MAX_LISTED = 20                 # classes in a message


class Reference(NamedTuple):
    """Where an image's annotations are."""
    folder: int                  # index of its root
    ordinal: int                 # from 1
    xml: str                     # file below Folders.xmls
    missing: Issue | None        # why there is no image file


class _Image(NamedTuple):
    """A listed image."""
    folder: int                  # index of its root
    entry: voc_folders.Entry
    picture: FileMatch


class Annotation(NamedTuple):
    """An object of an xml file."""
    number: int                       # from 1
    element: Element
    pixels: np.ndarray | None         # SegmentationObject of the image


@dataclass(frozen=True)
class Options:
    """How the directories are read.

    Attributes:
        classes: file of class names, one per line, in the order of the labels; None: VOC's 20.
        masks: read masks and drop images without; False: boxes only; None: masks if every image has them.
        first_pixel: number of the first row and column; 0: boxes have continuous edges.
        follow: also read files that names or symlinks place outside the directories.
    """
    classes: str | os.PathLike[str] | None = None
    masks: bool | None = None
    first_pixel: int = 1
    follow: bool = False


DEFAULTS = Options()


def find(roots: Sequence[str | os.PathLike[str]], split: str | None = None, years: Sequence[str] = (),
         options: Options = DEFAULTS) -> DataSet:
    """Return the data set of a split, of several roots as one set.

    Args:
        roots: directories that `voc_folders` describes; with `years`, each holds a VOC<year> for every year.
        split: name of a list in ImageSets/Main, or a path in ImageSets: 'Segmentation/train'. None: the only list, or
            without lists all xml files.
        years: see `roots`; none: the roots themselves hold the files.
        options: how the directories are read.

    Raises:
        ConversionError: a directory, list or class file is missing or empty, an id is listed twice, the xml files have
            other classes than `options.classes`.
    """
    log = IssueLog()
    folders = voc_folders.folders(roots, years)
    lists = [voc_folders.listed(folder, split, log) for folder in folders]
    voc_folders.check_ids(lists)
    images = _images(folders, lists, options.follow)
    for number, folder in enumerate(folders):
        if split is None and not folder.lists:
            _drop_unannotated(folder, {image.picture.name for image in images if image.folder == number}, log)
    for image in images:
        if image.picture.repair:
            log.repair(image.picture.repair, image.entry.id, file=image.entry.xml)
    masks = _all_have_masks(images, folders, log) if options.masks is None else options.masks
    categories = data_set.numbered_categories(_classes(options.classes))
    source = Voc(tuple(folders), {category.name: category for category in categories}, masks, options.first_pixel,
                 options.follow)
    head = Manifest(
        name='', categories=categories, counts=Counts(), max_objects_per_image=0, dropped=log.dropped,
        repaired=log.repaired, kept=log.kept, shards=[], has_masks=masks, source=Source(
            'voc', ', '.join(str(each.source) for each in lists), ', '.join(str(each.pictures) for each in folders)))
    numbers = data_set.image_numbers([image.entry.id for image in images])
    items = [source.item(image, number, ordinal, (split or '').rpartition('/')[2])
             for ordinal, (image, number) in enumerate(zip(images, numbers, strict=True), 1)]
    _check_classes(source, items, options.classes, log)
    return DataSet(head, items, source)


@dataclass(frozen=True)
class Voc:
    """Reads annotations of the directories of VOC."""
    folders: tuple[Folders, ...]
    categories: dict[str, Category]      # by name
    masks: bool
    first_pixel: int = 1
    follow: bool = False                 # also read files outside the directories

    def item(self, image: _Image, number: int, ordinal: int, split: str) -> Item:
        """Return the item of an image; number: its `image/id`."""
        reference = Reference(image.folder, ordinal, image.entry.xml, image.picture.missing)
        folder, image_id = self.folders[image.folder], image.entry.id
        others = [folder.xmls / reference.xml, *([folder.segments / f'{image_id}.png'] if self.masks else [])]
        size, modified = data_set.file_stamp(folder.pictures / image.picture.name, *others)
        size += _MASK_BYTES if self.masks else 0
        return Item(image_id, number, image.picture.name, size, modified, reference, split)

    def path(self, item: Item) -> pathlib.Path:
        """Return the path of the image; raises InvalidDataError if there is no such file."""
        if item.reference.missing:
            raise InvalidDataError(*item.reference.missing)
        return self.folders[item.reference.folder].pictures / item.file_name

    def read(self, item: Item) -> ImageAnnotations:
        """Return the objects of an xml file."""
        folder, xml = self.folders[item.reference.folder], item.reference.xml
        root = voc_xml.parse(inside(folder.xmls, xml, self.follow))
        pixels = voc_masks.read(inside(folder.segments, f'{item.id}.png', self.follow)) if self.masks else None
        elements = root.findall('object')
        size, warnings = voc_xml.image_size(root)
        warnings += voc_masks.unknown_segments(pixels, len(elements)) + voc_xml.other_file_name(root, item.file_name)
        annotations = [(number, Annotation(number, element, pixels)) for number, element in enumerate(elements, 1)]
        channels = voc_xml.number(root, 'size/depth') or None
        return ImageAnnotations(annotations, f'{folder.xmls.name}/{xml}', size, channels, warnings)

    def convert_object(self, item: Item, value: Annotation, file: ImageFile) -> ConvertedObject:
        """Return one object as a record holds it."""
        name = voc_xml.text(value.element, 'name')
        category = self.category(name)
        if category is None:
            raise InvalidDataError('category not in the list', f'name is {name!r:.40}')
        box, repairs = voc_xml.box(value.element, (file.height, file.width), self.first_pixel)
        if name != category.name:
            repairs.append(Issue('class in other letter case', f'{name!r:.40} is read as {category.name!r:.40}'))
        mask = None if value.pixels is None else voc_masks.mask(value.pixels, value.number, (file.height, file.width))
        has_mask = mask is None or bool(mask.any())
        area = objects.box_area(box) if mask is None or not has_mask else float(np.count_nonzero(mask))
        annotation = records.ObjectAnnotation(
            box=box, label=category.label, name=category.name, area=area,
            annotation_id=item.reference.ordinal * _IDS_PER_IMAGE + value.number,
            mask=None if mask is None else records.encode_mask(mask), has_mask=has_mask,
            difficult=voc_xml.flag(value.element, 'difficult'), truncated=voc_xml.flag(value.element, 'truncated'))
        warnings = [*voc_xml.thin_box(value.element), *voc_xml.unread_parts(value.element)]
        if not has_mask:
            warnings.append(Issue(objects.NO_MASK, f'{SEGMENTS} has no pixel of {value.number}; it has box losses and '
                                                   'no mask loss'))
        elif mask is not None:
            warnings += objects.disagreement(box, objects.mask_box(mask))
        return ConvertedObject(annotation, repairs, warnings)

    def category(self, name: str) -> Category | None:
        """Return the category of this name, in another letter case if that leaves only one; else None."""
        if name in self.categories:
            return self.categories[name]
        alike = [each for each in self.categories.values() if each.name.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else None


def _images(folders: Sequence[Folders], lists: Sequence[voc_folders.Listed], follow: bool) -> list[_Image]:
    """Return the listed images of all roots with their files."""
    return [_Image(number, entry, _picture(names, folder, entry))
            for number, (folder, each) in enumerate(zip(folders, lists, strict=True))
            for names in [FileNames(folder.pictures, follow=follow)] for entry in each.entries]


def _picture(names: FileNames, folder: Folders, entry: voc_folders.Entry) -> FileMatch:
    """Return the image of an xml file: the one of the same name with any suffix, else the one that the xml names."""
    match = names.find(entry.id)
    if not match.missing:
        same = entry.id in (match.name, os.path.splitext(match.name)[0])
        return match._replace(repair=None if same else Issue(RENAMED, f'{entry.xml!r} is of {match.name!r}'))
    try:
        stated = voc_xml.text(voc_xml.parse(folder.xmls / entry.xml), 'filename')
    except InvalidDataError:      # logged when the image is converted
        return match
    named = names.find(stated) if stated else match
    if named.missing:
        return match
    several = match.missing.reason == AMBIGUOUS
    return named if several or named.repair else named._replace(
        repair=Issue(RENAMED, f'{entry.id!r} is {named.name!r}: it is the filename in the xml'))


def _drop_unannotated(folder: Folders, named: set[str], log: IssueLog) -> None:
    for name in voc_folders.pictures_without_xml(folder, named):
        log.drop(Issue('image without an xml file', f'{folder.pictures / name} is in no xml file of {folder.xmls}'),
                 os.path.splitext(name)[0], file=name)


def _all_have_masks(images: Sequence[_Image], folders: Sequence[Folders], log: IssueLog) -> bool:
    having = [image for image in images if (folders[image.folder].segments / f'{image.entry.id}.png').is_file()]
    if 0 < len(having) < len(images):
        log.keep(Issue('masks not read', f'{len(having)} of {len(images)} images have a {SEGMENTS}: give --masks to '
                                         'convert only these'),
                 having[0].entry.id)
    return len(having) == len(images)


def _check_classes(source: Voc, items: Sequence[Item], path: str | os.PathLike[str] | None, log: IssueLog) -> None:
    """Raise ConversionError, with the classes of the xml files, if those of a sample are not in the list.

    Classes of the file `path` that no object has are logged.
    """
    sample = _class_counts(source, items[::max(1, len(items) // _SAMPLE)])
    known = sum(count for name, count in sample.items() if source.category(name))
    if known * 2 >= sample.total() if path is None else known or not sample:
        if path is not None and known and _unused(source, sample):
            for category in _unused(source, _class_counts(source, items)):
                log.keep(Issue(WITHOUT_OBJECTS, f'{category.name!r}; remove it from the file to drop it'), None,
                         file=os.path.basename(path))
        return
    counts = _class_counts(source, items).most_common()
    listed = ', '.join(f'{name!r:.40} ({count})' for name, count in counts[:_MAX_LISTED])
    more = f' and {len(counts) - _MAX_LISTED} more' if counts[_MAX_LISTED:] else ''
    where = ', '.join(str(folder.xmls) for folder in source.folders)
    wrong = "most objects have none of VOC's 20 classes" if path is None else f'no object has a class of {path}'
    existing = next((file for folder in source.folders if (file := folder.root / 'classes.txt').is_file()), None)
    hint = f'; if {existing} lists them, give that' if existing and path is None else ''
    raise ConversionError(f'{where}: {wrong}, but {listed}{more}: write these names to a file, one per line, and give '
                          f'it as --classes{hint}')


def _unused(source: Voc, counts: Counter[str]) -> list[Category]:
    """Return the categories without objects."""
    used = [source.category(name) for name in counts]
    return [category for category in source.categories.values() if category not in used]


def _class_counts(source: Voc, items: Sequence[Item]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for item in items:
        with contextlib.suppress(InvalidDataError):      # logged when the image is converted
            root = voc_xml.parse(source.folders[item.reference.folder].xmls / item.reference.xml)
            counts.update(voc_xml.text(element, 'name') or '(no name)' for element in root.findall('object'))
    return counts


def _classes(path: str | os.PathLike[str] | None) -> Sequence[str]:
    """Return the class names of a file, or VOC's."""
    if path is None:
        return CLASSES
    names = [line.strip() for line in voc_folders.read_text(pathlib.Path(path)).splitlines() if line.strip()]
    if names[:1] == [_LABELMAP]:
        names = [name for name in (line.partition(':')[0] for line in names[1:]) if name != 'background']
    if not names or len(set(names)) < len(names):
        wrong = f'class {Counter(names).most_common(1)[0][0]!r} is listed twice' if names else 'it lists no class'
        raise ConversionError(f'{path}: {wrong}; write the name of each class on a line of its own')
    return names
