"""COCO's instances json and its images: of COCO, LVIS, Objects365, or any tool that writes this format.

COCO's boxes are x, y, width, height in px with continuous edges; they are converted to y1, x1, y2, x2. Its category ids
have gaps; labels are 1..K in order of id. Invalid annotations are dropped or repaired, and counted by reason. Only a
json that is not COCO's, or whose boxes as a whole look like another format, stops the conversion.
"""
from __future__ import annotations

import os
import pathlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_tools import conversion, data_set, objects
from data_tools.data_set import ConvertedObject, DataSet, ImageAnnotations, Item
from data_tools.file_names import FileNames
from data_tools.formats import categories, coco_boxes, coco_lists, json_lists, segmentation
from data_tools.formats.coco_lists import Contents, Version
from data_tools.formats.ids import Ids, as_number
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, InvalidDataError, Issue, IssueLog
from data_tools.sharding import writer
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source


class Reference(NamedTuple):
    """Where an image's annotations are in the json, which may be larger than the memory."""
    size: Any                            # of the image, as in coco_lists.Listed
    positions: np.ndarray                # int64 [n, 3]: ordinal in the json, from 1; first byte; length
    missing: Issue | None                # why there is no image file


@dataclass(frozen=True)
class Options:
    """How an instances json is read.

    Attributes:
        masks: read masks, unless no annotation has a segmentation; False: boxes only.
        box_format: one of `coco_boxes.NAMES`; None: COCO's, unless the boxes look like another format.
        categories: file of the names or ids of the categories to keep, one per line; None: all. Annotations of other
            categories are dropped.
        drop_unused_categories: drop categories without objects.
        crowds: an annotation with `iscrowd` 1 is a group of objects, as in COCO; False: it is one object.
        follow: also read images that names or symlinks place outside the directory of images.
    """
    masks: bool = True
    box_format: str | None = None
    categories: str | os.PathLike[str] | None = None
    drop_unused_categories: bool = False
    crowds: bool = True
    follow: bool = False


DEFAULTS = Options()


def convert(annotations: str | os.PathLike[str], images: str | os.PathLike[str], output: str | os.PathLike[str],
            name: str = 'train', options: writer.Options = writer.DEFAULTS) -> Manifest:
    """Write `OUTPUT/NAME-00000-of-0000N.tfrecord` and `OUTPUT/NAME.json`, and print a summary.

    For other choices than the defaults, call `find` and `conversion.convert`.

    Args:
        annotations, images: as in `find`.
        output: directory, made if missing.
        name: of the set.
        options: how shards are cut and written.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's; no image can be used.
        OSError: the disk is full or too small, permission is denied; nothing of the new set is left.
    """
    manifest = conversion.convert(find(annotations, images), output, name, options=options)
    writer.summarize(manifest)
    return manifest


def find(annotations: str | os.PathLike[str], images: str | os.PathLike[str], options: Options = DEFAULTS) -> DataSet:
    """Return the data set of an instances json.

    Args:
        annotations: COCO instances json; a test set has images only. If its image ids are not all ints of 64 bit,
            `image/id` is the ordinal, from 1.
        images: directory of its `file_name`s, or of the last parts of its `coco_url`s; JPEG or PNG.
        options: how the json is read.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's; its boxes look like another format.
    """
    path = pathlib.Path(annotations)
    contents = coco_lists.read(path)
    log = contents.log
    listed = categories.read(contents.categories, path, log)
    owners, kinds = coco_lists.owners(contents), coco_lists.kinds(contents, listed)
    coco_lists.note_equal_ids(contents)
    if options.box_format is None:
        sizes = [*(_size(image.size)[0] for image in contents.images), None]      # None: no image, index -1
        contents.boxes.check([sizes[owner] for owner in owners.tolist()], str(path))
    crowd = contents.annotations[owners >= 0, coco_lists.CROWD] * options.crowds
    listed = categories.count(listed, kinds[owners >= 0], crowd)
    labelled = categories.choose(listed, options.categories, options.drop_unused_categories, path, log)
    unwanted = [i for i in range(len(listed)) if i not in labelled]
    items = _items(contents, np.where(np.isin(kinds, unwanted), -1, owners),
                   FileNames(images, follow=options.follow))
    masks = options.masks and 'segmentation' in contents.keys
    head = Manifest(
        name='', categories=list(labelled.values()), counts=Counts(), max_objects_per_image=0, dropped=log.dropped,
        repaired=log.repaired, kept=log.kept, shards=[], has_masks=masks, source=Source('coco', str(path), str(images)))
    ids = Ids([category.id for category in listed])
    return DataSet(head, items, Coco(path, contents.version, pathlib.Path(images), ids, labelled, masks,
                                     options.box_format or 'xywh', contents.boxes.fractional_polygons(),
                                     options.crowds))


