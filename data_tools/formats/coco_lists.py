"""Read a COCO json once from end to end: its images, its categories, and the position of each annotation.

A json may be larger than the memory, so only the position and the ids of an annotation are kept. Ids that do not match
as they are, are matched as numbers (`ids.py`).
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

from data_tools.formats import categories, coco_box_survey, json_lists
from data_tools.formats.categories import is_text
from data_tools.formats.ids import Distinct, Ids, as_number
from data_tools.issues import ConversionError, Issue, IssueLog

# Keys of annotations of other tasks, which have no boxes and masks.
_OTHER_TASKS = {'keypoints': 'keypoints', 'caption': 'captions', 'segments_info': 'panoptic segments'}
# Columns of Contents.annotations: numbers of image_id and category_id; 1 for a crowd; id, or a hash of an id that is no
# number; first byte and length in the json.
IMAGE, CATEGORY, CROWD, ID, FIRST, LENGTH = range(6)
_NO_ID = -2 ** 63


class Listed(NamedTuple):
    """One image of the json."""
    id: int | str
    file_name: str
    url: bool                            # the name is the end of a URL, and the folder may be missing, as for LVIS
    size: Any                            # height, width; None: not stated


class Version(NamedTuple):
    """Identifies the content of a file."""
    sha256: str
    modified: int                        # ns


@dataclass
class Contents:
    """What a json lists."""
    path: pathlib.Path
    version: Version = Version('', 0)
    images: list[Listed] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    image_ids: Distinct = field(default_factory=Distinct)          # as in the annotations
    category_ids: Distinct = field(default_factory=Distinct)
    annotations: np.ndarray = field(default_factory=lambda: np.empty([0, 6], np.int64))      # [annotations, columns]
    # Of annotations: bbox, segmentation and the keys of other tasks that have a value somewhere.
    keys: set[str] = field(default_factory=set)
    boxes: coco_box_survey.Survey = field(default_factory=coco_box_survey.Survey)
    log: IssueLog = field(default_factory=IssueLog)


def read(path: pathlib.Path) -> Contents:
    """Return what the json lists.

    Raises:
        ConversionError: the json is missing, malformed or not COCO's.
    """
    contents, digest = Contents(path), hashlib.sha256()
    lists: Counter[str] = Counter()      # how often each key occurs
    try:
        modified = path.stat().st_mtime_ns
        for key, elements in json_lists.members(path, digest):
            if elements is not None and key in _LISTS:
                lists[key] += 1
                _LISTS[key](contents, _objects(contents, key, elements))
            elif key in _LISTS:
                raise ConversionError(f'{path}: {key!r} is no list; give an instances json of COCO')
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}; give an instances json of COCO') from None
    except json_lists.MalformedError as error:
        raise ConversionError(f'{path}: not JSON at {error}; correct it there, or copy the file again') from None
    except RecursionError as error:
        raise ConversionError(f'{path}: not JSON: {error}; copy the file again') from None
    _check(contents, lists)
    contents.version = Version(digest.hexdigest(), modified)
    return contents


def owners(contents: Contents) -> np.ndarray:
    """Return the index of the image of each annotation; -1: it has none, which is logged as dropped."""
    indices = _matched(contents, 'image', contents.image_ids, [image.id for image in contents.images], IMAGE)
    strays = np.flatnonzero(indices < 0)
    for place, annotation in zip(strays.tolist(), elements_at(contents, strays), strict=True):
        image_id = annotation.get('image_id')
        contents.log.drop(Issue('annotation for a missing image', f'image_id {image_id!r:.40} is not in the list'),
                          image_id, name_of(annotation, place + 1), contents.path.name)
    return indices


def kinds(contents: Contents, listed: Sequence[categories.Listed]) -> np.ndarray:
    """Return the index of the category of each annotation; -1: it has none."""
    return _matched(contents, 'category', contents.category_ids, [category.id for category in listed], CATEGORY)


def note_equal_ids(contents: Contents) -> None:
    """Log a warning for each id that several annotations have."""
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
        # Different texts may have equal hashes.
        if name == same or None is not as_number(name) == as_number(same):
            contents.log.keep(Issue('annotation id listed again', f'{count} annotations have it; the first two are '
                                                                  f'number {one + 1} and {other + 1} of the list'),
                              None, name, contents.path.name)


def elements_at(contents: Contents, annotations: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the annotations with these indices, read again from the json."""
    return json_lists.read(contents.path, contents.annotations[annotations][:, [FIRST, LENGTH]].tolist())


def name_of(annotation: dict[str, Any], ordinal: int) -> Any:
    """Return the id of an annotation for a report; 'number N' of the list if it has none."""
    return f'number {ordinal}' if annotation.get('id') is None else annotation['id']


def is_int64(value: Any) -> bool:
    """Return whether a record can hold a value as a number."""
    return type(value) is int and -2 ** 63 <= value < 2 ** 63


