"""Categories that a json lists: which of them look wrong, and which the user wants to keep."""
from __future__ import annotations

import difflib
import os
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_tools.formats import ids
from data_tools.issues import ConversionError, Fault, Log
from data_tools.remains import LEFT_OUT
from mrcnn_tf import files
from mrcnn_tf.input.manifest import Category

OTHER_FORM = 'id in another form'
WITHOUT_OBJECTS = 'category without objects'
_DROP = '--drop-unused-categories leaves it out'


class Listed(NamedTuple):
    """A category of the json, and the annotations that name it."""
    id: int
    name: str
    supercategory: Any
    objects: int = 0      # crowds among them
    crowds: int = 0

    def __str__(self) -> str:
        return f"category {self.id} '{self.name}'"


def read(listed: Sequence[dict[str, Any]], path: pathlib.Path, log: Log) -> list[Listed]:
    """Return the categories in the order of their ids; an id that is a number in another form is repaired.

    Raises:
        ConversionError: an id that is no number, a name that is no text, an id that is listed twice.
    """
    found: dict[int, Listed] = {}
    for i, category in enumerate(listed):
        number = ids.as_number(category.get('id'))
        if number is None or not is_text(category.get('name')):
            raise ConversionError(f'{path}: categories[{i}] needs an int "id" and a text "name"; its id is '
                                  f'{category.get("id")!r:.40}, its name {category.get("name")!r:.40}')
        if number in found:
            raise ConversionError(f'{path}: category id {number} is listed twice; keep one')
        if type(category['id']) is not int:
            log.repair(Fault(OTHER_FORM, f'id {category["id"]!r:.40} of categories[{i}] is read as {number}'), None,
                       file=path.name)
        found[number] = Listed(number, category['name'], category.get('supercategory'))
    return [found[number] for number in sorted(found)]


def count(listed: Sequence[Listed], kinds: np.ndarray, crowd: np.ndarray) -> list[Listed]:
    """Return the categories with the numbers of their annotations.

    Args:
        kinds: int [annotations], the index of the category of each, -1: of none.
        crowd: int [annotations], 1 of a crowd.
    """
    objects, crowds = (np.bincount(found[found >= 0], minlength=len(listed)).tolist()
                       for found in (kinds, kinds[crowd == 1]))
    return [each._replace(objects=objects[i], crowds=crowds[i]) for i, each in enumerate(listed)]


def choose(listed: Sequence[Listed], keep: str | os.PathLike[str] | None, drop_unused: bool, path: pathlib.Path,
           log: Log) -> dict[int, Category]:
    """Return the categories to keep, labelled 1..K, by their index; those left out and what looks wrong are logged.

    Args:
        keep: file of names or ids, one a line; None: all.
        drop_unused: leave out those without objects.

    Raises:
        ConversionError: `keep` cannot be read or names none; nothing is left.
    """
    wanted = set(range(len(listed))) if keep is None else _wanted(listed, pathlib.Path(keep), path)
    if drop_unused:
        wanted = {i for i in wanted if listed[i].objects}
        if listed and not wanted:
            raise ConversionError(f'{path}: no category has objects; convert without --drop-unused-categories')
    for i, each in enumerate(listed):
        if i not in wanted:
            log.drop(Fault(LEFT_OUT, f'{each}: {_objects(each)}'), None, file=path.name)
    for fault in _odd([listed[i] for i in sorted(wanted)]):
        log.keep(fault, None, file=path.name)
    return {i: Category(label, listed[i].id, listed[i].name) for label, i in enumerate(sorted(wanted), 1)}


def is_text(value: Any) -> bool:
    r"""Whether it is a string that can be written: json lets "\ud800" through, half a character."""
    return isinstance(value, str) and not any('\ud800' <= character <= '\udfff' for character in value)


def _wanted(listed: Sequence[Listed], keep: pathlib.Path, path: pathlib.Path) -> set[int]:
    try:
        lines = [line.strip() for line in files.read_text(keep, 'utf-8-sig').splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f'{keep}: {getattr(error, "strerror", "not UTF-8")}; give a text file with the name or '
                              'id of a category on each line') from None
    if not lines:
        raise ConversionError(f'{keep}: no category is listed; write the name or id of each on a line of its own')
    return {i for line in lines for i in _named(listed, line, keep, path)}


def _named(listed: Sequence[Listed], line: str, keep: pathlib.Path, path: pathlib.Path) -> list[int]:
    """Indices of the categories that have this name, or else this id."""
    found = ([i for i, each in enumerate(listed) if each.name == line]
             or [i for i, each in enumerate(listed) if each.id == ids.as_number(line)])
    if not found:
        near = difflib.get_close_matches(line, [each.name for each in listed], 1, 0)
        raise ConversionError(f'{keep}: {path} has no category {line!r:.80}; the nearest name is {near[0]!r:.80}'
                              if near else f'{keep}: {path} lists no categories')
    return found


def _odd(listed: Sequence[Listed]) -> Iterator[Fault]:
    """What looks wrong; that a whole set has no positive is not said of each category."""
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
            way = _DROP if not each.objects else '--categories FILE can leave it out'
            yield Fault('supercategory in the list',
                        f'{each} has {_objects(each)} and is the supercategory of {others}; {way}')
        elif not each.objects and not empty:
            yield Fault(WITHOUT_OBJECTS, f'{each}; {_DROP}')
        elif each.objects == each.crowds and not empty:
            yield Fault('category of crowds only', f'{each} has {_objects(each)}, so no positive')
    for same in of_name.values():
        if len(same) > 1:
            yield Fault('categories of one name', f'{" and ".join(map(str, same[:5]))} are different classes; '
                                                  'give them one id, or other names')


def _objects(category: Listed) -> str:
    if category.objects and category.objects == category.crowds:
        return f'{category.objects} crowd{"s" if category.objects > 1 else ""}'
    return f'{category.objects or "no"} object{"s" if category.objects > 1 else ""}'
