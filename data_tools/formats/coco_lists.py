"""What a COCO json lists, read once from end to end: images, categories, and where each annotation stands.

A json may be larger than the memory, so of an annotation only its place is kept, with what is needed to tell whose it
is. Ids are matched as numbers where they are not found as they are (`ids.py`).
"""
from __future__ import annotations

import array
import hashlib
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from data_tools.formats import categories, coco_boxes, json_lists
from data_tools.formats.categories import is_text
from data_tools.formats.ids import Distinct, Ids, as_number
from data_tools.issues import ConversionError, Fault, Log

# What annotations of other tasks hold instead of boxes and masks.
_OTHER_TASKS = {'keypoints': 'keypoints', 'caption': 'captions', 'segments_info': 'panoptic segments'}
# Columns of Contents.annotations: numbers of its image_id and category_id; 1: a crowd; its id, or a hash of one that is
# no number; first byte; length.
IMAGE, CATEGORY, CROWD, ID, FIRST, LENGTH = range(6)
_NO_ID = -2 ** 63


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
    path: pathlib.Path
    version: Version = Version('', 0)
    images: list[Listed] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    image_ids: Distinct = field(default_factory=Distinct)          # as annotations name them
    category_ids: Distinct = field(default_factory=Distinct)
    annotations: np.ndarray = field(default_factory=lambda: np.empty([0, 6], np.int64))      # [annotations, columns]
    keys: set[str] = field(default_factory=set)      # bbox, segmentation, of other tasks: that have a value somewhere
    boxes: coco_boxes.Survey = field(default_factory=coco_boxes.Survey)
    log: Log = field(default_factory=Log)


def read(path: pathlib.Path) -> Contents:
    """Return what the json lists.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's.
    """
    contents, digest = Contents(path), hashlib.sha256()
    found: Counter[str] = Counter()
    try:
        modified = path.stat().st_mtime_ns
        for key, elements in json_lists.members(path, digest):
            if elements is not None and key in _LISTS:
                found[key] += 1
                _LISTS[key](contents, _objects(contents, key, elements))
            elif key in _LISTS:
                raise ConversionError(f'{path}: {key!r} is no list; give an instances json of COCO')
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}; give an instances json of COCO') from None
    except json_lists.MalformedError as error:
        raise ConversionError(f'{path}: not JSON at {error}; correct it there, or copy the file again') from None
    except RecursionError as error:
        raise ConversionError(f'{path}: not JSON: {error}; copy the file again') from None
    _check(contents, found)
    contents.version = Version(digest.hexdigest(), modified)
    return contents


def owners(contents: Contents) -> np.ndarray:
    """Return the index of the image of each annotation, -1 where there is none: these are logged as dropped."""
    path, found = contents.path, _matched(contents, 'image', contents.image_ids,
                                          [image.id for image in contents.images], IMAGE)
    strays = np.flatnonzero(found < 0)
    for place, annotation in zip(strays.tolist(), elements_at(contents, strays), strict=True):
        image_id = annotation.get('image_id')
        contents.log.drop(Fault('annotation for a missing image', f'image_id {image_id!r:.40} is not in the list'),
                          image_id, name_of(annotation, place + 1), path.name)
    return found


def kinds(contents: Contents, listed: Sequence[categories.Listed]) -> np.ndarray:
    """Return the index of the category of each annotation, -1 where there is none."""
    return _matched(contents, 'category', contents.category_ids, [category.id for category in listed], CATEGORY)


def note_equal_ids(contents: Contents) -> None:
    """Logs each id that several annotations have."""
    given = contents.annotations[:, ID]
    order = np.argsort(given, kind='stable')
    given = given[order]
    again = np.flatnonzero((given[1:] == given[:-1]) & (given[1:] != _NO_ID))
    first = again[np.r_[True, given[again[1:]] != given[again[:-1]]]] if len(again) else again      # of each id
    pairs = np.column_stack([order[first], order[first + 1]])
    counts = np.searchsorted(given, given[first], 'right') - first
    values = elements_at(contents, pairs.ravel())
    for (one, other), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        name, same = next(values).get('id'), next(values).get('id')
        if name == same or None is not as_number(name) == as_number(same):      # texts are compared by a hash
            contents.log.keep(Fault('annotation id listed again', f'{count} annotations have it, the first are number '
                                                                  f'{one + 1} and {other + 1} of the list'),
                              None, name, contents.path.name)


def elements_at(contents: Contents, annotations: np.ndarray) -> Iterator[dict[str, Any]]:
    """The annotations of these indices, read again."""
    return json_lists.read(contents.path, contents.annotations[annotations][:, [FIRST, LENGTH]].tolist())


def name_of(annotation: dict[str, Any], ordinal: int) -> Any:
    """Return what names an annotation in a report: its place in the list where it has no id."""
    return f'number {ordinal}' if annotation.get('id') is None else annotation['id']


def is_int64(value: Any) -> bool:
    """Whether a record can hold it as a number."""
    return type(value) is int and -2 ** 63 <= value < 2 ** 63


def _matched(contents: Contents, what: str, stated: Distinct, listed: Sequence[int | str], column: int) -> np.ndarray:
    """Index in the list of what annotations state; a form other than the listed one is logged as repaired."""
    known, values = Ids(listed), stated.values()
    places = np.array([known.place(value) for value in values], np.int64)
    _check_start(contents.path, what, values, listed)
    counts = np.bincount(contents.annotations[:, column], minlength=len(values)).tolist()
    for value, place, count in zip(values, places.tolist(), counts, strict=True):
        if known.changed(value, place):
            detail = f'{what}_id {value!r:.40} of {count} annotations is {what} {listed[place]!r:.40}'
            contents.log.repair(Fault(categories.OTHER_FORM, detail), listed[place] if what == 'image' else None,
                                file=contents.path.name)
    return places[contents.annotations[:, column]]


