"""Labels of YOLO as COCO's json, converted: boxes, polygons, invalid lines, and the folders that data.yaml names."""
from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from data_tools import conversion, folders
from data_tools.examples import make_example
from data_tools.formats import yolo
from data_tools.issues import ConversionError


def write_folder(root: pathlib.Path, description: str, labels: dict[str, str]) -> pathlib.Path:
    """Write data.yaml, images of 40 x 80 px, and their labels; a name without a text has no file of labels."""
    root.mkdir(exist_ok=True)
    (root / 'data.yaml').write_text(description)
    for name, text in labels.items():
        image, label = root / 'images' / f'{name}.png', root / 'labels' / f'{name}.txt'
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 80), np.uint8)).save(image)
        if text:
            label.write_text(text)
    return root


def test_boxes_and_polygons(tmp_path: pathlib.Path) -> None:
    root = write_folder(tmp_path / 'a', 'names: [cat, dog]\ntrain: images/train\nval: images/val', {
        'train/1': '1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n', 'train/2': '',
        'val/3': '0 .5 .5 .1 .1'})
    parts = folders.recognise(root)
    assert [(part.split, part.images) for part in parts] == [
        ('train', root / 'images' / 'train'), ('val', root / 'images' / 'val')]
    found = folders.find(parts, parts[0], tmp_path)
    assert [each.name for each in found.head.categories] == ['cat', 'dog'] and len(found.items) == 2
    example, log = make_example(found.source, conversion.DEFAULTS, found.items[0])
    assert example is not None and not log.dropped
    box, polygon = example.objects
    assert (box.label, tuple(box.box)) == (2, (10., 30., 30., 50.)) and not box.has_mask
    assert (polygon.label, tuple(polygon.box)) == (1, (10., 20., 30., 40.)) and polygon.has_mask
    assert polygon.area == pytest.approx(20 * 20)


def test_invalid_lines_are_dropped_and_counted(tmp_path: pathlib.Path) -> None:
    root = write_folder(tmp_path / 'a', 'names: {0: cat}\ntrain: images', {
        '1': '0 .5 .5 .2 .2\n0 .5 .5\nfoo\n7 .5 .5 .2 .2\n'})
    part, = folders.recognise(root)
    found = folders.find([part], part, tmp_path)
    assert sum(len(entries) for entries in found.head.dropped.values()) == 0 and part.split == ''
    example, log = make_example(found.source, conversion.DEFAULTS, found.items[0])
    assert example is not None and len(example.objects) == 1
    assert {reason: len(entries) for reason, entries in log.dropped.items()} == {
        'malformed box': 2, 'category not in the list': 1}


@pytest.mark.parametrize(('stated', 'base'), [('../train/images', ''), ('train/images', 'elsewhere')],
                         ids=['as Roboflow writes it', 'path of another machine'])
def test_folders_of_another_machine_are_found(tmp_path: pathlib.Path, stated: str, base: str) -> None:
    (tmp_path / 'train' / 'images').mkdir(parents=True)
    (tmp_path / 'data.yaml').write_text(f'path: {base}\ntrain: {stated}\nnames: [a]')
    assert {split: path.resolve() for split, path in yolo.folders(tmp_path / 'data.yaml').items()} == {
        'train': tmp_path / 'train' / 'images'}


def test_a_missing_folder_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'data.yaml').write_text('train: gone\nnames: [a]')
    with pytest.raises(ConversionError, match="data.yaml: there is no folder 'gone'; correct the path in data.yaml"):
        yolo.folders(tmp_path / 'data.yaml')
