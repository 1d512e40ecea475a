"""What all formats share: image ids, numbered categories, and stamps of files."""
from __future__ import annotations

import os
import pathlib

import pytest

from data_tools import data_set
from data_tools.issues import InvalidDataError
from mrcnn_tf.input.manifest import Category


@pytest.mark.parametrize(('ids', 'numbers'), [
    pytest.param(['7', '012', '0'], [7, 12, 0], id='numbers'),
    pytest.param(['7', '2007_000032'], [1, 2], id='a text among them'),
    pytest.param(['7', '007'], [1, 2], id='equal as numbers'),
    pytest.param(['7', '9' * 19], [1, 2], id='beyond 64 bits'),
    pytest.param(['²'], [1], id='a digit that is not ASCII'), pytest.param([], [], id='none')])
def test_numbers_of_images(ids: list[str], numbers: list[int]) -> None:
    assert data_set.image_numbers(ids) == numbers


def test_categories_are_numbered_in_order() -> None:
    assert data_set.numbered_categories(['b', 'a']) == [Category(1, 1, 'b'), Category(2, 2, 'a')]


def test_a_stamp_changes_with_a_file(tmp_path: pathlib.Path) -> None:
    one, other = tmp_path / 'a', tmp_path / 'b'
    one.write_bytes(b'123')
    other.write_bytes(b'45')
    os.utime(one, ns=(0, 10))
    os.utime(other, ns=(0, 7))
    assert data_set.file_stamp(one, other) == (5, 17)
    os.utime(other, ns=(0, 8))
    assert data_set.file_stamp(one, other) == (5, 18)
    assert data_set.file_stamp(one, tmp_path / 'missing', 'a\0b') == (3, 10)


def test_too_many_objects() -> None:
    data_set.check_object_count(100_000)
    with pytest.raises(InvalidDataError, match='too many annotations: 100,001 on one image, at most 100,000') as error:
        data_set.check_object_count(100_001)
    assert error.value.annotations == 100_001
