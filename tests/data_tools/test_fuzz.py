"""A few cases of fuzz.py, and that it notices defects."""
from __future__ import annotations

from typing import Any

import pytest

from data_tools import examples, images, objects
from tests.data_tools import fuzz


def test_damaged_sets_end_in_one_line_or_in_valid_records() -> None:
    ends, failures = fuzz.run(range(45), seed=0)
    assert not failures, '\n'.join(failures.values())
    assert {end for _, end in ends} == {
        'one clear line', 'records, and problems are counted', 'records, no problem'}


def test_damaged_images_are_refused_or_decoded() -> None:
    ends, failures = fuzz.run_images(range(500), seed=0)
    assert not failures, '\n'.join(failures.values())
    assert {end for _, end in ends} == {'refused', 'decoded'}


def _moved(box: Any, size: tuple[int, int], text: str) -> tuple[objects.Box, list[Any]]:
    y1, x1, y2, x2 = _clip(box, size, text)[0]
    return (y1 / 2, x1, y2, x2), []


def _unchecked(data: bytes, name: str, *_: Any) -> images.ImageFile:
    return images.ImageFile(data, 'png' if data.startswith(b'\x89PNG') else 'jpeg', 20, 30, 3, 'uint8')


def _forgotten(source: Any, item: Any, annotation: Any, *others: Any) -> Any:
    return None if annotation[0] in (1, 26000) else _object(source, item, annotation, *others)


_clip, _object = objects.clip, examples._object


@pytest.mark.parametrize(('module', 'name', 'instead', 'message'), [
    (objects, 'clip', _moved, 'is not what the files say'),
    (images, 'check', _unchecked, 'Invalid'),
    (examples, '_object', _forgotten, 'an annotation is neither written nor counted')])
def test_a_defect_is_noticed(
        monkeypatch: pytest.MonkeyPatch, module: Any, name: str, instead: Any, message: str) -> None:
    monkeypatch.setattr(module, name, instead)
    _, failures = fuzz.run(range(18), seed=0)
    assert any(message in failure for failure in failures.values()), failures
