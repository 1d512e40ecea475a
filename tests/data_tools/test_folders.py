"""Data sets that are recognised in a folder: exports of annotation tools, and layouts with splits."""
from __future__ import annotations

import pathlib
import shutil

import pytest

from data_tools import folders
from data_tools.issues import ConversionError
from tests.paths import ROOT

EXPORTS = ROOT / 'tests' / 'data_tools' / 'exports'


@pytest.mark.parametrize(('name', 'kind', 'images'), [
    ('coco', 'coco', 'images/train'), ('cvat', 'coco', 'images/default'), ('label_studio', 'coco', 'images'),
    ('makesense', 'coco', 'images'), ('roboflow', 'coco', 'train'), ('via', 'coco', '.'),
    ('cvat_voc', 'voc', 'JPEGImages'), ('label_studio_voc', 'voc', 'images'), ('labelimg', 'voc', '.')])
def test_exports_of_tools(name: str, kind: str, images: str, tmp_path: pathlib.Path) -> None:
    """Each has two images and one part, which is not split."""
    part, = folders.recognise(EXPORTS / name)
    assert (part.split, part.kind, part.images) == ('', kind, EXPORTS / name / images)
    found = folders.find([part], part, tmp_path)
    assert len(found.items) == 2
    assert all(found.source.path(item).is_file() for item in found.items)


def test_parts_by_the_names_of_folders(tmp_path: pathlib.Path) -> None:
    """As Roboflow writes them."""
    for split in ('train', 'valid', 'test'):
        shutil.copytree(EXPORTS / 'roboflow' / 'train', tmp_path / split)
    parts = folders.recognise(tmp_path)
    assert {part.split: part.images for part in parts} == {
        'train': tmp_path / 'train', 'val': tmp_path / 'valid', 'test': tmp_path / 'test'}


def test_parts_by_the_names_of_files(tmp_path: pathlib.Path) -> None:
    """As in COCO, where other tasks have a json too."""
    for split in ('train', 'val'):
        shutil.copytree(EXPORTS / 'coco' / 'images' / 'train', tmp_path / f'{split}2017')
        for task in ('instances', 'person_keypoints'):
            (tmp_path / 'annotations').mkdir(exist_ok=True)
            shutil.copy(EXPORTS / 'coco' / 'annotations' / 'instances_train.json',
                        tmp_path / 'annotations' / f'{task}_{split}2017.json')
    parts = folders.recognise(tmp_path)
    assert [(part.split, part.annotations.name) for part in parts] == [
        ('train', 'instances_train2017.json'), ('val', 'instances_val2017.json')]
    assert parts[1].images in (tmp_path / 'train2017', tmp_path / 'val2017')      # both hold all named files


def test_parts_by_lists_of_voc(tmp_path: pathlib.Path) -> None:
    shutil.copytree(EXPORTS / 'cvat_voc', tmp_path / 'voc')
    lists = tmp_path / 'voc' / 'ImageSets' / 'Main'
    for name, line in (('train', 'cells_1'), ('val', 'cells_2'), ('trainval', 'cells_1\ncells_2')):
        (lists / f'{name}.txt').write_text(f'{line}\n')
    assert {part.split: part.listed for part in folders.recognise(tmp_path)} == {
        'train': 'Main/train', 'val': 'Main/val'}


def test_classes_and_first_pixel_of_voc(tmp_path: pathlib.Path) -> None:
    shutil.copytree(EXPORTS / 'labelimg', tmp_path / 'images')
    (tmp_path / 'images' / 'classes.txt').unlink()
    parts = folders.recognise(tmp_path)
    names = {each.name for each in folders.find(parts, parts[0], tmp_path).head.categories}
    assert names and names == set((tmp_path / 'classes.txt').read_text().split('\n')) - {''}
    text = (tmp_path / 'images' / 'cells_1.xml').read_text()
    assert folders.first_pixel(parts) == 1
    (tmp_path / 'images' / 'cells_1.xml').write_text(text.replace('<xmin>', '<xmin>0</xmin><xmin>', 1))
    assert folders.first_pixel(parts) == 0


@pytest.mark.parametrize(('files', 'expected'), [
    ([], 'it has no annotations of COCO, VOC, YOLO or labelme'),
    (['data.yaml', 'labels/train/a.txt'], 'labels as of YOLO, and no data.yaml'),
    (['a.json'], 'none of its json files is an instances json of COCO or a file of labelme')],
    ids=['nothing', 'yolo', 'another json'])
def test_a_folder_without_annotations_says_what_to_do(files: list[str], expected: str, tmp_path: pathlib.Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"shapes": []}')
    with pytest.raises(ConversionError, match=expected):
        folders.recognise(tmp_path)


def test_several_annotations_without_a_split_are_refused(tmp_path: pathlib.Path) -> None:
    for name in ('a', 'b'):
        shutil.copy(EXPORTS / 'coco' / 'annotations' / 'instances_train.json', tmp_path / f'{name}.json')
    with pytest.raises(ConversionError, match='it is not clear which to train on: .*a.json, .*b.json; name them'):
        folders.recognise(tmp_path)


def test_a_changed_file_changes_the_fingerprint(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'a.jpg').write_bytes(b'1')
    before = folders.fingerprint(tmp_path, [tmp_path / 'out'], 1)
    (tmp_path / 'out' / 'b').write_bytes(b'1')
    assert folders.fingerprint(tmp_path, [tmp_path / 'out'], 1) == before
    assert folders.fingerprint(tmp_path, [tmp_path / 'out'], 2) != before
    (tmp_path / 'a.jpg').write_bytes(b'12')
    assert folders.fingerprint(tmp_path, [tmp_path / 'out'], 1) != before