def _matched(contents: Contents, what: str, stated: Distinct, listed: Sequence[int | str], column: int) -> np.ndarray:
    """Return the index in `listed` of the id of each annotation; an id in another form is logged as repaired."""
    known, values = Ids(listed), stated.values()
    places = np.array([known.place(value) for value in values], np.int64)
    _check_start(contents.path, what, values, listed)
    counts = np.bincount(contents.annotations[:, column], minlength=len(values)).tolist()
    for value, place, count in zip(values, places.tolist(), counts, strict=True):
        if known.changed(value, place):
            detail = f'{what}_id {value!r:.40} of {count} annotations is {what} {listed[place]!r:.40}'
            contents.log.repair(Issue(categories.OTHER_FORM, detail), listed[place] if what == 'image' else None,
                                file=contents.path.name)
    return places[contents.annotations[:, column]]


def _check_start(path: pathlib.Path, what: str, values: Sequence[Any], listed: Sequence[int | str]) -> None:
    """Raise ConversionError if annotations count from one less or one more than the list: nearly all would match."""
    numbers, ids = ({each for each in map(as_number, given) if each is not None} for given in (values, listed))
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


def _check(contents: Contents, lists: Counter[str]) -> None:
    path = contents.path
    for key, what in _OTHER_TASKS.items():
        if key in contents.keys and not contents.keys & {'bbox', 'segmentation'}:
            raise ConversionError(f'{path}: its annotations are {what} and have neither "bbox" nor "segmentation", '
                                  'so there are no objects; give the instances json of these images')
    # A test set has no annotations and may have no categories.
    needed = ['images', *(['categories'] if len(contents.annotations) else [])]
    for key in _LISTS:
        if lists[key] > 1 or (key in needed and not lists[key]):
            raise ConversionError(f'{path}: {"two lists" if lists[key] else "no list"} {key!r}; '
                                  'give an instances json of COCO')
    if len(contents.annotations) and not contents.categories:
        raise ConversionError(f'{path}: categories is empty; list at least one category')
    image_ids = [image.id for image in contents.images]
    if len(set(image_ids)) < len(image_ids):
        twice = Counter(image_ids).most_common(1)[0][0]
        raise ConversionError(f'{path}: image id {twice!r:.80} is listed twice; keep one')


def _objects(contents: Contents, key: str, elements: Iterable[json_lists.Element]) -> Iterator[json_lists.Element]:
    """Yield the elements of a list, or the values of an object whose keys are the ids."""
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
        contents.log.repair(Issue('object instead of a list', f'{key} is an object of {i + 1} values, whose keys are '
                                                              'their ids'), None, file=contents.path.name)


def _list_images(contents: Contents, elements: Iterable[json_lists.Element]) -> None:
    path = contents.path
    for i, (image, *_) in enumerate(elements):
        url, name = _file_name(image)
        image_id = image.get('id')
        if type(image_id) is float and image_id.is_integer():
            image_id = int(image_id)
            contents.log.repair(Issue(categories.OTHER_FORM, f'id {image["id"]} of images[{i}] is read as {image_id}'),
                                image_id, file=path.name)
        if not (type(image_id) is int or is_text(image_id)) or not is_text(name) or not name:
            raise ConversionError(f'{path}: images[{i}] needs an "id", an int or text, and a text "file_name"')
        size = (image['height'], image['width']) if 'height' in image and 'width' in image else None
        contents.images.append(Listed(image_id, name, url, size))


def _file_name(image: dict[str, Any]) -> tuple[bool, Any]:
    """Return whether an image has only a URL, as in LVIS, and its name; from a URL, folder and name at its end."""
    if 'file_name' not in image and isinstance(image.get('coco_url'), str):
        return True, '/'.join(image['coco_url'].split('/')[-2:])
    return False, image.get('file_name')


def _list_categories(contents: Contents, elements: Iterable[json_lists.Element]) -> None:
    contents.categories = [element.value for element in elements]


def _list_annotations(contents: Contents, elements: Iterable[json_lists.Element]) -> None:
    rows, keys = array.array('q'), {'bbox', 'segmentation', *_OTHER_TASKS}
    for annotation, first, length, _ in elements:
        rows.extend((contents.image_ids.number(annotation.get('image_id')),
                     contents.category_ids.number(annotation.get('category_id')),
                     is_crowd(annotation), _id(annotation.get('id')), first, length))
        contents.boxes.add(annotation)
        new = [key for key in keys if annotation.get(key)]
        contents.keys.update(new)
        keys.difference_update(new)
    contents.annotations = np.frombuffer(rows, np.int64).reshape(-1, 6) if rows else contents.annotations


def is_crowd(annotation: dict[str, Any]) -> bool:
    """Return whether an annotation is marked as a crowd, as a number or as text."""
    iscrowd = annotation.get('iscrowd')
    return iscrowd == 1 or as_number(iscrowd) == 1


def _id(value: Any) -> int:
    """Return a number for the id of an annotation, equal for equal ids."""
    if value is None:
        return _NO_ID
    number = as_number(value)
    return number if number is not None and is_int64(number) else hash(repr(value))


_LISTS = {'images': _list_images, 'annotations': _list_annotations, 'categories': _list_categories}