@dataclass(frozen=True)
class Coco:
    """Reads annotations of a COCO json."""
    annotations: pathlib.Path
    version: Version                                 # of the json
    images: pathlib.Path
    ids: Ids                                         # of all categories that the json lists
    categories: dict[int, Category]                  # those that are kept, by index of their id
    masks: bool
    box_format: str                                  # of coco_boxes.NAMES
    fractions: bool                                  # polygons within 0..1 are fractions of the image
    crowds: bool                                     # iscrowd 1 marks a group of objects; False: one object

    def path(self, item: Item) -> pathlib.Path:
        """Return the path of the image; raises InvalidDataError if there is no such file."""
        if item.reference.missing is not None:
            raise InvalidDataError(*item.reference.missing)
        return self.images / item.file_name

    def read(self, item: Item) -> ImageAnnotations:
        """Read the annotations of an image again from the json."""
        reference: Reference = item.reference
        data_set.check_object_count(len(reference.positions))      # before a million of them are read again
        if self.annotations.stat().st_mtime_ns != self.version.modified:
            raise ConversionError(f'{self.annotations}: it was changed while its images were converted; '
                                  'convert it again')
        annotations = json_lists.read(self.annotations, reference.positions[:, 1:].tolist())
        size, warnings = _size(reference.size)
        listed = [(coco_lists.name_of(annotation, ordinal), (ordinal, annotation))
                  for ordinal, annotation in zip(reference.positions[:, 0].tolist(), annotations, strict=True)]
        return ImageAnnotations(listed, self.annotations.name, size, warnings=[*warnings, *_repeated(listed)])

    def convert_object(self, item: Item, value: tuple[int, dict[str, Any]], file: ImageFile) -> ConvertedObject:
        """Return one annotation as a record holds it."""
        ordinal, annotation = value
        category = self._category(annotation.get('category_id'))
        size = file.height, file.width
        region, repairs, unmasked = self._region(annotation, size)
        box, of_box, warnings = self._box(annotation, region, size)
        covered = objects.box_area(box) if region is None else region.area
        area, of_area = objects.area(self._area(annotation.get('area')), covered)
        crowd = coco_lists.is_crowd(annotation)
        converted = records.ObjectAnnotation(
            box=box, label=category.label, name=category.name, area=area, crowd=crowd and self.crowds,
            annotation_id=_number(annotation.get('id'), ordinal),
            mask=region.png(*size) if region else segmentation.empty_png(*size) if self.masks else None,
            has_mask=not unmasked)
        warnings += [] if region is None else objects.disagreement(box, region.box)
        if crowd and not self.crowds:
            repairs = [*repairs, Issue('crowd taken as one object', f'iscrowd is {annotation["iscrowd"]!r}')]
        as_text, unclear = _of_crowd(annotation.get('iscrowd'))
        return ConvertedObject(
            converted, [*of_box, *repairs, *of_area, *as_text], [*unclear, *unmasked, *warnings])

    def _category(self, category_id: Any) -> Category:
        category = self.categories.get(self.ids.place(category_id))
        if category is None:
            raise InvalidDataError('category not in the list', f'category_id {category_id!r:.40}')
        return category

    def _box(self, annotation: dict[str, Any], region: segmentation.Region | None, size: tuple[int, int],
             ) -> tuple[objects.Box, list[Issue], list[Issue]]:
        """As `coco_boxes.read`; without masks, a segmentation is decoded for an object that has no other box."""
        try:
            return coco_boxes.read(annotation, region, size, self.box_format)
        except InvalidDataError:
            shape = annotation.get('segmentation')
            if self.masks or segmentation.is_missing(shape):
                raise
            region, _ = segmentation.decode(shape, *size, self.fractions)
            return coco_boxes.read(annotation, region, size, self.box_format)

    def _area(self, stated: Any) -> Any:
        """Return the stated area; None if boxes or polygons are not in px, as the unit of the area is unknown then."""
        return None if self.fractions or '-' in self.box_format else stated

    def _region(self, annotation: dict[str, Any], size: tuple[int, int],
                ) -> tuple[segmentation.Region | None, list[Issue], list[Issue]]:
        """Return the mask, its repairs, and an issue if the object has no mask in a set with masks."""
        shape = annotation.get('segmentation')
        if not self.masks:
            return None, [], []
        if segmentation.is_missing(shape):
            return None, [], [Issue(objects.NO_MASK, f'segmentation is {shape!r:.20}; it has box losses and no mask '
                                                     'loss')]
        try:
            return *segmentation.decode(shape, *size, self.fractions), []
        except InvalidDataError as error:
            if error.issue.reason == 'empty mask' and annotation.get('bbox'):
                coco_boxes.read(annotation, None, size, self.box_format)      # raises if the box is outside the image
            raise


