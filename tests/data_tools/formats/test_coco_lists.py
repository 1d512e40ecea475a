"""Reading a COCO json before any image: ids that match in another form, are listed again, or match nothing."""
from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from data_tools.formats import categories, coco_lists
from data_tools.issues import ConversionError
from mrcnn_tf.input.manifest import IssueEntry


def read(path: pathlib.Path, **lists: Any) -> coco_lists.Contents:
    """A json of images 1 and 2 and categories 1 and 2, but for `lists`."""
    (path / 'a.json').write_text(json.dumps({
        'images': [{'id': i, 'file_name': f'{i}.png'} for i in (1, 2)], 'annotations': [],
        'categories': [{'id': i, 'name': f'c{i}'} for i in (1, 2)], **lists}))
    return coco_lists.read(path / 'a.json')


def of(*ids: Any, **fields: Any) -> list[dict[str, Any]]:
    return [{'id': each, 'image_id': 1, 'category_id': 1, **fields} for each in ids]


def test_image_ids_in_another_form_are_logged_once_each(tmp_path: pathlib.Path) -> None:
    contents = read(tmp_path, annotations=[*of(1, 2, image_id='1'), *of(3), *of(4, image_id=2.0), *of(5, image_id='3')])
    assert coco_lists.owners(contents).tolist() == [0, 0, 0, 1, -1]
    assert contents.log.repaired == {'id in another form': [
        IssueEntry(1, None, "image_id '1' of 2 annotations is image 1", 'a.json'),
        IssueEntry(2, None, 'image_id 2.0 of 1 annotations is image 2', 'a.json')]}
    assert contents.log.dropped == {'annotation for a missing image': [
        IssueEntry('3', 5, "image_id '3' is not in the list", 'a.json')]}


def test_image_ids_that_are_listed_as_floats_or_text(tmp_path: pathlib.Path) -> None:
    contents = read(tmp_path, images=[{'id': 1.0, 'file_name': 'a.png'}, {'id': '2', 'file_name': 'b.png'}],
                    annotations=[*of(1), *of(2, image_id=2)])
    assert [image.id for image in contents.images] == [1, '2']
    assert coco_lists.owners(contents).tolist() == [0, 1]
    assert [each.detail for each in contents.log.repaired['id in another form']] == [
        'id 1.0 of images[0] is read as 1', "image_id 2 of 1 annotations is image '2'"]


def test_category_ids_in_another_form(tmp_path: pathlib.Path) -> None:
    contents = read(tmp_path, annotations=[*of(1, category_id='2'), *of(2, category_id=1.0), *of(3, category_id='x')])
    listed = categories.read(contents.categories, contents.path, contents.log)
    assert coco_lists.kinds(contents, listed).tolist() == [1, 0, -1]
    assert [each.detail for each in contents.log.repaired['id in another form']] == [
        "category_id '2' of 1 annotations is category 2", 'category_id 1.0 of 1 annotations is category 1']


@pytest.mark.parametrize('stated, message', [
    ((0, 1), 'image_id of annotations is from 0 to 1, and the list has the ids 1 to 2, so .*; add 1 to each image_id'),
    ((2, 3), 'image_id of annotations is from 2 to 3, .*; subtract 1 from each image_id')], ids=['from 0', 'from 2'])
def test_image_ids_that_count_from_another_number(tmp_path: pathlib.Path, stated: tuple[int, ...], message: str,
                                                  ) -> None:
    contents = read(tmp_path, annotations=[each for image in stated for each in of(image, image_id=image)])
    with pytest.raises(ConversionError, match=f'a.json: {message}'):
        coco_lists.owners(contents)


@pytest.mark.parametrize('stated', [(0, 1, 2), (0,), (1, 4), (0, 3)],
                         ids=['all images used', 'none matches', 'far away', 'both ends'])
def test_image_ids_that_may_count_from_the_same_number(tmp_path: pathlib.Path, stated: tuple[int, ...]) -> None:
    contents = read(tmp_path, annotations=[each for image in stated for each in of(image, image_id=image)])
    assert len(coco_lists.owners(contents)) == len(stated)


def test_category_ids_that_count_from_another_number(tmp_path: pathlib.Path) -> None:
    contents = read(tmp_path, annotations=[*of(1, category_id=0), *of(2, category_id='1')])
    listed = categories.read(contents.categories, contents.path, contents.log)
    with pytest.raises(ConversionError, match='add 1 to each category_id, or remove the annotations of category 0'):
        coco_lists.kinds(contents, listed)


def test_ids_with_gaps_count_from_nowhere(tmp_path: pathlib.Path) -> None:
    contents = read(tmp_path, images=[{'id': i, 'file_name': f'{i}.png'} for i in (1, 5)],
                    annotations=[*of(1, image_id=0), *of(2)])
    assert coco_lists.owners(contents).tolist() == [-1, 0]


@pytest.mark.parametrize('ids, repeated', [
    ([1, 2, 3], {}), ([None, None], {}), (['a', 'b'], {}), ([[1], [2]], {}), ([], {}),
    ([1, 7, 1, 7, 7], {1: (2, 1, 3), 7: (3, 2, 4)}),
    (['a', 'b', 'a'], {'a': (2, 1, 3)}), ([0] * 6, {0: (6, 1, 2)}), ([5, '5'], {5: (2, 1, 2)})])
def test_annotation_ids_that_are_listed_again(tmp_path: pathlib.Path, ids: list[Any], repeated: dict[Any, Any]) -> None:
    contents = read(tmp_path, annotations=of(*ids))
    coco_lists.note_equal_ids(contents)
    details = {each.annotation_id: each.detail for each in contents.log.kept.get('annotation id listed again', [])}
    assert details == {key: f'{count} annotations have it; the first two are number {one} and {other} of the list'
                     for key, (count, one, other) in repeated.items()}


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_an_object_whose_keys_are_the_ids(tmp_path: pathlib.Path, key: str) -> None:
    value = {'images': {'1': {'file_name': '1.png'}, '2': {'file_name': '2.png'}},
             'annotations': {'7': {'image_id': 1, 'category_id': 2}, '9': {'id': 4, 'image_id': 2, 'category_id': 2}},
             'categories': {'1': {'name': 'c1'}, '2': {'name': 'c2'}}}[key]
    contents = read(tmp_path, **{'annotations': of(7, 4), key: value})
    assert contents.log.repaired['object instead of a list'] == [IssueEntry(
        None, None, f'{key} is an object of 2 values, whose keys are their ids', 'a.json')]
    assert len(contents.images) == len(contents.categories) == len(contents.annotations) == 2
    assert contents.annotations[:, coco_lists.ID].tolist() == [7, 4]
    assert (coco_lists.owners(contents) >= 0).all()
