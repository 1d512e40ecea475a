"""Ids of annotations, images and categories: which of those listed is meant, where a tool wrote "1" or 1.0 for 1."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_WHOLE = re.compile(r'\s*([+-]?[0-9]{1,30})(\.0*)?\s*')


def as_number(value: Any) -> int | None:
    """Return the whole number that an id is, whether int, float or text; None where it is none."""
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value)
        return int(match[1]) if match else None
    return value if type(value) is int else None


class Ids:
    """The ids of a list. An id is found as it is, or as the only one of the same number."""

    def __init__(self, listed: Sequence[int | str]) -> None:
        self.listed = listed
        self._places = {each: i for i, each in enumerate(listed)}
        numbers = [as_number(each) for each in listed]
        counts = Counter(numbers)
        self._by_number = {number: i for i, number in enumerate(numbers) if number is not None and counts[number] == 1}

    def place(self, stated: Any) -> int:
        """Return the index of the id that is meant; -1 where none is."""
        if type(stated) in (int, str) and stated in self._places:
            return self._places[stated]
        number = as_number(stated)
        return -1 if number is None else self._by_number.get(number, -1)

    def changed(self, stated: Any, place: int) -> bool:
        """Whether an id that was found is listed in another form."""
        return place >= 0 and (type(stated), stated) != (type(self.listed[place]), self.listed[place])


class Distinct:
    """Numbers the distinct ids that annotations name, as they come."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[type, Any], int] = {}

    def number(self, value: Any) -> int:
        """Return the number of an id; the same for the same id."""
        if not isinstance(value, (int, float, str)):      # others are no ids, and need not be hashable
            value = None
        return self._numbers.setdefault((type(value), value), len(self._numbers))

    def values(self) -> list[Any]:
        """Return the ids by number; None for what can be no id."""
        return [value for _, value in self._numbers]