def _size(stated: Any) -> tuple[tuple[int, int] | None, list[Issue]]:
    """Return height and width, None with an issue if they are no sizes: some tools write null, 0 or -1."""
    if stated is None or all(type(side) in (int, float) and side > 0 for side in stated):
        return stated, []
    return None, [Issue('size not stated', f'height {stated[0]!r:.20}, width {stated[1]!r:.20}')]


def _of_crowd(iscrowd: Any) -> tuple[list[Issue], list[Issue]]:
    """Return the repair of a flag that is written as text, and the warning about one that is neither 0 nor 1."""
    if iscrowd in (None, 0, 1):
        return [], []
    detail = f'iscrowd is {iscrowd!r:.40}'
    if as_number(iscrowd) in (0, 1):
        return [Issue('iscrowd as text', detail)], []
    return [], [Issue('iscrowd neither 0 nor 1', detail)]


def _number(annotation_id: Any, ordinal: int) -> int:
    """Return the id of an annotation if it is a number that a record can hold, else its place in the list."""
    number = as_number(annotation_id)
    return number if number is not None and coco_lists.is_int64(number) else ordinal


def _repeated(listed: Iterable[tuple[Any, tuple[int, dict[str, Any]]]]) -> list[Issue]:
    """Return an issue for each object of an image that equals an earlier one except for its id."""
    first: dict[str, Any] = {}
    issues = []
    for name, (_, annotation) in listed:
        same = repr([annotation.get(key) for key in ('category_id', 'iscrowd', 'bbox', 'segmentation')])
        if first.setdefault(same, name) is not name:
            issues.append(Issue('object listed again', f'annotation {name!s:.40} is the same as {first[same]!s:.40}'))
    return issues


def _items(contents: Contents, owners: np.ndarray, names: FileNames) -> list[Item]:
    """Return the images with the positions of their annotations.

    Args:
        contents: of the json.
        owners: int [annotations], index of the image of each; -1: the annotation is dropped.
        names: finds the image files.
    """
    order = np.argsort(owners, kind='stable')
    positions = np.column_stack([order + 1, contents.annotations[order][:, [coco_lists.FIRST, coco_lists.LENGTH]]])
    edges = np.searchsorted(owners[order], np.arange(len(contents.images) + 1)).tolist()
    numbered = all(coco_lists.is_int64(image.id) for image in contents.images)
    items = [_item(image, int(image.id) if numbered else i + 1, positions[edges[i]:edges[i + 1]], names, contents.log)
             for i, image in enumerate(contents.images)]
    _note_shared_files(items, contents.log)
    return items


def _note_shared_files(items: Iterable[Item], log: IssueLog) -> None:
    of_file = defaultdict[str, list[Item]](list)
    for item in items:
        if item.reference.missing is None:
            of_file[os.path.normpath(item.file_name)].append(item)
    for name, same in of_file.items():
        if len(same) > 1:
            images = ' and '.join(str(item.id) for item in same[:5]) + (', ...' if same[5:] else '')
            log.keep(Issue('file of several images', f'{name!r:.80} is the file of the images {images}; in each, '
                                                     'the objects of the others are background: give them one id'),
                     same[1].id, file=name)


def _item(image: coco_lists.Listed, number: int, positions: np.ndarray, names: FileNames, log: IssueLog) -> Item:
    name, repair, missing = names.find(image.file_name)
    if repair is not None and not image.url:
        log.repair(repair, image.id, file=name)
    size, modified = data_set.file_stamp(names.directory / name)
    # 400: numbers and names of the image; 600: those of an object with its compressed mask.
    return Item(image.id, number, name, size + 400 + 600 * len(positions), modified,
                Reference(image.size, positions, missing))
