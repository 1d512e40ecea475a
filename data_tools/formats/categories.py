"""The categories of a COCO json: read them, warn about those that look wrong, and select those to keep."""
from __future__ import annotations

import difflib
import os
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_tools.formats import ids
from data_tools.issues import ConversionError, Issue, IssueLog
from data_tools.set_checks import LEFT_OUT
from mrcnn_tf import files
from mrcnn_tf.input.manifest import Category

OTHER_FORM = 'id in another form'
WITHOUT_OBJECTS = 'category without objects'
_DROP = '--drop-unused-categories drops it'


class Listed(NamedTuple):
    """A category of the json, with the numbers of its annotations."""
    id: int
    name: str
    supercategory: Any
    objects: int = 0      # crowds included
    crowds: int = 0

    def __str__(self) -> str:
        return f"category {self.id} '{self.name}'"


def read(listed: Sequence[dict[str, Any]], path: pathlib.Path, log: IssueLog) -> list[Listed]:
    """Return the categories in the order of their ids; an id that is a number in another form is repaired.

    Args:
        listed: the categories as in the json.
        path: the json.
        log: receives the repairs.

    Raises:
        ConversionError: an id is no number, a name is no text, an id is listed twice.
    """
    categories: dict[int, Listed] = {}
    for i, category in enumerate(listed):
        number = ids.as_number(category.get('id'))
        if number is None or not is_text(category.get('name')):
            raise ConversionError(f'{path}: categories[{i}] needs an int "id" and a text "name"; its id is '
                                  f'{category.get("id")!r:.40}, its name {category.get("name")!r:.40}')
        if number in categories:
            raise ConversionError(f'{path}: category id {number} is listed twice; keep one')
        if type(category['id']) is not int:
            log.repair(Issue(OTHER_FORM, f'id {category["id"]!r:.40} of categories[{i}] is read as {number}'), None,
                       file=path.name)
        categories[number] = Listed(number, category['name'], category.get('supercategory'))
    return [categories[number] for number in sorted(categories)]


def count(listed: Sequence[Listed], kinds: np.ndarray, crowd: np.ndarray) -> list[Listed]:
    """Return the categories with the numbers of their annotations.

    Args:
        listed: K categories.
        kinds: int [annotations], the index of the category of each; -1: it has none.
        crowd: int [annotations], 1 for a crowd.
    """
    objects, crowds = (np.bincount(indices[indices >= 0], minlength=len(listed)).tolist()
                       for indices in (kinds, kinds[crowd == 1]))
    return [each._replace(objects=objects[i], crowds=crowds[i]) for i, each in enumerate(listed)]


def choose(listed: Sequence[Listed], keep: str | os.PathLike[str] | None, drop_unused: bool, path: pathlib.Path,
           log: IssueLog) -> dict[int, Category]:
    """Return the categories to keep, labelled 1..K, by their index; log the dropped ones and warnings.

    Args:
        listed: all categories.
        keep: file of names or ids, one per line; None: all.
        drop_unused: drop categories without objects.
        path: the json.
        log: receives the dropped categories and warnings.

    Raises:
        ConversionError: `keep` cannot be read or names no category; nothing is left.
    """
    wanted = set(range(len(listed))) if keep is None else _wanted(listed, pathlib.Path(keep), path)
    if drop_unused:
        wanted = {i for i in wanted if listed[i].objects}
        if listed and not wanted:
            raise ConversionError(f'{path}: no category has objects; convert without --drop-unused-categories')
    for i, each in enumerate(listed):
        if i not in wanted:
            log.drop(Issue(LEFT_OUT, f'{each}: {_objects(each)}'), None, file=path.name)
    for warning in _warnings([listed[i] for i in sorted(wanted)]):
        log.keep(warning, None, file=path.name)
    return {i: Category(label, listed[i].id, listed[i].name) for label, i in enumerate(sorted(wanted), 1)}


def is_text(value: Any) -> bool:
    r"""Return whether a value is a string that UTF-8 can encode: json accepts "\ud800", half a character."""
    return isinstance(value, str) and not any('\ud800' <= character <= '\udfff' for character in value)


def _wanted(listed: Sequence[Listed], keep: pathlib.Path, path: pathlib.Path) -> set[int]:
    try:
        lines = [line.strip() for line in files.read_text(keep, 'utf-8-sig').splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f'{keep}: {getattr(error, "strerror", "not UTF-8")}; give a text file with the name or '
                              'id of one category per line') from None
    if not lines:
        raise ConversionError(f'{keep}: it lists no category; write one name or id per line')
    return {i for line in lines for i in _named(listed, line, keep, path)}


def _named(listed: Sequence[Listed], line: str, keep: pathlib.Path, path: pathlib.Path) -> list[int]:
    """Return the indices of the categories with this name, or else with this id."""
    indices = ([i for i, each in enumerate(listed) if each.name == line]
               or [i for i, each in enumerate(listed) if each.id == ids.as_number(line)])
    if not indices:
        near = difflib.get_close_matches(line, [each.name for each in listed], 1, 0)
        raise ConversionError(f'{keep}: {path} has no category {line!r:.80}; the nearest name is {near[0]!r:.80}'
                              if near else f'{keep}: {path} lists no categories')
    return indices


def _warnings(listed: Sequence[Listed]) -> Iterator[Issue]:
    """Yield an issue for each category that looks wrong; categories without positives only if others have some."""
    of_super, of_name = defaultdict[Any, list[Listed]](list), defaultdict[str, list[Listed]](list)
    for each in listed:
        of_name[each.name.strip().casefold()].append(each)
        if isinstance(each.supercategory, str) and each.supercategory != each.name:
            of_super[each.supercategory].append(each)
    empty = not any(each.objects > each.crowds for each in listed)
    for each in listed:
        if each.name in of_super:
            below = len(of_super[each.name])
            others = 'all others' if below == len(listed) - 1 else f'{below} other{"s" if below > 1 else ""}'
            remedy = _DROP if not each.objects else '--categories FILE can drop it'
            yield Issue('supercategory in the list',
                        f'{each} has {_objects(each)} and is the supercategory of {others}; {remedy}')
        elif not each.objects and not empty:
            yield Issue(WITHOUT_OBJECTS, f'{each}; {_DROP}')
        elif each.objects == each.crowds and not empty:
            yield Issue('category of crowds only', f'{each} has {_objects(each)}, so no positive')
    for same in of_name.values():
        if len(same) > 1:
            yield Issue('categories of one name', f'{" and ".join(map(str, same[:5]))} are different classes; '
                                                  'give them one id or different names')


def _objects(category: Listed) -> str:
    if category.objects and category.objects == category.crowds:
        return f'{category.objects} crowd{"s" if category.objects > 1 else ""}'
    return f'{category.objects or "no"} object{"s" if category.objects > 1 else ""}'
