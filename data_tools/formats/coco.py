"""COCO's json and its images: instances of COCO itself, LVIS, Objects365, or of any tool that writes this format.

COCO's boxes are x, y, width, height in px with continuous edges; they leave here as y1, x1, y2, x2. Its category ids
have gaps; labels are 1..K in order of id. What cannot be used is dropped, what can be mended is repaired; both are
counted by reason in the manifest and printed. Nothing stops the conversion but a json that is not COCO's, or whose
boxes as a whole look like those of another format.
"""
from __future__ import annotations

import os
import pathlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_tools import conversion, objects
from data_tools.conversion import DataSet, Item, Rules, Told
from data_tools.file_names import FileNames
from data_tools.formats import categories, coco_boxes, coco_lists, json_lists, segmentation
from data_tools.formats.coco_lists import Contents, Version
from data_tools.formats.ids import Ids, as_number
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, Fault, Log, Unusable
from data_tools.sharding import writer
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source

_Made = tuple[records.ObjectAnnotation, list[Fault], list[Fault]]


class Places(NamedTuple):
    """What is kept of an image's annotations: a json may be larger than the memory."""
    size: Any                            # of the image, as in coco_lists.Listed
    places: np.ndarray                   # int64 [n, 3]: ordinal in the json, from 1; first byte; length
    missing: Fault | None                # why there is no file of the image


@dataclass(frozen=True)
class Kept:
    """Which categories the user wants."""
    names: str | os.PathLike[str] | None = None      # file of names or ids to keep, one a line; None: all
    drop_unused: bool = False                        # leave out those without objects


def convert(annotations: str | os.PathLike[str], images: str | os.PathLike[str], output: str | os.PathLike[str],
            name: str = 'train', masks: bool = True, options: writer.Options = writer.DEFAULTS,
            rules: Rules = conversion.DEFAULTS, box_format: str | None = None, keep: Kept = Kept()) -> Manifest:
    """Writes `OUTPUT/NAME-00000-of-0000N.tfrecord` and `OUTPUT/NAME.json`, and prints a summary.

    Args:
        annotations, images, masks, box_format, keep: as `find`.
        rules: what the user decides of images and annotations.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's; no image can be used; `rules` say to stop.
        OSError: the disk is full or would be, no permission; nothing of the new set is left.
    """
    found = find(annotations, images, masks, box_format, keep=keep)
    manifest = conversion.convert(found, output, name, rules, options)
    writer.summarize(manifest)
    return manifest


def find(annotations: str | os.PathLike[str], images: str | os.PathLike[str], masks: bool = True,
         box_format: str | None = None, follow: bool = False, keep: Kept = Kept(), crowds: bool = True) -> DataSet:
    """What an instances json lists.

    Args:
        annotations: COCO instances json; one with images only is a test set. Where its image ids are not all ints of
            64 bit, records carry the ordinal, from 1.
        images: directory of its `file_name`s, or of the last parts of its `coco_url`s; JPEG or PNG.
        masks: read masks, unless no annotation has a segmentation; False: boxes only.
        box_format: of `coco_boxes.NAMES`; None: COCO's, where nothing speaks against it.
        follow: read images that their names or symlinks put outside of `images`.
        keep: categories; annotations of others are left out.
        crowds: an annotation with `iscrowd` 1 is a group of objects, as in COCO; False: it is one object.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's; its boxes look like those of another format.
    """
    path = pathlib.Path(annotations)
    contents = coco_lists.read(path)
    log = contents.log
    listed = categories.read(contents.categories, path, log)
    owners, kinds = coco_lists.owners(contents), coco_lists.kinds(contents, listed)
    coco_lists.note_equal_ids(contents)
    if box_format is None:
        sizes = [*(_size(image.size)[0] for image in contents.images), None]      # the last: of no image, -1
        contents.boxes.check([sizes[owner] for owner in owners.tolist()], str(path))
    listed = categories.count(listed, kinds[owners >= 0], contents.annotations[owners >= 0, coco_lists.CROWD] * crowds)
    labelled = categories.choose(listed, keep.names, keep.drop_unused, path, log)
    unwanted = [i for i in range(len(listed)) if i not in labelled]
    items = _items(contents, np.where(np.isin(kinds, unwanted), -1, owners), FileNames(images, follow=follow))
    masks = masks and 'segmentation' in contents.keys
    head = Manifest(
        name='', categories=list(labelled.values()), counts=Counts(), max_objects_per_image=0, dropped=log.dropped,
        repaired=log.repaired, kept=log.kept, shards=[], has_masks=masks, source=Source('coco', str(path), str(images)))
    ids = Ids([category.id for category in listed])
    return DataSet(head, items, Coco(path, contents.version, pathlib.Path(images), ids, labelled, masks,
                                     box_format or 'xywh', contents.boxes.fractional_polygons(), crowds))


