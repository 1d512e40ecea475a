"""From an item to its record: what drops the image, and what is logged."""
from __future__ import annotations

import pathlib
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from data_tools.data_set import ConvertedObject, ImageAnnotations, Item
from data_tools.examples import Rules, make_example
from data_tools.images import ImageFile
from data_tools.issues import ConversionError, InvalidDataError, Issue
from mrcnn_tf.input.manifest import IssueEntry
from mrcnn_tf.input.records import ObjectAnnotation

ITEM = Item('id', 7, 'a.png', 100, 0, split='val', city='ulm')


@dataclass(frozen=True)
class OneObject:
    """Annotations of one image: its stated size, and an object that is invalid on demand."""
    folder: pathlib.Path
    size: tuple[int, int] | None = (8, 12)
    valid: bool = True

    def path(self, item: Item) -> pathlib.Path:
        return self.folder / item.file_name

    def read(self, item: Item) -> ImageAnnotations:
        return ImageAnnotations([(3, 'value')], 'a.json', self.size, warnings=[Issue('size not stated', 'x')])

    def convert_object(self, item: Item, value: str, file: ImageFile) -> ConvertedObject:
        assert (value, file.height, file.width) == ('value', 8, 12)
        if not self.valid:
            raise InvalidDataError('empty mask', 'no pixel')
        return ConvertedObject(ObjectAnnotation((0, 0, 1, 1), 1, 'cat', 1.), [Issue('box clipped', 'by 1')],
                               [Issue('box and mask disagree', 'y')])


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with an image of 8 x 12."""
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / 'a.png')
    return tmp_path


def test_a_record_and_its_issues(folder: pathlib.Path) -> None:
    example, log = make_example(OneObject(folder), Rules(), ITEM)
    assert example is not None and len(example.objects) == 1
    assert example.encoded == (folder / 'a.png').read_bytes()
    assert (example.source_id, example.image_id, example.height, example.width, example.channels, example.dtype,
            example.split, example.city) == ('id', 7, 8, 12, 3, 'uint8', 'val', 'ulm')
    assert log.dropped == {}
    assert log.repaired == {'box clipped': [IssueEntry('id', 3, 'by 1', 'a.json')]}
    assert log.kept == {'size not stated': [IssueEntry('id', None, 'x', 'a.json')],
                        'box and mask disagree': [IssueEntry('id', 3, 'y', 'a.json')]}


def test_an_animated_image_is_kept_with_a_warning(folder: pathlib.Path) -> None:
    first = Image.new('RGB', (12, 8))
    first.save(folder / 'a.png', save_all=True, append_images=[Image.new('RGB', (12, 8), 'red')])
    _, log = make_example(OneObject(folder), Rules(), ITEM)
    assert log.kept['several images in a file'] == [IssueEntry('id', None, 'the first of 2 is used', 'a.png')]


def test_an_invalid_object_is_dropped_alone(folder: pathlib.Path) -> None:
    example, log = make_example(OneObject(folder, valid=False), Rules(), ITEM)
    assert example is not None and example.objects == []
    assert log.dropped == {'empty mask': [IssueEntry('id', 3, 'no pixel', 'a.json')]}


@pytest.mark.parametrize(('size', 'more'), [
    pytest.param((12, 8), ': exchanged', id='exchanged'), pytest.param((9, 12), '', id='another size')])
def test_an_image_of_another_size_is_dropped(folder: pathlib.Path, size: tuple[int, int], more: str) -> None:
    example, log = make_example(OneObject(folder, size), Rules(), ITEM)
    detail = (f'a.png: height 8, width 12; the annotations say height {size[0]}, width {size[1]}{more} '
              '(and its 1 annotations)')
    assert example is None and log.dropped == {'size mismatch': [IssueEntry('id', None, detail, 'a.png', 1)]}
    assert log.kept == {}


def test_a_missing_image_is_dropped_with_its_annotations(tmp_path: pathlib.Path) -> None:
    example, log = make_example(OneObject(tmp_path), Rules(), ITEM)
    assert example is None and log.dropped == {'missing image file': [
        IssueEntry('id', None, f'{tmp_path}/a.png (and its 1 annotations)', 'a.png', 1)]}


def test_an_unknown_rule_for_exif() -> None:
    with pytest.raises(ConversionError, match="exif is 'rotate', expected one of error, apply, ignore"):
        Rules(exif='rotate')
