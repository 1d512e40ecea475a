"""COCO's json and its images to TFRecord shards with a manifest.

COCO's boxes are x, y, width, height in px with continuous edges; they leave here as y1, x1, y2, x2. Its category ids
have gaps; labels are 1..K in order of id. What cannot be used is dropped, what can be mended is repaired; both are
counted by reason in the manifest and printed. Nothing stops the conversion but a json that is not COCO's.
"""
from __future__ import annotations

import array
import functools
import hashlib
import math
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_tools import images as image_files
from data_tools import json_lists, segmentation, writer
from data_tools.incidents import ConversionError, Fault, Log, Unusable
from mrcnn_tf.input import records

_CLIP_TOLERANCE = 1e-6    # px: x + width of two decimals is not exact
_LARGEST = 3e38           # float32


class Listed(NamedTuple):
    """What the json says of one image."""
    id: int | str
    file_name: str
    size: tuple[int, int] | None                     # height, width; None: not stated


@dataclass(frozen=True, slots=True)
class Item:
    """One image, its file, and where its annotations stand: a json may be larger than the memory."""
    id: int | str
    number: int                                      # `image/id`
    file_name: str
    size: tuple[int, int] | None                     # height, width; None: not stated
    places: np.ndarray                               # int64 [n, 3]: ordinal in the json, from 1; first byte; length
    bytes: int                                       # of the record, roughly
    modified: int                                    # ns, of the file


class Version(NamedTuple):
    """What tells a file from another or a later one."""
    sha256: str
    modified: int                                    # ns


@dataclass(frozen=True)
class Context:
    """What is the same for all images of a set."""
    annotations: pathlib.Path
    version: Version                                 # of the json
    images: pathlib.Path
    categories: dict[float, records.Category]        # by COCO's id
    masks: bool


@dataclass
class Contents:
    """What is kept of a json that was read once."""
    images: list[Listed]
    categories: list[dict[str, Any]]
    image_ids: dict[Any, int]                        # as annotations name them, numbered as they come
    places: np.ndarray                               # int64 [annotations, 3]: number of image_ids; first byte; length
    segmentations: bool                              # an annotation has one
    version: Version


def convert(annotations: str | os.PathLike[str], images: str | os.PathLike[str], output: str | os.PathLike[str],
            name: str = 'train', masks: bool = True,
            options: writer.Options = writer.DEFAULTS) -> records.Manifest:
    """Writes `OUTPUT/NAME-00000-of-0000N.tfrecord` and `OUTPUT/NAME.json`, and prints a summary.

    Args:
        annotations: COCO instances json. Where its image ids are not all ints, records carry the ordinal, from 1.
        images: directory of its `file_name`s, JPEG or PNG; the files' bytes are copied as they are.
        masks: write masks, unless no annotation has a segmentation; False: boxes only.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's; no image can be used.
        OSError: the disk is full or would be, no permission; nothing of the new set is left.
    """
    path = pathlib.Path(annotations)
    contents = _read(path)
    categories = _categories(contents.categories, path)
    log = Log()
    items = _items(contents, path, pathlib.Path(images), log)
    masks = masks and contents.segmentations
    head = records.Manifest(
        name=name, categories=categories, counts=records.Counts(), max_objects_per_image=0, dropped=log.dropped,
        repaired=log.repaired, shards=[], has_masks=masks, source=records.Source('coco', str(path), str(images)))
    context = Context(path, contents.version, pathlib.Path(images), {each.id: each for each in categories}, masks)
    manifest = writer.write(items, functools.partial(_example, context), head, output, options)
    writer.summarize(manifest)
    return manifest


def _read(path: pathlib.Path) -> Contents:
    """What the json lists, read once from end to end; of its annotations only their places are kept."""
    contents, digest = Contents([], [], {}, np.empty([0, 3], np.int64), False, Version('', 0)), hashlib.sha256()
    found = []
    try:
        modified = path.stat().st_mtime_ns
        for key, elements in json_lists.members(path, digest):
            if elements is not None and key in _LISTS:
                found.append(key)
                _LISTS[key](contents, _objects(elements, key, path), path)
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}; give an instances json of COCO') from None
    except json_lists.MalformedError as error:
        raise ConversionError(f'{path}: not JSON at {error}; copy the file again') from None
    except RecursionError as error:
        raise ConversionError(f'{path}: not JSON: {error}; copy the file again') from None
    for key in _LISTS:
        if found.count(key) != 1:
            raise ConversionError(f'{path}: {"two lists" if key in found else "no list"} {key!r}; '
                                  'give an instances json of COCO')
    contents.version = Version(digest.hexdigest(), modified)
    return contents


