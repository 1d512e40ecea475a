"""A json read element by element: equal to reading it at once for any window, with the same errors as json.loads."""
from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from data_tools.formats import json_lists

WINDOWS = st.sampled_from([1, 2, 3, 7, 64, 2 ** 20])
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([1.5e300, -2e-7])
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | st.text(),
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
OBJECTS = st.dictionaries(st.text(), VALUES | st.lists(VALUES, max_size=4), max_size=4)
FEW = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow])


def load(path: pathlib.Path) -> dict[str, list[Any] | None]:
    return {key: None if elements is None else [each.value for each in elements]
            for key, elements in json_lists.members(path)}


@FEW
@hypothesis.given(OBJECTS, WINDOWS, st.booleans(), st.sampled_from([None, 0, 3]),
                  st.sampled_from(['utf-8', 'utf-8-sig']))
def test_elements_and_their_positions(tmp_path: pathlib.Path, data: dict[str, Any], window: int, plain: bool,
                                   indent: int | None, encoding: str) -> None:
    path, digest = tmp_path / 'a.json', hashlib.sha256()
    path.write_bytes(json.dumps(data, ensure_ascii=plain, indent=indent).encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, 'WINDOW', window)
        lists = {key: None if elements is None else list(elements)
                 for key, elements in json_lists.members(path, digest)}
    assert {key: [(each.key, each.value) for each in elements] for key, elements in lists.items()
            if elements is not None} == {
        key: list(value.items()) if isinstance(value, dict) else [(None, each) for each in value]
        for key, value in data.items() if isinstance(value, (list, dict))}
    assert list(lists) == list(data)
    for elements in lists.values():
        places = [(each.start, each.length) for each in elements or ()]
        assert list(json_lists.read(path, places)) == [each.value for each in elements or ()]
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


@FEW
@hypothesis.given(OBJECTS, WINDOWS, st.integers(0, 10 ** 6), st.sampled_from([b'', *b'{}[],:" 1e\n']))
def test_an_error_has_the_position_that_json_reports(tmp_path: pathlib.Path, data: dict[str, Any], window: int, at: int,
                                               instead: bytes | int) -> None:
    path, text = tmp_path / 'a.json', bytearray(json.dumps(data, indent=1).encode())
    at %= len(text)
    text[at:at + 1] = instead if isinstance(instead, bytes) else bytes([instead])
    path.write_bytes(text)
    try:
        json.loads(text)
        expected = ''
    except json.JSONDecodeError as error:
        expected = f'line {error.lineno} column {error.colno}: '
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, 'WINDOW', window)
        if expected:
            with pytest.raises(json_lists.MalformedError, match=f'^{expected}'):
                load(path)
        else:
            load(path)


@pytest.mark.parametrize('text, message', [
    (b'', 'line 1 column 1: Expecting value'),
    (b'{"a": [1, 2', "line 1 column 12: Expecting ','"),
    (b'{"a": [1, 2]} {', 'line 1 column 15: Extra data'),
    (b'{"a": ["\xc3\xa9", "\xc3"]}', 'byte 14: not UTF-8: save it as UTF-8'),
    (b'{"a": [' + b'7' * 5000 + b']}', 'line 1 column 8: Exceeds the limit'),
    ('{"a": []}'.encode('utf-16'), 'line 1 column 1: it is in utf-16, not in UTF-8: save it as UTF-8'),
])
def test_files_that_are_not_json(tmp_path: pathlib.Path, text: bytes, message: str) -> None:
    (tmp_path / 'a.json').write_bytes(text)
    with pytest.raises(json_lists.MalformedError, match=f'^{message}'):
        load(tmp_path / 'a.json')


@pytest.mark.parametrize('text', ['[{"a": []}]', '3', 'null'])
def test_a_file_without_an_object_yields_nothing(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / 'a.json').write_text(text)
    assert load(tmp_path / 'a.json') == {}


def test_an_unused_list_is_skipped(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.json').write_text('{"a": [1, [2], 3], "b": {"c": [4]}, "d": [5, 6]}')
    lists = []
    for key, elements in json_lists.members(tmp_path / 'a.json'):
        if key == 'd':
            assert elements is not None
            lists.append(next(elements))
    assert lists == [json_lists.Element(5, 42, 1)]
