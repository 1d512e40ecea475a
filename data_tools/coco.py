"""COCO's json and its images: instances of COCO itself, LVIS, Objects365, or of any tool that writes this format.

COCO's boxes are x, y, width, height in px with continuous edges; they leave here as y1, x1, y2, x2. Its category ids
have gaps; labels are 1..K in order of id. What cannot be used is dropped, what can be mended is repaired; both are
counted by reason in the manifest and printed. Nothing stops the conversion but a json that is not COCO's, or whose
boxes as a whole look like those of another format.
"""
from __future__ import annotations

import array
import hashlib
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_tools import coco_boxes, conversion, json_lists, objects, segmentation, writer
from data_tools.conversion import DataSet, Item, Rules, Told
from data_tools.file_names import FileNames
from data_tools.images import ImageFile
from data_tools.incidents import ConversionError, Fault, Log, Unusable
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source

# What annotations of other tasks hold instead of boxes and masks.
_OTHER_TASKS = {'keypoints': 'keypoints', 'caption': 'captions', 'segments_info': 'panoptic segments'}
_Made = tuple[records.ObjectAnnotation, list[Fault], list[Fault]]


class Listed(NamedTuple):
    """What the json says of one image."""
    id: int | str
    file_name: str
    url: bool                            # it is the end of a URL, and the folder may be missing: LVIS's
    size: Any                            # height, width, if they are numbers above 0; None: not stated


class Version(NamedTuple):
    """What tells a file from another or a later one."""
    sha256: str
    modified: int                        # ns


@dataclass
class Contents:
    """What is kept of a json that was read once."""
    images: list[Listed]
    categories: list[dict[str, Any]]
    image_ids: dict[Any, int]            # as annotations name them, numbered as they come
    places: np.ndarray                   # int64 [annotations, 3]: number of image_ids; first byte; length
    keys: set[str]                       # of _ASKED, that an annotation has a value of
    version: Version
    boxes: coco_boxes.Survey


class Places(NamedTuple):
    """What is kept of an image's annotations: a json may be larger than the memory."""
    size: Any                            # of the image, as in Listed
    places: np.ndarray                   # int64 [n, 3]: ordinal in the json, from 1; first byte; length
    missing: Fault | None                # why there is no file of the image


def convert(annotations: str | os.PathLike[str], images: str | os.PathLike[str], output: str | os.PathLike[str],
            name: str = 'train', masks: bool = True, options: writer.Options = writer.DEFAULTS,
            rules: Rules = conversion.DEFAULTS, box_format: str | None = None) -> Manifest:
    """Writes `OUTPUT/NAME-00000-of-0000N.tfrecord` and `OUTPUT/NAME.json`, and prints a summary.

    Args:
        annotations, images, masks, box_format: as `find`.
        rules: what the user decides of images and annotations.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's; no image can be used; `rules` say to stop.
        OSError: the disk is full or would be, no permission; nothing of the new set is left.
    """
    manifest = conversion.convert(find(annotations, images, masks, box_format), output, name, rules, options)
    writer.summarize(manifest)
    return manifest


def find(annotations: str | os.PathLike[str], images: str | os.PathLike[str], masks: bool = True,
         box_format: str | None = None, follow: bool = False) -> DataSet:
    """What an instances json lists.

    Args:
        annotations: COCO instances json; one with images only is a test set. Where its image ids are not all ints of
            64 bit, records carry the ordinal, from 1.
        images: directory of its `file_name`s, or of the last parts of its `coco_url`s; JPEG or PNG.
        masks: read masks, unless no annotation has a segmentation; False: boxes only.
        box_format: of `coco_boxes.NAMES`; None: COCO's, where nothing speaks against it.
        follow: read images that their names or symlinks put outside of `images`.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's; its boxes look like those of another format.
    """
    path, log = pathlib.Path(annotations), Log()
    contents = _read(path)
    categories = _categories(contents.categories, path)
    items = _items(contents, path, FileNames(images, follow=follow), log)
    if box_format is None:
        contents.boxes.check(_sizes(contents), str(path))
    masks = masks and 'segmentation' in contents.keys
    head = Manifest(
        name='', categories=categories, counts=Counts(), max_objects_per_image=0, dropped=log.dropped,
        repaired=log.repaired, shards=[], has_masks=masks, source=Source('coco', str(path), str(images)))
    return DataSet(head, items, Coco(path, contents.version, pathlib.Path(images),
                                     {category.id: category for category in categories}, masks, box_format or 'xywh',
                                     contents.boxes.fractional_polygons()))