def _objects(elements: Iterable[json_lists.Element], key: str, path: pathlib.Path) -> Iterator[json_lists.Element]:
    for i, element in enumerate(elements):
        if not isinstance(element.value, dict):
            raise ConversionError(f'{path}: {key}[{i}] is {element.value!r:.40}, expected an object in braces')
        yield element


def _list_images(contents: Contents, elements: Iterable[json_lists.Element], path: pathlib.Path) -> None:
    for i, (image, _, _) in enumerate(elements):
        if type(image.get('id')) not in (int, str) or not isinstance(image.get('file_name'), str):
            raise ConversionError(f'{path}: images[{i}] needs an "id", an int or text, and a text "file_name"')
        size = (image['height'], image['width']) if 'height' in image and 'width' in image else None
        contents.images.append(Listed(image['id'], image['file_name'], size))


def _list_categories(contents: Contents, elements: Iterable[json_lists.Element], path: pathlib.Path) -> None:
    contents.categories = [category for category, _, _ in elements]


def _list_annotations(contents: Contents, elements: Iterable[json_lists.Element], path: pathlib.Path) -> None:
    places, ids = array.array('q'), contents.image_ids
    for annotation, start, length in elements:
        image_id = annotation.get('image_id')
        known = isinstance(image_id, (int, float, str))      # tables give 12.0 for 12
        places.extend((ids.setdefault(image_id, len(ids)) if known else -1, start, length))
        contents.segmentations |= bool(annotation.get('segmentation'))
    contents.places = np.array(places, np.int64).reshape(-1, 3)


_LISTS = {'images': _list_images, 'annotations': _list_annotations, 'categories': _list_categories}


def _categories(listed: list[dict[str, Any]], path: pathlib.Path) -> list[records.Category]:
    for i, category in enumerate(listed):
        if type(category.get('id')) is not int or not isinstance(category.get('name'), str):
            raise ConversionError(f'{path}: categories[{i}] needs an int "id" and a text "name"')
    ids = [category['id'] for category in listed]
    if not ids:
        raise ConversionError(f'{path}: categories is empty; list at least one')
    if len(set(ids)) < len(ids):
        raise ConversionError(f'{path}: category id {_twice(ids)} is listed twice; keep one')
    ordered = sorted(listed, key=lambda category: int(category['id']))
    return [records.Category(label, category['id'], category['name']) for label, category in enumerate(ordered, 1)]


def _items(contents: Contents, path: pathlib.Path, directory: pathlib.Path, log: Log) -> list[Item]:
    ids = [image.id for image in contents.images]
    if len(set(ids)) < len(ids):
        raise ConversionError(f'{path}: image id {_twice(ids)} is listed twice; keep one')
    of_image = _places_by_image(contents, path, log)
    numbered = all(_is_int64(image_id) for image_id in ids)
    return [_item(image, int(image.id) if numbered else ordinal, places, directory)
            for ordinal, (image, places) in enumerate(zip(contents.images, of_image, strict=True), 1)]


def _places_by_image(contents: Contents, path: pathlib.Path, log: Log) -> list[np.ndarray]:
    """For each image the places of its annotations, as in `Item`; those of no image are dropped."""
    index = {image.id: i for i, image in enumerate(contents.images)}
    # The -1 at the end is what an annotation has whose image_id is nothing that could be one.
    owners = np.array([*(index.get(image_id, -1) for image_id in contents.image_ids), -1])[contents.places[:, 0]]
    for annotation in json_lists.read(path, contents.places[owners < 0, 1:].tolist()):
        image_id = annotation.get('image_id')
        log.drop(Fault('annotation for a missing image', f'image_id {image_id!r:.40} is not in the list'),
                 image_id, annotation.get('id'))
    order = np.argsort(owners, kind='stable')
    places = np.column_stack([order + 1, contents.places[order, 1:]])
    edges = np.searchsorted(owners[order], np.arange(len(contents.images) + 1))
    return [places[first:last] for first, last in zip(edges, edges[1:], strict=False)]


def _item(image: Listed, number: int, places: np.ndarray, directory: pathlib.Path) -> Item:
    try:
        file = os.stat(directory / image.file_name)
        held, modified = file.st_size, file.st_mtime_ns
    except (OSError, ValueError):      # ValueError: a NUL in the name
        held = modified = 0
    # Names and numbers of the image and each object; deflate makes little of a mask.
    return Item(image.id, number, image.file_name, image.size, places, held + 400 + 600 * len(places), modified)


