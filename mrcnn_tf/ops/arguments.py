"""Checks of arguments; each raises a ValueError of one line that names the argument, its value and what is expected."""
from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import Any


def check_choice(owner: str, name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`; `owner` is the layer or function whose argument it is."""
    if value not in choices:
        raise ValueError(f'{owner}: {name} is {value!r}; expected one of {", ".join(map(repr, choices))}')


def check_counts(owner: str, least: int = 1, **values: Any) -> None:
    """Raise ValueError unless all values are whole numbers of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f'{owner}: {name} is {value!r}; expected a whole number of at least {least}')


def check_positive(owner: str, **values: Any) -> None:
    """Raise ValueError unless all values are numbers above 0."""
    for name, value in values.items():
        if not _is_number(value) or not value > 0:
            raise ValueError(f'{owner}: {name} is {value!r}; expected a number above 0')


def check_list(owner: str, name: str, values: Any, length: int | None = None) -> None:
    """Raise ValueError unless `values` is a list or tuple of `length` numbers above 0; None: of one or more."""
    listed = list(values) if isinstance(values, (list, tuple)) else []
    if not listed or len(listed) != (length or len(listed)) or not all(
            _is_number(value) and value > 0 for value in listed):
        raise ValueError(f'{owner}: {name} is {values!r}; expected a list of {length or "one or more"} numbers above 0')


def check_fraction(owner: str, **values: Any) -> None:
    """Raise ValueError unless all values are numbers from 0 to 1."""
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError(f'{owner}: {name} is {value!r}; expected a number from 0 to 1')


def check_shape(owner: str, name: str, tensor: Any, axes: str) -> None:
    """Raise ValueError unless `tensor` has as many axes as `axes` names, such as '[B, N, 4]', and their numbers."""
    wanted = [int(axis) if axis.isdigit() else None for axis in axes.strip('[]').split(', ')]
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted) or any(
            None not in (have, want) and have != want for have, want in zip(shape, wanted, strict=True)):
        raise ValueError(f'{owner}: {name} has the shape {shape}; expected {axes}')


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)