@dataclass(frozen=True)
class Coco:
    """Annotations as COCO's json holds them."""
    annotations: pathlib.Path
    version: Version                                 # of the json
    images: pathlib.Path
    ids: Ids                                         # of all categories that the json lists
    categories: dict[int, Category]                  # those that are kept, by their place among the ids
    masks: bool
    box_format: str                                  # of coco_boxes.NAMES
    fractions: bool                                  # polygons within 0..1 are fractions of the image
    crowds: bool                                     # iscrowd 1 is a group of objects; False: one object

    def path(self, item: Item) -> pathlib.Path:
        """The image's file; raises Unusable where there is none."""
        if item.told.missing is not None:
            raise Unusable(*item.told.missing)
        return self.images / item.file_name

    def tell(self, item: Item) -> Told:
        """What the json says of an image, read again."""
        kept: Places = item.told
        conversion.check_count(len(kept.places))      # before a million of them are read again
        if self.annotations.stat().st_mtime_ns != self.version.modified:
            raise ConversionError(f'{self.annotations}: it was changed while its images were converted; '
                                  'convert it again')
        found = json_lists.read(self.annotations, kept.places[:, 1:].tolist())
        size, odd = _size(kept.size)
        told = [(coco_lists.name_of(annotation, ordinal), (ordinal, annotation))
                for ordinal, annotation in zip(kept.places[:, 0].tolist(), found, strict=True)]
        return Told(told, self.annotations.name, size, odd=[*odd, *_repeated(told)])

    def annotate(self, item: Item, value: tuple[int, dict[str, Any]], file: ImageFile) -> _Made:
        """One annotation as a record holds it."""
        ordinal, annotation = value
        category = self._category(annotation.get('category_id'))
        size = file.height, file.width
        region, repairs, unmasked = self._region(annotation, size)
        box, of_box, odd = self._box(annotation, region, size)
        covered = objects.box_area(box) if region is None else region.area
        area, of_area = objects.area(self._area(annotation.get('area')), covered)
        crowd = coco_lists.is_crowd(annotation)
        made = records.ObjectAnnotation(
            box=box, label=category.label, name=category.name, area=area, crowd=crowd and self.crowds,
            annotation_id=_number(annotation.get('id'), ordinal),
            mask=region.png(*size) if region else segmentation.empty_png(*size) if self.masks else None,
            has_mask=not unmasked)
        odd += [] if region is None else objects.disagreement(box, region.box)
        if crowd and not self.crowds:
            repairs = [*repairs, Fault('crowd taken as one object', f'iscrowd is {annotation["iscrowd"]!r}')]
        as_text, unclear = _of_crowd(annotation.get('iscrowd'))
        return made, [*of_box, *repairs, *of_area, *as_text], [*unclear, *unmasked, *odd]

    def _category(self, category_id: Any) -> Category:
        category = self.categories.get(self.ids.place(category_id))
        if category is None:
            raise Unusable('category not in the list', f'category_id {category_id!r:.40}')
        return category

    def _box(self, annotation: dict[str, Any], region: segmentation.Region | None, size: tuple[int, int],
             ) -> tuple[objects.Box, list[Fault], list[Fault]]:
        """As `coco_boxes.read`; where masks are left out, one is made for an object that has no other box."""
        try:
            return coco_boxes.read(annotation, region, size, self.box_format)
        except Unusable:
            shape = annotation.get('segmentation')
            if self.masks or segmentation.is_missing(shape):
                raise
            region, _ = segmentation.decode(shape, *size, self.fractions)
            return coco_boxes.read(annotation, region, size, self.box_format)

    def _area(self, stated: Any) -> Any:
        """The area as stated; None where boxes or polygons are not in px: nothing tells in what the area is."""
        return None if self.fractions or '-' in self.box_format else stated

    def _region(self, annotation: dict[str, Any], size: tuple[int, int],
                ) -> tuple[segmentation.Region | None, list[Fault], list[Fault]]:
        """The mask, what was repaired of it, and a fault where a set with masks has none for this object."""
        shape = annotation.get('segmentation')
        if not self.masks:
            return None, [], []
        if segmentation.is_missing(shape):
            return None, [], [Fault(objects.NO_MASK, f'segmentation is {shape!r:.20}; it has box losses and no '
                                                             'mask loss')]
        try:
            return *segmentation.decode(shape, *size, self.fractions), []
        except Unusable as unusable:
            if unusable.fault.reason == 'empty mask' and annotation.get('bbox'):
                coco_boxes.read(annotation, None, size, self.box_format)      # raises Unusable where it is outside
            raise


