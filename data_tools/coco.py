"""COCO's json and its images to TFRecord shards with a manifest.

COCO's boxes are x, y, width, height in px with continuous edges; they leave here as y1, x1, y2, x2. Its category ids
have gaps; labels are 1..K in order of id. What cannot be used is dropped, what can be mended is repaired; both are
counted by reason in the manifest and printed. Nothing stops the conversion but a json that is not COCO's.
"""
from __future__ import annotations

import functools
import json
import math
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools import images as image_files
from data_tools import segmentation, writer
from data_tools.incidents import ConversionError, Fault, Log, Unusable
from mrcnn_tf.input import records

_CLIP_TOLERANCE = 1e-6    # px: x + width of two decimals is not exact
_LARGEST = 3e38           # float32


@dataclass(frozen=True)
class Item:
    """What the json says of one image."""
    id: Any
    number: int                                      # `image/id`
    file_name: str
    size: tuple[int, int] | None                     # height, width; None: not stated
    annotations: list[tuple[int, dict[str, Any]]]    # each with its ordinal in the json, from 1
    bytes: int                                       # of the record, roughly


@dataclass(frozen=True)
class Context:
    """What is the same for all images of a set."""
    images: pathlib.Path
    categories: dict[float, records.Category]        # by COCO's id
    masks: bool


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
    data = _read(path)
    categories = _categories(data['categories'], path)
    log = Log()
    items = _items(data, path, pathlib.Path(images), log)
    masks = masks and any(annotation.get('segmentation') for annotation in data['annotations'])
    head = records.Manifest(
        name=name, categories=categories, counts=records.Counts(), max_objects_per_image=0, dropped=log.dropped,
        repaired=log.repaired, shards=[], has_masks=masks, source=records.Source('coco', str(path), str(images)))
    context = Context(pathlib.Path(images), {category.id: category for category in categories}, masks)
    manifest = writer.write(items, functools.partial(_example, context), head, output, options)
    writer.summarize(manifest)
    return manifest


def _read(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """The json, whose three lists are there and hold objects."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}; give an instances json of COCO') from None
    except json.JSONDecodeError as error:
        raise ConversionError(f'{path}: not JSON at line {error.lineno} column {error.colno}: {error.msg}; '
                              'copy the file again') from None
    except (ValueError, RecursionError) as error:
        raise ConversionError(f'{path}: not JSON: {error}; copy the file again') from None
    for key in ('images', 'annotations', 'categories'):
        values = data.get(key) if isinstance(data, dict) else None
        if not isinstance(values, list):
            raise ConversionError(f'{path}: no list {key!r}; give an instances json of COCO')
        for i, value in enumerate(values):
            if not isinstance(value, dict):
                raise ConversionError(f'{path}: {key}[{i}] is {value!r:.40}, expected an object in braces')
    return dict(data)


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


def _items(data: dict[str, list[dict[str, Any]]], path: pathlib.Path, directory: pathlib.Path, log: Log) -> list[Item]:
    ids = _image_ids(data['images'], path)
    of_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {image_id: [] for image_id in ids}
    for ordinal, annotation in enumerate(data['annotations'], 1):
        image_id = annotation.get('image_id')
        if isinstance(image_id, (int, float, str)) and image_id in of_image:      # tables give 12.0 for 12
            of_image[image_id].append((ordinal, annotation))
        else:
            log.drop(Fault('annotation for a missing image', f'image_id {image_id!r:.40} is not in the list'),
                     image_id, annotation.get('id'))
    numbered = all(_is_int64(image_id) for image_id in ids)
    return [_item(image, image['id'] if numbered else ordinal, of_image[image['id']], directory)
            for ordinal, image in enumerate(data['images'], 1)]


def _image_ids(images: list[dict[str, Any]], path: pathlib.Path) -> list[Any]:
    for i, image in enumerate(images):
        if type(image.get('id')) not in (int, str) or not isinstance(image.get('file_name'), str):
            raise ConversionError(f'{path}: images[{i}] needs an "id", an int or text, and a text "file_name"')
    ids = [image['id'] for image in images]
    if len(set(ids)) < len(ids):
        raise ConversionError(f'{path}: image id {_twice(ids)} is listed twice; keep one')
    return ids


def _item(image: dict[str, Any], number: int, annotations: list[tuple[int, dict[str, Any]]],
          directory: pathlib.Path) -> Item:
    file = directory / image['file_name']
    size = (image['height'], image['width']) if 'height' in image and 'width' in image else None
    held = os.path.getsize(file) if os.path.isfile(file) else 0
    # Names and numbers of the image and each object; deflate makes little of a mask.
    return Item(image['id'], number, image['file_name'], size, annotations, held + 400 + 600 * len(annotations))


def _example(context: Context, item: Item) -> tuple[records.Annotated | None, Log]:
    """The record of one image, None where its file cannot be used, and what was dropped or repaired."""
    log = Log()
    try:
        file = _image(context, item)
    except Unusable as unusable:
        with_it = f' (and its {len(item.annotations)} annotations)' if item.annotations else ''
        log.drop(Fault(unusable.fault.reason, unusable.fault.detail + with_it), item.id)
        return None, log
    found = [_object(context, item.id, ordinal, annotation, file, log) for ordinal, annotation in item.annotations]
    return records.Annotated(
        encoded=file.data, format=file.format, filename=item.file_name, source_id=str(item.id), image_id=item.number,
        height=file.height, width=file.width, objects=[each for each in found if each is not None]), log


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