def _example(context: Context, item: Item) -> tuple[records.Annotated | None, Log]:
    """The record of one image, None where its file cannot be used, and what was dropped or repaired."""
    log = Log()
    try:
        file = _image(context, item)
    except Unusable as unusable:
        with_it = f' (and its {len(item.places)} annotations)' if len(item.places) else ''
        log.drop(Fault(unusable.fault.reason, unusable.fault.detail + with_it), item.id)
        return None, log
    annotations = _annotations(context, item)
    found = [_object(context, item.id, ordinal, annotation, file, log) for ordinal, annotation in annotations]
    return records.Annotated(
        encoded=file.data, format=file.format, filename=item.file_name, source_id=str(item.id), image_id=item.number,
        height=file.height, width=file.width, objects=[each for each in found if each is not None]), log


def _annotations(context: Context, item: Item) -> list[tuple[int, dict[str, Any]]]:
    """The annotations of an image, each with its ordinal, read again."""
    path = context.annotations
    if path.stat().st_mtime_ns != context.version.modified:
        raise ConversionError(f'{path}: it was changed while its images were converted; convert it again')
    found = json_lists.read(path, item.places[:, 1:].tolist())
    return list(zip(item.places[:, 0].tolist(), found, strict=True))


def _image(context: Context, item: Item) -> image_files.ImageFile:
    file = image_files.read(context.images / item.file_name)
    if item.size is not None and item.size != (file.height, file.width):
        turned = ', and its EXIF says to turn it' if file.rotated else ''
        raise Unusable('size mismatch', f'{item.file_name} is {file.height} x {file.width}{turned}; '
                                        f'the json says {item.size[0]} x {item.size[1]}')
    return file


def _object(context: Context, image_id: Any, ordinal: int, annotation: dict[str, Any], file: image_files.ImageFile,
            log: Log) -> records.ObjectAnnotation | None:
    try:
        made, repairs = _annotated(context, ordinal, annotation, file)
    except Unusable as unusable:
        log.drop(unusable.fault, image_id, annotation.get('id'))
        return None
    for repair in repairs:
        log.repair(repair, image_id, annotation.get('id'))
    return made


def _annotated(context: Context, ordinal: int, annotation: dict[str, Any],
               file: image_files.ImageFile) -> tuple[records.ObjectAnnotation, list[Fault]]:
    category_id = annotation.get('category_id')
    category = context.categories.get(category_id) if isinstance(category_id, (int, float)) else None
    if category is None:
        raise Unusable('category not in the list', f'category_id {category_id!r:.40}')
    box, repairs = _box(annotation.get('bbox'), file.height, file.width)
    mask, covered = None, (box[2] - box[0]) * (box[3] - box[1])
    if context.masks:
        pixels, left_out = segmentation.decode(annotation.get('segmentation'), file.height, file.width)
        mask, covered = records.encode_mask(pixels), float(np.count_nonzero(pixels))
        repairs = [*repairs, *left_out]
    area, of_area = _area(annotation.get('area'), covered)
    return records.ObjectAnnotation(
        box=box, label=category.label, name=category.name, area=area, crowd=annotation.get('iscrowd') == 1,
        annotation_id=annotation['id'] if _is_int64(annotation.get('id')) else ordinal, mask=mask), [*repairs, *of_area]


def _box(bbox: Any, height: int, width: int) -> tuple[tuple[float, float, float, float], list[Fault]]:
    """y1, x1, y2, x2 within the image, and whether it had to be clipped."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(v) in (int, float) for v in bbox):
        raise Unusable('malformed box', f'bbox is {bbox!r:.60}, expected [x, y, width, height]')
    if not all(abs(v) < math.inf for v in bbox):
        raise Unusable('non-finite numbers', f'bbox is {bbox!r:.60}')
    x, y, across, down = bbox
    if not (across > 0 and down > 0):
        raise Unusable('box without area', f'bbox is {bbox!r:.60}')
    box = (min(max(y, 0), height), min(max(x, 0), width), min(max(y + down, 0), height), min(max(x + across, 0), width))
    top, left, bottom, right = (float(v) for v in np.array(box, np.float32))    # as the record will hold it
    if not (bottom > top and right > left):
        outside = y >= height or x >= width or y + down <= 0 or x + across <= 0
        raise Unusable('box outside the image' if outside else 'box without area',
                       f'bbox is {bbox!r:.60}, the image {width} wide and {height} high')
    beyond = max(-x, -y, x + across - width, y + down - height)
    clipped = [Fault('box clipped', f'bbox {bbox!r:.60} went {beyond:.2f} px beyond the image')]
    return (top, left, bottom, right), clipped if beyond > _CLIP_TOLERANCE else []


def _area(area: Any, covered: float) -> tuple[float, list[Fault]]:
    """The area as annotated, else what mask or box cover."""
    if area is None:
        return covered, []
    if type(area) in (int, float) and 0 < area < _LARGEST:
        return float(area), []
    return covered, [Fault('area computed', f'area is {area!r:.40}')]


def _is_int64(value: Any) -> bool:
    return type(value) is int and -2 ** 63 <= value < 2 ** 63


def _twice(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]
