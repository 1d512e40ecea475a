"""Ids of annotations, images and categories: match ids that a tool wrote as "1" or 1.0 with the listed id 1."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_WHOLE = re.compile(r'\s*([+-]?[0-9]{1,30})(\.0*)?\s*')


def as_number(value: Any) -> int | None:
    """Return the integer that an id, an int, float or text, stands for; None if it is no integer."""
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value)
        return int(match[1]) if match else None
    return value if type(value) is int else None


class Ids:
    """The ids of a list. An id matches an equal one, or the only one with the same number."""

    def __init__(self, listed: Sequence[int | str]) -> None:
        self.listed = listed
        self._places = {each: i for i, each in enumerate(listed)}
        numbers = [as_number(each) for each in listed]
        counts = Counter(numbers)
        self._by_number = {number: i for i, number in enumerate(numbers) if number is not None and counts[number] == 1}

    def place(self, stated: Any) -> int:
        """Return the index of the matching id; -1 if there is none."""
        if type(stated) in (int, str) and stated in self._places:
            return self._places[stated]
        number = as_number(stated)
        return -1 if number is None else self._by_number.get(number, -1)

    def changed(self, stated: Any, place: int) -> bool:
        """Return whether an id is listed in another form; place: from `place`."""
        return place >= 0 and (type(stated), stated) != (type(self.listed[place]), self.listed[place])


class Distinct:
    """Numbers the distinct ids of annotations in order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[type, Any], int] = {}

    def number(self, value: Any) -> int:
        """Return the number of an id; equal for equal ids."""
        if not isinstance(value, (int, float, str)):      # other values are no ids and may not be hashable
            value = None
        return self._numbers.setdefault((type(value), value), len(self._numbers))

    def values(self) -> list[Any]:
        """Return the ids by number; None stands for a value that cannot be an id."""
        return [value for _, value in self._numbers]