@dataclass(frozen=True)
class Coco:
    """Annotations as COCO's json holds them."""
    annotations: pathlib.Path
    version: Version                                 # of the json
    images: pathlib.Path
    categories: dict[float, Category]        # by COCO's id
    masks: bool
    box_format: str                          # of coco_boxes.NAMES
    fractions: bool                          # polygons within 0..1 are fractions of the image

    def path(self, item: Item) -> pathlib.Path:
        """The image's file; raises Unusable where there is none."""
        if item.told.missing is not None:
            raise Unusable(*item.told.missing)
        return self.images / item.file_name

    def tell(self, item: Item) -> Told:
        """What the json says of an image, read again."""
        kept: Places = item.told
        if self.annotations.stat().st_mtime_ns != self.version.modified:
            raise ConversionError(f'{self.annotations}: it was changed while its images were converted; '
                                  'convert it again')
        found = json_lists.read(self.annotations, kept.places[:, 1:].tolist())
        size, odd = _size(kept.size)
        return Told([(_id(annotation, ordinal), (ordinal, annotation))
                     for ordinal, annotation in zip(kept.places[:, 0].tolist(), found, strict=True)],
                    self.annotations.name, size, odd=odd)

    def annotate(self, item: Item, value: tuple[int, dict[str, Any]], file: ImageFile) -> _Made:
        """One annotation as a record holds it."""
        ordinal, annotation = value
        category = self._category(annotation.get('category_id'))
        size = file.height, file.width
        region, repairs, unmasked = self._region(annotation, size)
        box, of_box, odd = self._box(annotation, region, size)
        covered = objects.box_area(box) if region is None else region.area
        area, of_area = objects.area(self._area(annotation.get('area')), covered)
        made = records.ObjectAnnotation(
            box=box, label=category.label, name=category.name, area=area, crowd=annotation.get('iscrowd') == 1,
            annotation_id=annotation['id'] if _is_int64(annotation.get('id')) else ordinal,
            mask=region.png(*size) if region else segmentation.empty_png(*size) if self.masks else None,
            has_mask=not unmasked)
        odd += [] if region is None else objects.disagreement(box, region.box)
        return made, [*of_box, *repairs, *of_area], [*_unclear_crowd(annotation.get('iscrowd')), *unmasked, *odd]

    def _category(self, category_id: Any) -> Category:
        category = self.categories.get(category_id) if isinstance(category_id, (int, float)) else None
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
            return None, [], [Fault('object without a mask', f'segmentation is {shape!r:.20}; it has box losses and no '
                                                             'mask loss')]
        return *segmentation.decode(shape, *size, self.fractions), []


def _size(stated: Any) -> tuple[tuple[int, int] | None, list[Fault]]:
    """Height and width as stated, and a fault where they are none: some tools write null, 0 or -1."""
    if stated is None or all(type(side) in (int, float) and side > 0 for side in stated):
        return stated, []
    return None, [Fault('size not stated', f'height {stated[0]!r:.20}, width {stated[1]!r:.20}')]


def _unclear_crowd(iscrowd: Any) -> list[Fault]:
    """A fault where nobody can tell whether it is a crowd; it is taken for an object."""
    return [] if iscrowd in (None, 0, 1) else [Fault('iscrowd neither 0 nor 1', f'iscrowd is {iscrowd!r:.40}')]


