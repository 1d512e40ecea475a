"""The file of detections: its format, its journal, and files that it does not continue."""
from __future__ import annotations

import contextlib
import io
import json
import pathlib

import pytest
from pycocotools.coco import COCO

from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving.coco_file import CocoFile
from mrcnn_tf.serving.sources import InferenceError

CATEGORIES = [Category(1, 7, 'cat'), Category(2, 3, 'dog')]
RESULT = {'category_id': 7, 'bbox': [1., 2., 3., 4.], 'score': .5}


def entry(name: str, number: int | None = None, *results: dict[str, object]) -> dict[str, object]:
    return {'id': number, 'file_name': name, 'height': 8, 'width': 9, 'instances': list(results)}


def test_it_is_a_data_set_of_coco(tmp_path: pathlib.Path) -> None:
    with CocoFile(tmp_path / 'found.json', 'runs/mine', .5) as file:
        file.add(entry('a.png', None, RESULT, {**RESULT, 'score': .25}))
        file.add(entry('b.png', 1))
        assert [path.name for path in tmp_path.iterdir()] == ['.found.json.journal']
        file.finish(CATEGORIES)
    assert [path.name for path in tmp_path.iterdir()] == ['found.json']
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / 'found.json')
    assert {number: image['file_name'] for number, image in coco.imgs.items()} == {2: 'a.png', 1: 'b.png'}
    assert {number: each['name'] for number, each in coco.cats.items()} == {7: 'cat', 3: 'dog'}
    assert [(each['image_id'], each['score'], each['area']) for each in coco.anns.values()] == [
        (2, .5, 12.), (2, .25, 12.)]
    assert coco.dataset['info']['model'] == 'runs/mine'


def test_an_interrupted_one_is_continued_without_a_part_of_a_line(tmp_path: pathlib.Path) -> None:
    with CocoFile(tmp_path / 'found.json', 'm', .5) as file:
        file.add(entry('a.png'))
        file.add(entry('b.png'))
    with open(file.journal, 'r+') as journal:
        journal.truncate(len(journal.read()) - 5)
    with CocoFile(tmp_path / 'found.json', 'm', .5) as file:
        assert file.images == 1 and 'a.png' in file.known
        file.add(entry('c.png'))
        file.finish(CATEGORIES)
    images = json.loads((tmp_path / 'found.json').read_text())['images']
    assert [each['file_name'] for each in images] == ['a.png', 'c.png']


def test_a_finished_one_is_extended_and_keeps_its_ids(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'found.json'
    with CocoFile(path, 'm', .5) as file:
        file.add(entry('a.png', 5, RESULT))
        file.finish(CATEGORIES)
    before = json.loads(path.read_text())
    with CocoFile(path, 'm', .5) as file:
        assert file.known == {'a.png', 5} and path.exists()
        file.add(entry('b.png', None, RESULT))
        file.finish(CATEGORIES)
    after = json.loads(path.read_text())
    assert after['annotations'][0] == before['annotations'][0] and [each['id'] for each in after['images']] == [5, 1]


def test_one_of_another_model_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'found.json'
    CocoFile(path, 'a', .5).__enter__().__exit__()    # nothing is in its journal
    with CocoFile(path, 'm', .5) as file:
        file.add(entry('a.png'))
    with pytest.raises(InferenceError, match='found.json: has detections of m with threshold 0.5 in image files;'):
        CocoFile(path, 'm', .25)
    with pytest.raises(InferenceError, match='in image files; choose another --output'):
        CocoFile(path, 'm', .5, 'data/val.json')    # its ids are others
    with CocoFile(path, 'm', .5) as file:
        file.finish(CATEGORIES)
    with pytest.raises(InferenceError, match=r'or remove it and .found.json.journal'):
        CocoFile(path, 'other', .5)


@pytest.mark.parametrize('text', ['[]', '{"info": {}}', 'no json'], ids=['a list', 'another set', 'no JSON'])
def test_another_file(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / 'found.json').write_text(text)
    with pytest.raises(InferenceError, match='found.json: is no file of `mrcnn predict`; choose another --output'):
        CocoFile(tmp_path / 'found.json', 'm', .5)
    assert (tmp_path / 'found.json').read_text() == text
