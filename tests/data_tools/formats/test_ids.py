"""Ids that a tool wrote as text or float: those that match a listed id, and those that match none."""
from __future__ import annotations

import pickle
from typing import Any

import pytest

from data_tools.formats.ids import Distinct, Ids, as_number


@pytest.mark.parametrize('value, number', [
    (1, 1), (1.0, 1), ('1', 1), (' 01 ', 1), ('1.0', 1), ('-3', -3), (2 ** 70, 2 ** 70), (1e20, 10 ** 20),
    (1.5, None), (True, None), ('1.5', None), ('', None), ('x', None), ('1e3', None), ('\u0661', None), (None, None),
    ([1], None), (float('nan'), None), (float('inf'), None), ('9' * 5000, None)])
def test_ids_as_numbers(value: Any, number: int | None) -> None:
    assert as_number(value) == number


@pytest.mark.parametrize('listed, stated, place', [
    ([5, 7], 7, 1), ([5, 7], '7', 1), ([5, 7], 7.0, 1), (['5', '7'], 7, 1), (['5', 7], '5', 0),
    (['a', 'b'], 'b', 1), ([5, 7], True, -1), ([1, 7], True, -1), ([5, 7], 6, -1), ([5], None, -1), ([5], [5], -1),
    ([7, '7'], '7', 1), ([7, '7'], 7, 0),
    ([7, '7'], 7.0, -1), (['07', '7.0'], 7, -1)])      # two of one number: nobody can tell
def test_matching_ids(listed: list[Any], stated: Any, place: int) -> None:
    assert pickle.loads(pickle.dumps(Ids(listed))).place(stated) == place


def test_an_id_in_another_form_has_changed() -> None:
    ids = Ids([5, '7'])
    assert [ids.changed(stated, ids.place(stated)) for stated in (5, '5', 5.0, '7', 7, 9)] == [
        False, True, True, False, True, False]


def test_distinct_ids() -> None:
    distinct = Distinct()
    assert [distinct.number(value) for value in (3, '3', 3, 3.0, True, [3], {}, None, 3)] == [0, 1, 0, 2, 3, 4, 4, 4, 0]
    assert distinct.values() == [3, '3', 3.0, True, None]