def _sizes(contents: Contents) -> list[Any]:
    """Height and width of the image of each annotation; None where they are not known."""
    of_image = {image.id: _size(image.size)[0] for image in contents.images}
    # The last is that of annotations whose image_id is nothing that could be one.
    sizes = [*(of_image.get(image_id) for image_id in contents.image_ids), None]
    return [sizes[i] for i in contents.places[:, 0].tolist()]


def _read(path: pathlib.Path) -> Contents:
    """What the json lists, read once from end to end; of its annotations only their places are kept."""
    contents = Contents([], [], {}, np.empty([0, 3], np.int64), set(), Version('', 0), coco_boxes.Survey())
    digest = hashlib.sha256()
    found: Counter[str] = Counter()
    try:
        modified = path.stat().st_mtime_ns
        for key, elements in json_lists.members(path, digest):
            if elements is not None and key in _LISTS:
                found[key] += 1
                _LISTS[key](contents, _objects(elements, key, path), path)
            elif key in _LISTS:
                raise ConversionError(f'{path}: {key!r} is no list; give an instances json of COCO')
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}; give an instances json of COCO') from None
    except json_lists.MalformedError as error:
        raise ConversionError(f'{path}: not JSON at {error}; copy the file again') from None
    except RecursionError as error:
        raise ConversionError(f'{path}: not JSON: {error}; copy the file again') from None
    _check_contents(contents, found, path)
    contents.version = Version(digest.hexdigest(), modified)
    return contents


def _check_contents(contents: Contents, found: Counter[str], path: pathlib.Path) -> None:
    for key, what in _OTHER_TASKS.items():
        if key in contents.keys and not contents.keys & {'bbox', 'segmentation'}:
            raise ConversionError(f'{path}: its annotations are {what} and have neither "bbox" nor "segmentation", '
                                  'so there is nothing to detect; give the instances json of these images')
    # A test set has no annotations and may have no categories.
    needed = ['images', *(['categories'] if len(contents.places) else [])]
    for key in _LISTS:
        if found[key] > 1 or (key in needed and not found[key]):
            raise ConversionError(f'{path}: {"two lists" if found[key] else "no list"} {key!r}; '
                                  'give an instances json of COCO')
    if len(contents.places) and not contents.categories:
        raise ConversionError(f'{path}: categories is empty; list at least one')


def _objects(elements: Iterable[json_lists.Element], key: str, path: pathlib.Path) -> Iterator[json_lists.Element]:
    for i, element in enumerate(elements):
        if not isinstance(element.value, dict):
            raise ConversionError(f'{path}: {key}[{i}] is {element.value!r:.40}, expected an object in braces')
        yield element


def _list_images(contents: Contents, elements: Iterable[json_lists.Element], path: pathlib.Path) -> None:
    for i, (image, _, _) in enumerate(elements):
        url, name = _file_name(image)
        if not (type(image.get('id')) is int or _is_text(image.get('id'))) or not _is_text(name) or not name:
            raise ConversionError(f'{path}: images[{i}] needs an "id", an int or text, and a text "file_name"')
        size = (image['height'], image['width']) if 'height' in image and 'width' in image else None
        contents.images.append(Listed(image['id'], name, url, size))


def _file_name(image: dict[str, Any]) -> tuple[bool, Any]:
    """Whether there is but a URL, as in LVIS, and the name: folder and name at its end."""
    if 'file_name' not in image and isinstance(image.get('coco_url'), str):
        return True, '/'.join(image['coco_url'].split('/')[-2:])
    return False, image.get('file_name')


def _list_categories(contents: Contents, elements: Iterable[json_lists.Element], path: pathlib.Path) -> None:
    contents.categories = [category for category, _, _ in elements]