def _check_start(path: pathlib.Path, what: str, values: Sequence[Any], listed: Sequence[int | str]) -> None:
    """Raise ConversionError where annotations count from one less or one more than the list: nearly all would match."""
    numbers, ids = ({each for each in map(as_number, found) if each is not None} for found in (values, listed))
    first, last = min(ids, default=0), max(ids, default=0)
    if len(ids) != len(listed) or len(ids) != last - first + 1:
        return
    for shift, beyond, unused in ((-1, first - 1, last), (1, last + 1, first)):
        if numbers - ids == {beyond} and unused not in numbers and len(numbers) > 1:
            raise ConversionError(
                f'{path}: {what}_id of annotations is from {min(numbers)} to {max(numbers)}, and the list has the ids '
                f'{first} to {last}, so annotations and list seem to count from different numbers; '
                f'{"subtract 1 from" if shift > 0 else "add 1 to"} each {what}_id, or remove the annotations of '
                f'{what} {beyond}')


def _check(contents: Contents, found: Counter[str]) -> None:
    path = contents.path
    for key, what in _OTHER_TASKS.items():
        if key in contents.keys and not contents.keys & {'bbox', 'segmentation'}:
            raise ConversionError(f'{path}: its annotations are {what} and have neither "bbox" nor "segmentation", '
                                  'so there is nothing to detect; give the instances json of these images')
    # A test set has no annotations and may have no categories.
    needed = ['images', *(['categories'] if len(contents.annotations) else [])]
    for key in _LISTS:
        if found[key] > 1 or (key in needed and not found[key]):
            raise ConversionError(f'{path}: {"two lists" if found[key] else "no list"} {key!r}; '
                                  'give an instances json of COCO')
    if len(contents.annotations) and not contents.categories:
        raise ConversionError(f'{path}: categories is empty; list at least one')
    image_ids = [image.id for image in contents.images]
    if len(set(image_ids)) < len(image_ids):
        twice = Counter(image_ids).most_common(1)[0][0]
        raise ConversionError(f'{path}: image id {twice!r:.80} is listed twice; keep one')


def _objects(contents: Contents, key: str, elements: Iterable[json_lists.Element]) -> Iterator[json_lists.Element]:
    """The elements of a list, or of an object whose keys are the ids."""
    i = -1
    for i, element in enumerate(elements):
        if not isinstance(element.value, dict):
            place = i if element.key is None else repr(element.key)
            raise ConversionError(f'{contents.path}: {key}[{place}] is {element.value!r:.40}, '
                                  'expected an object in braces')
        if element.key is not None:
            element.value.setdefault('id', element.key)
        yield element
    if i >= 0 and element.key is not None:
        contents.log.repair(Fault('object instead of a list', f'{key} is an object of {i + 1} values, whose keys are '
                                                              'their ids'), None, file=contents.path.name)


def _list_images(contents: Contents, elements: Iterable[json_lists.Element]) -> None:
    path = contents.path
    for i, (image, *_) in enumerate(elements):
        url, name = _file_name(image)
        image_id = image.get('id')
        if type(image_id) is float and image_id.is_integer():
            image_id = int(image_id)
            contents.log.repair(Fault(categories.OTHER_FORM, f'id {image["id"]} of images[{i}] is read as {image_id}'),
                                image_id, file=path.name)
        if not (type(image_id) is int or is_text(image_id)) or not is_text(name) or not name:
            raise ConversionError(f'{path}: images[{i}] needs an "id", an int or text, and a text "file_name"')
        size = (image['height'], image['width']) if 'height' in image and 'width' in image else None
        contents.images.append(Listed(image_id, name, url, size))


def _file_name(image: dict[str, Any]) -> tuple[bool, Any]:
    """Whether there is but a URL, as in LVIS, and the name: folder and name at its end."""
    if 'file_name' not in image and isinstance(image.get('coco_url'), str):
        return True, '/'.join(image['coco_url'].split('/')[-2:])
    return False, image.get('file_name')


def _list_categories(contents: Contents, elements: Iterable[json_lists.Element]) -> None:
    contents.categories = [element.value for element in elements]


def _list_annotations(contents: Contents, elements: Iterable[json_lists.Element]) -> None:
    found, asked = array.array('q'), {'bbox', 'segmentation', *_OTHER_TASKS}
    for annotation, first, length, _ in elements:
        found.extend((contents.image_ids.number(annotation.get('image_id')),
                      contents.category_ids.number(annotation.get('category_id')),
                      is_crowd(annotation), _id(annotation.get('id')), first, length))
        contents.boxes.add(annotation)
        new = [key for key in asked if annotation.get(key)]
        contents.keys.update(new)
        asked.difference_update(new)
    contents.annotations = np.frombuffer(found, np.int64).reshape(-1, 6) if found else contents.annotations


def is_crowd(annotation: dict[str, Any]) -> bool:
    """Return whether an annotation is marked as a crowd, as a number or as text."""
    iscrowd = annotation.get('iscrowd')
    return iscrowd == 1 or as_number(iscrowd) == 1


def _id(value: Any) -> int:
    """A number for an annotation's id, the same for the same id."""
    if value is None:
        return _NO_ID
    number = as_number(value)
    return number if number is not None and is_int64(number) else hash(repr(value))


_LISTS = {'images': _list_images, 'annotations': _list_annotations, 'categories': _list_categories}
