"""Categories of a COCO json: those that are kept on request, and warnings about those that look wrong."""
from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from data_tools.formats import categories
from data_tools.formats.categories import Listed
from data_tools.issues import ConversionError, IssueLog
from mrcnn_tf.input.manifest import Category, IssueEntry

PATH = pathlib.Path('a.json')
PETS = [Listed(3, 'cat', 'animal', 2), Listed(5, 'dog', 'animal'), Listed(12, 'car', None, 3, 3)]


def choose(listed: list[Listed], keep: pathlib.Path | None = None, drop_unused: bool = False) -> tuple[list[str],
IssueLog]:
    log = IssueLog()
    chosen = categories.choose(listed, keep, drop_unused, PATH, log)
    assert [category.label for category in chosen.values()] == list(range(1, len(chosen) + 1))
    assert [(listed[i].id, listed[i].name) for i in chosen] == [(each.id, each.name) for each in chosen.values()]
    return [category.name for category in chosen.values()], log


def texts(entries: dict[str, list[IssueEntry]]) -> dict[str, list[str]]:
    assert all((each.image_id, each.annotation_id, each.file) == (None, None, 'a.json')
               for issues in entries.values() for each in issues)
    return {reason: [each.detail for each in issues] for reason, issues in entries.items()}


@pytest.mark.parametrize('category_id', ['7', 7.0, ' 7 '])
def test_ids_that_are_numbers_in_another_form(category_id: Any) -> None:
    log = IssueLog()
    assert categories.read([{'id': 9, 'name': 'b'}, {'id': category_id, 'name': 'a'}], PATH, log) == [
        Listed(7, 'a', None), Listed(9, 'b', None)]
    assert texts(log.repaired) == {'id in another form': [f'id {category_id!r} of categories[1] is read as 7']}


def test_an_id_that_is_listed_in_two_forms() -> None:
    with pytest.raises(ConversionError, match='^a.json: category id 7 is listed twice; keep one$'):
        categories.read([{'id': 7, 'name': 'a'}, {'id': '7', 'name': 'b'}], PATH, IssueLog())


def test_counts() -> None:
    kinds, crowd = np.array([0, 2, -1, 0, 2, 2]), np.array([0, 1, 1, 0, 1, 1])
    counted = categories.count([each._replace(objects=0, crowds=0) for each in PETS], kinds, crowd)
    assert counted == PETS


def test_warnings_about_categories() -> None:
    names, log = choose(PETS)
    assert names == ['cat', 'dog', 'car'] and log.dropped == {}
    assert texts(log.kept) == {
        'category without objects': ["category 5 'dog'; --drop-unused-categories drops it"],
        'category of crowds only': ["category 12 'car' has 3 crowds, so no positive"]}


def test_a_set_without_positives_gives_no_warning_for_each_category() -> None:
    assert choose([each._replace(objects=0, crowds=0) for each in PETS])[1].kept == {}
    assert choose([each._replace(crowds=each.objects) for each in PETS])[1].kept == {}


@pytest.mark.parametrize('objects, others, detail', [
    (0, 3, "category 0 'animal' has no object and is the supercategory of 2 others; --drop-unused-categories drops"),
    (0, 2, "category 0 'animal' has no object and is the supercategory of all others; --drop-unused-categories drops"),
    (4, 2, "category 0 'animal' has 4 objects and is the supercategory of all others; --categories FILE can drop it")])
def test_a_supercategory_in_the_list(objects: int, others: int, detail: str) -> None:
    pets = [PETS[0], PETS[1]._replace(objects=1), PETS[2]._replace(crowds=0)]
    [[reason, [text]]] = texts(choose([Listed(0, 'animal', 'none', objects), *pets[:others]])[1].kept).items()
    assert reason == 'supercategory in the list' and text.startswith(detail)


def test_a_category_may_be_its_own_supercategory() -> None:
    assert choose([Listed(1, 'person', 'person', 3), Listed(2, 'cat', 'animal', 1)])[1].kept == {}


@pytest.mark.parametrize('other', ['cat', 'Cat', ' cat '])
def test_categories_with_equal_names(other: str) -> None:
    assert texts(choose([Listed(1, 'cat', None, 3), Listed(5, other, None, 1)])[1].kept) == {'categories of one name': [
        f"category 1 'cat' and category 5 '{other}' are different classes; give them one id or different names"]}


def test_categories_without_objects_are_dropped_on_request() -> None:
    names, log = choose(PETS, drop_unused=True)
    assert names == ['cat', 'car']
    assert texts(log.dropped) == {'category left out': ["category 5 'dog': no object"]}
    with pytest.raises(ConversionError, match='^a.json: no category has objects; convert without --drop-unused'):
        choose([PETS[1]], drop_unused=True)


@pytest.mark.parametrize('lines', ['car\ncat\n', '\ufeff 3 \n\n12.0\n', 'cat\r\n12'])
def test_categories_of_a_file_are_kept(tmp_path: pathlib.Path, lines: str) -> None:
    (tmp_path / 'keep.txt').write_text(lines, encoding='utf-8')
    names, log = choose(PETS, tmp_path / 'keep.txt')
    assert names == ['cat', 'car']      # in the order of the ids
    assert texts(log.dropped) == {'category left out': ["category 5 'dog': no object"]}


def test_a_name_comes_before_an_id(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'keep.txt').write_text('5')
    assert choose([*PETS, Listed(20, '5', None, 1)], tmp_path / 'keep.txt')[0] == ['5']


@pytest.mark.parametrize('data, message', [
    (None, 'No such file or directory; give a text file'), (b'\xff\n', 'not UTF-8; give a text file'),
    (b'\n \n', 'it lists no category; write one name or id'),
    (b'cat\ndgo\n', "a.json has no category 'dgo'; the nearest name is 'dog'")])
def test_a_file_that_names_no_category(tmp_path: pathlib.Path, data: bytes | None, message: str) -> None:
    path = tmp_path / 'keep.txt'
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConversionError, match=f'^{path}: {message}'):
        choose(PETS, path)


def test_labels_are_numbered_among_the_kept_categories(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'keep.txt').write_text('car\ndog')
    assert categories.choose(PETS, tmp_path / 'keep.txt', False, PATH, IssueLog()) == {
        1: Category(1, 5, 'dog'), 2: Category(2, 12, 'car')}
