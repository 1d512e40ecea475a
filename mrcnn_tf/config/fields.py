"""Fields of the schema with the values that each may have, and the check of these values.

A limit applies to every number of a field, also in nested lists. All numbers must be finite.
"""
from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

_LIMITS = {'ge': (operator.ge, 'at least'), 'gt': (operator.gt, 'above'),
           'le': (operator.le, 'at most'), 'lt': (operator.lt, 'below')}


class ConfigError(ValueError):
    """A configuration cannot be used; the message is one line that names the field and what to do."""


class ListRule(NamedTuple):
    """A condition on a list as a whole, and the words for it in an error message."""
    holds: Callable[[list[Any]], bool]
    expected: str


NOT_EMPTY = ListRule(bool, 'at least one number')
DISTINCT = ListRule(lambda values: len(set(values)) == len(values), 'numbers that differ')
ASCENDING = ListRule(lambda values: values == sorted(set(values)), 'numbers in ascending order')
THREE = ListRule(lambda values: len(values) == 3, 'three numbers')
FOUR = ListRule(lambda values: len(values) == 4, 'four numbers')
RANGE = ListRule(lambda values: not values or len(values) == 2 and values[0] <= values[1],
                 'two numbers, the smaller one first, or none')
CANVASES = ListRule(
    lambda pairs: bool(pairs) and all(len(pair) == 2 and all(side % 32 == 0 for side in pair) for pair in pairs),
    '[height, width] pairs that 32 divides')
LOGGERS = ListRule(lambda names: len(set(names)) == len(names) and set(names) <= {'tensorboard', 'wandb', 'mlflow'},
                   'some of tensorboard, wandb and mlflow, each once')
ADDRESSES = ListRule(
    lambda texts: len(set(texts)) == len(texts) and all(map(is_address, texts)), 'host:port addresses, each once')


def is_address(value: Any) -> bool:
    """Return whether a value is a text `host:port`; the host may be a name, an IPv4 address or [an IPv6 address]."""
    found = re.fullmatch(r'(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})', str(value))
    return isinstance(value, str) and found is not None and 0 < int(found[1]) < 65536


def setting(default: Any, *, ge: float | None = None, gt: float | None = None, le: float | None = None,
            lt: float | None = None, rule: ListRule | None = None) -> Any:
    """Return a dataclass field with its default and the limits of its value.

    Args:
        default: a value, or a list, of which each instance gets a copy.
        ge, gt, le, lt: every number must be at least, above, at most, below this.
        rule: a condition on a list as a whole.

    Example:
        positive_iou: float = setting(0.7, ge=0, le=1)
    """
    limits = {name: limit for name, limit in {'ge': ge, 'gt': gt, 'le': le, 'lt': lt}.items() if limit is not None}
    metadata = {'limits': limits, 'rule': rule}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def choice(choices: Collection[Any]) -> Any:
    """Return a dataclass field whose value must be one of `choices`; the first one is the default."""
    return dataclasses.field(default=next(iter(choices)), metadata={'choices': choices})


def check_fields(section: Any, prefix: str = '') -> None:
    """Check each field of a config, or of one section of it, against its limits and choices.

    Raises:
        ConfigError: the first value that its field may not have.
    """
    for field in dataclasses.fields(section):
        name, value, rule = f'{prefix}{field.name}', getattr(section, field.name), field.metadata.get('rule')
        if dataclasses.is_dataclass(value):
            check_fields(value, f'{name}.')
        if 'choices' in field.metadata:
            _check_choice(name, value, field.metadata['choices'])
        _check_numbers(name, value, field.metadata.get('limits', {}))
        if rule and not rule.holds(value):
            raise ConfigError(f'{name} is {value}: expected {rule.expected}')


def _check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    if value in choices:
        return
    close = difflib.get_close_matches(str(value), map(str, choices), 1, 0.5)
    hint = f'; did you mean {close[0]}?' if close else f': expected one of {", ".join(map(str, choices))}'
    raise ConfigError(f'{name} is {value!r}{hint}')


def _check_numbers(name: str, value: Any, limits: dict[str, float]) -> None:
    for number in _numbers(value):
        if not math.isfinite(number):
            raise ConfigError(f'{name} is {value}: expected finite numbers')
        if not all(_LIMITS[key][0](number, limit) for key, limit in limits.items()):
            expected = ' and '.join(f'{_LIMITS[key][1]} {limit}' for key, limit in limits.items())
            raise ConfigError(f'{name} is {value}: expected {expected}')


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of a field: the value itself, or the numbers of a nested list."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value