def _list_annotations(contents: Contents, elements: Iterable[json_lists.Element], path: pathlib.Path) -> None:
    places, ids, asked = array.array('q'), contents.image_ids, {'bbox', 'segmentation', *_OTHER_TASKS}
    for annotation, start, length in elements:
        image_id = annotation.get('image_id')
        known = isinstance(image_id, (int, float, str))      # tables give 12.0 for 12
        places.extend((ids.setdefault(image_id, len(ids)) if known else -1, start, length))
        contents.boxes.add(annotation)
        new = [key for key in asked if annotation.get(key)]
        contents.keys.update(new)
        asked.difference_update(new)
    contents.places = np.array(places, np.int64).reshape(-1, 3)


_LISTS = {'images': _list_images, 'annotations': _list_annotations, 'categories': _list_categories}


def _categories(listed: list[dict[str, Any]], path: pathlib.Path) -> list[Category]:
    for i, category in enumerate(listed):
        if type(category.get('id')) is not int or not _is_text(category.get('name')):
            raise ConversionError(f'{path}: categories[{i}] needs an int "id" and a text "name"')
    ids = [category['id'] for category in listed]
    if len(set(ids)) < len(ids):
        raise ConversionError(f'{path}: category id {_twice(ids)} is listed twice; keep one')
    ordered = sorted(listed, key=lambda category: int(category['id']))
    return [Category(label, category['id'], category['name']) for label, category in enumerate(ordered, 1)]


def _items(contents: Contents, path: pathlib.Path, names: FileNames, log: Log) -> list[Item]:
    ids = [image.id for image in contents.images]
    if len(set(ids)) < len(ids):
        raise ConversionError(f'{path}: image id {_twice(ids)} is listed twice; keep one')
    of_image = _places_by_image(contents, path, log)
    numbered = all(_is_int64(image_id) for image_id in ids)
    return [_item(image, int(image.id) if numbered else ordinal, places, names, log)
            for ordinal, (image, places) in enumerate(zip(contents.images, of_image, strict=True), 1)]


def _places_by_image(contents: Contents, path: pathlib.Path, log: Log) -> list[np.ndarray]:
    """For each image the places of its annotations, as in `Places`; those of no image are dropped."""
    index = {image.id: i for i, image in enumerate(contents.images)}
    # The -1 at the end is what an annotation has whose image_id is nothing that could be one.
    owners = np.array([*(index.get(image_id, -1) for image_id in contents.image_ids), -1])[contents.places[:, 0]]
    strays = np.flatnonzero(owners < 0)
    for place, annotation in zip(strays.tolist(), json_lists.read(path, contents.places[strays, 1:].tolist()),
                                 strict=True):
        image_id = annotation.get('image_id')
        log.drop(Fault('annotation for a missing image', f'image_id {image_id!r:.40} is not in the list'),
                 image_id, _id(annotation, place + 1), path.name)
    order = np.argsort(owners, kind='stable')
    places = np.column_stack([order + 1, contents.places[order, 1:]])
    edges = np.searchsorted(owners[order], np.arange(len(contents.images) + 1))
    return [places[first:last] for first, last in zip(edges, edges[1:], strict=False)]


def _item(image: Listed, number: int, places: np.ndarray, names: FileNames, log: Log) -> Item:
    name, repair, missing = names.find(image.file_name)
    if repair is not None and not image.url:
        log.repair(repair, image.id, file=name)
    size, modified = conversion.held(names.directory / name)
    # Names and numbers of the image and each object; deflate makes little of a mask.
    return Item(image.id, number, name, size + 400 + 600 * len(places), modified, Places(image.size, places, missing))


def _id(annotation: dict[str, Any], ordinal: int) -> Any:
    """What names an annotation in a report: its place in the list where it has no id."""
    return f'number {ordinal}' if annotation.get('id') is None else annotation['id']


def _is_int64(value: Any) -> bool:
    return type(value) is int and -2 ** 63 <= value < 2 ** 63


def _is_text(value: Any) -> bool:
    r"""A string that can be written: json lets "\ud800" through, half a character."""
    return isinstance(value, str) and not any('\ud800' <= character <= '\udfff' for character in value)


def _twice(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]
