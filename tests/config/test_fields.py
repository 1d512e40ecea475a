"""Limits and choices of fields, on a small schema."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mrcnn_tf.config.fields import (
    ASCENDING,
    CANVASES,
    DISTINCT,
    NOT_EMPTY,
    RANGE,
    THREE,
    ConfigError,
    ListRule,
    check_fields,
    choice,
    setting,
)


@dataclass
class _Inner:
    rate: float = setting(0.5, ge=0, lt=1)
    weights: list[list[float]] = setting([[1.0]], gt=0)


@dataclass
class _Section:
    count: int = setting(4, ge=2, le=5)
    offset: float = setting(0.0)
    clip: float | None = setting(None, gt=0)
    kind: str = choice(['random', 'ohem'])
    flag: bool = False
    inner: _Inner = field(default_factory=_Inner)


def _message(**values: Any) -> str:
    section = _Section()
    for name, value in values.items():
        setattr(section.inner if hasattr(section.inner, name) else section, name, value)
    with pytest.raises(ConfigError) as caught:
        check_fields(section, 'model.')
    return str(caught.value)


def test_defaults_are_valid_and_lists_are_copied() -> None:
    check_fields(_Section())
    first, second = _Inner(), _Inner()
    first.weights[0][0] = 9.0
    assert second.weights == [[1.0]]
    assert _Section().kind == 'random'


@pytest.mark.parametrize(('values', 'message'), [
    ({'count': 1}, 'model.count is 1: expected at least 2 and at most 5'),
    ({'count': 6}, 'model.count is 6: expected at least 2 and at most 5'),
    ({'clip': 0.0}, 'model.clip is 0.0: expected above 0'),
    ({'rate': 1.0}, 'model.inner.rate is 1.0: expected at least 0 and below 1'),
    ({'weights': [[1.0], [2.0, -1.0]]}, 'model.inner.weights is [[1.0], [2.0, -1.0]]: expected above 0'),
    ({'offset': float('nan')}, 'model.offset is nan: expected finite numbers'),
    ({'rate': float('inf')}, 'model.inner.rate is inf: expected finite numbers'),
    ({'kind': 'rando'}, "model.kind is 'rando'; did you mean random?"),
    ({'kind': 'zzz'}, "model.kind is 'zzz': expected one of random, ohem"),
], ids=['below ge', 'above le', 'gt', 'lt', 'nested list', 'nan', 'infinity', 'similar choice', 'no similar choice'])
def test_a_value_outside_its_limits_is_refused(values: dict[str, Any], message: str) -> None:
    assert _message(**values) == message


@pytest.mark.parametrize('values', [{'count': 2}, {'count': 5}, {'offset': -7.0}, {'clip': 1e-9}, {'kind': 'ohem'}],
                         ids=lambda values: '='.join(map(str, *values.items())))
def test_limits_belong_to_the_range(values: dict[str, Any]) -> None:
    check_fields(_Section(**values))


@pytest.mark.parametrize(('rule', 'valid', 'invalid'), [
    (NOT_EMPTY, [[1]], [[]]),
    (DISTINCT, [[], [1, 2]], [[1, 2, 1]]),
    (RANGE, [[], [1, 2], [1, 1]], [[1], [2, 1], [1, 2, 3]]),
    (ASCENDING, [[], [1, 2]], [[2, 1], [1, 1]]),
    (THREE, [[1, 1, 1]], [[], [1, 1], [1, 1, 1, 1]]),
    (CANVASES, [[[32, 64]]], [[], [[32]], [[32, 40]], [[32, 32, 32]]]),
], ids=['not empty', 'distinct', 'range', 'ascending', 'three', 'canvases'])
def test_list_rules(rule: ListRule, valid: list[list[Any]], invalid: list[list[Any]]) -> None:
    assert all(rule.holds(values) for values in valid) and not any(rule.holds(values) for values in invalid)