def _size(stated: Any) -> tuple[tuple[int, int] | None, list[Fault]]:
    """Height and width as stated, and a fault where they are none: some tools write null, 0 or -1."""
    if stated is None or all(type(side) in (int, float) and side > 0 for side in stated):
        return stated, []
    return None, [Fault('size not stated', f'height {stated[0]!r:.20}, width {stated[1]!r:.20}')]


def _of_crowd(iscrowd: Any) -> tuple[list[Fault], list[Fault]]:
    """The repair of a flag that is written as text, and the fault of one that is neither 0 nor 1: an object."""
    if iscrowd in (None, 0, 1):
        return [], []
    fault = f'iscrowd is {iscrowd!r:.40}'
    if as_number(iscrowd) in (0, 1):
        return [Fault('iscrowd as text', fault)], []
    return [], [Fault('iscrowd neither 0 nor 1', fault)]


def _number(annotation_id: Any, ordinal: int) -> int:
    """The id of an annotation where it is a number that a record can hold, else its place in the list."""
    number = as_number(annotation_id)
    return number if number is not None and coco_lists.is_int64(number) else ordinal


def _repeated(told: Iterable[tuple[Any, tuple[int, dict[str, Any]]]]) -> list[Fault]:
    """A fault for each object of an image that another one equals in all but its id."""
    first: dict[str, Any] = {}
    faults = []
    for name, (_, annotation) in told:
        same = repr([annotation.get(key) for key in ('category_id', 'iscrowd', 'bbox', 'segmentation')])
        if first.setdefault(same, name) is not name:
            faults.append(Fault('object listed again', f'annotation {name!s:.40} is the same as {first[same]!s:.40}'))
    return faults


def _items(contents: Contents, owners: np.ndarray, names: FileNames) -> list[Item]:
    """The images, each with the places of its annotations; `owners`: index of the image of each, -1: left out."""
    order = np.argsort(owners, kind='stable')
    places = np.column_stack([order + 1, contents.annotations[order][:, [coco_lists.FIRST, coco_lists.LENGTH]]])
    edges = np.searchsorted(owners[order], np.arange(len(contents.images) + 1)).tolist()
    numbered = all(coco_lists.is_int64(image.id) for image in contents.images)
    items = [_item(image, int(image.id) if numbered else i + 1, places[edges[i]:edges[i + 1]], names, contents.log)
             for i, image in enumerate(contents.images)]
    _note_shared_files(items, contents.log)
    return items


def _note_shared_files(items: Iterable[Item], log: Log) -> None:
    of_file = defaultdict[str, list[Item]](list)
    for item in items:
        if item.told.missing is None:
            of_file[os.path.normpath(item.file_name)].append(item)
    for name, same in of_file.items():
        if len(same) > 1:
            images = ' and '.join(str(item.id) for item in same[:5]) + (', ...' if same[5:] else '')
            log.keep(Fault('file of several images', f'{name!r:.80} is that of the images {images}; in each, the '
                                                     'objects of the others are background: give them one id'),
                     same[1].id, file=name)


def _item(image: coco_lists.Listed, number: int, places: np.ndarray, names: FileNames, log: Log) -> Item:
    name, repair, missing = names.find(image.file_name)
    if repair is not None and not image.url:
        log.repair(repair, image.id, file=name)
    size, modified = conversion.held(names.directory / name)
    # Names and numbers of the image and each object; deflate makes little of a mask.
    return Item(image.id, number, name, size + 400 + 600 * len(places), modified, Places(image.size, places, missing))
