"""Directories of VOC as tools and people lay them out: the images that are read, and messages about the rest."""
from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pytest
from PIL import Image

from data_tools import conversion
from data_tools.formats import voc
from data_tools.issues import ConversionError
from mrcnn_tf.input.manifest import Manifest

OBJECT = ('<object><name>{}</name><bndbox><xmin>5</xmin><ymin>3</ymin><xmax>10</xmax><ymax>8</ymax></bndbox></object>')
NO_ID = 'list names a file in place of an id'


class Files:
    """Makes files of 30 x 20 images and of their annotations."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    def images(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (30, 20)).save(path)

    def xmls(self, *names: str, classes: Sequence[str] = ('dog',), filename: str = '') -> None:
        size = '<size><width>30</width><height>20</height><depth>3</depth></size>'
        objects = ''.join(OBJECT.format(name) for name in classes)
        for name in names:
            self.text(name, f'<annotation><filename>{filename}</filename>{size}{objects}</annotation>')

    def text(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')

    def check(self, split: str | None = None, **options: object) -> Manifest:
        return conversion.check(voc.find([self.root], split, options=voc.Options(**options)))      # type: ignore[arg-type]

    def refused(self, split: str | None = None, **options: object) -> str:
        with pytest.raises(ConversionError) as caught:
            self.check(split, **options)
        message = str(caught.value)
        assert '\n' not in message
        return message.replace(f'{self.root}/', '').replace(str(self.root), 'ROOT')


@pytest.fixture()
def files(tmp_path: pathlib.Path) -> Files:
    return Files(tmp_path)


def reasons(manifest: Manifest) -> dict[str, dict[str, list[object]]]:
    return {action: {reason: [each.image_id for each in entries]
                     for reason, entries in getattr(manifest, action).items()}
            for action in ('dropped', 'repaired', 'kept') if getattr(manifest, action)}


def test_xml_beside_each_image(files: Files) -> None:
    files.images('a.jpg', 'b c.PNG', 'unseen.jpg', 'other.jpeg')
    files.xmls('a.xml', 'b c.xml')
    files.xmls('number 1.xml', filename=r'C:\pictures\other.jpeg')
    manifest = files.check()
    assert manifest.counts.images == manifest.counts.objects == 3
    assert reasons(manifest) == {'dropped': {'image without an xml file': ['unseen']},
                                 'repaired': {'file found under another name': ['number 1']}}
    assert manifest.source.annotations == manifest.source.images == str(files.root)
    assert files.refused('train') == (
        "ROOT: no list 'train', as there is no directory ImageSets with lists; leave --split out to read all 3 xml "
        'files of ROOT as one set, or write the ids of some to ImageSets/Main/train.txt, one per line')


def test_a_directory_for_each_part_of_the_set(files: Files) -> None:
    files.images('train/a.jpg', 'valid/b.jpg')
    files.xmls('train/a.xml', 'valid/b.xml')
    assert files.refused('train') == ('ROOT: no directory Annotations, but annotations in train, valid: give --root '
                                      'train; give the directory of Annotations, ImageSets and JPEGImages, or one with '
                                      'an xml file beside each image')
    data_set = voc.find([files.root / 'train', files.root / 'valid'])
    assert [item.id for item in data_set.items] == ['a', 'b']


@pytest.mark.parametrize(('xmls', 'pictures', 'lists'), [
    ('annotations', 'jpegimages', 'imagesets/main'), ('ANNOTATIONS', 'Images', 'ImageSets'),
    ('Annotations', 'images', 'ImageSets/Main')])
def test_names_of_directories(files: Files, xmls: str, pictures: str, lists: str) -> None:
    files.images(f'{pictures}/a.jpg', f'{pictures}/b.jpg')
    files.xmls(f'{xmls}/a.xml', f'{xmls}/b.xml')
    assert files.check().counts.images == 2
    files.text(f'{lists}/train.txt', 'a')
    for split in (None, 'train', 'TRAIN', 'train.txt'):
        manifest = files.check(split)
        assert manifest.counts.images == 1 and reasons(manifest) == {}
        assert manifest.source.annotations == str(files.root / lists / 'train.txt')


def test_several_lists_need_a_choice(files: Files) -> None:
    files.images('JPEGImages/a.jpg')
    files.xmls('Annotations/a.xml')
    for name in ('Main/train', 'Main/val', 'Main/dog_val', 'Segmentation/val'):
        files.text(f'ImageSets/{name}.txt', 'a')
    assert files.refused() == 'ImageSets: give --split, one of Main/train, Main/val, Segmentation/val'
    assert files.refused('Main/test').endswith(
        'Main/test.txt: no such list of images; there are Main/train, Main/val, Segmentation/val')


@pytest.mark.parametrize('line', [
    'im0.jpg', 'im0.xml', 'JPEGImages/im0.jpg', '/home/me/set/JPEGImages/im0.jpg', r'D:\set\im0.JPG',
    'data/JPEGImages/im0.jpg data/Annotations/im0.xml', 'IM0', 'im0.jpg 1', 'data/im0.jpg 48,240,195,371,11'])
def test_lists_of_files(files: Files, line: str) -> None:
    files.images('JPEGImages/im0.jpg')
    files.xmls('Annotations/im0.xml')
    files.text('ImageSets/Main/train.txt', f'# of Monday\n\n{line}\r\n')
    manifest = files.check('train')
    assert manifest.counts.images == 1 and reasons(manifest) == {'repaired': {NO_ID: ['im0']}}


@pytest.mark.parametrize('image_id', ['image 1', 'a.b', 'sub/im0', '#7', 'x -1', 'im0.jpg'])
def test_ids_are_used_as_they_are(files: Files, image_id: str) -> None:
    files.images(f'JPEGImages/{image_id.removesuffix(".jpg")}.jpg')
    files.xmls(f'Annotations/{image_id}.xml')
    files.text('ImageSets/Main/train.txt', f'{image_id}\n')
    files.text('ImageSets/Main/dog_train.txt', f'{image_id}  1\nnot-there -1\n')
    for split in ('train', 'dog_train'):
        manifest = files.check(split)
        assert manifest.counts.images == 1 and reasons(manifest) == {}


def test_lists_of_missing_files(files: Files) -> None:
    files.images('JPEGImages/im0.jpg')
    files.xmls('Annotations/im0.xml')
    files.text('ImageSets/Main/train.txt', 'im0\nJPEGImages/im1.jpg\n../../etc/passwd\n')
    manifest = files.check('train')
    assert reasons(manifest) == {'dropped': {'missing annotation file': ['JPEGImages/im1.jpg', '../../etc/passwd']}}
    assert manifest.dropped['missing annotation file'][0].detail == (
        f"'JPEGImages/im1' is not in {files.root / 'Annotations'}; the nearest name is 'im0.xml'")
    files.text('ImageSets/Main/train.txt', 'im1\n')
    assert files.refused('train') == ("ImageSets/Main/train.txt: none of its images has an annotation file: 'im1' is "
                                      "not in Annotations; the nearest name is 'im0.xml'")


def test_lists_that_repeat_an_image(files: Files) -> None:
    files.images('JPEGImages/im0.jpg')
    files.xmls('Annotations/im0.xml')
    files.text('ImageSets/Main/train.txt', 'im0\nim0.jpg\n')
    manifest = files.check('train')
    assert manifest.counts.images == 1
    assert reasons(manifest) == {'repaired': {NO_ID: ['im0'], 'image listed more than once': ['im0']}}


def test_images_of_one_name(files: Files) -> None:
    files.images('a.jpg', 'a.png', 'b.jpg', 'b.png')
    files.xmls('a.xml', filename='a.png')
    files.xmls('b.xml')
    data_set = voc.find([files.root])
    assert [item.file_name for item in data_set.items] == ['a.png', 'b']
    manifest = conversion.check(data_set)
    assert reasons(manifest) == {'dropped': {'ambiguous file name': ['b'], 'image without an xml file': ['a']}}
    assert "'b' may be 'b.jpg', 'b.png'" in manifest.dropped['ambiguous file name'][0].detail


@pytest.mark.parametrize('suffix', ['png', 'jpeg', 'JPG', 'bmp', 'tif'])
def test_images_of_any_suffix(files: Files, suffix: str) -> None:
    files.images(f'a.{suffix}')
    files.xmls('a.xml')
    [item] = voc.find([files.root]).items
    assert item.file_name == f'a.{suffix}'


def test_the_classes_of_the_xml_files_are_listed(files: Files) -> None:
    files.images('a.jpg', 'b.jpg')
    files.xmls('a.xml', classes=['cell', 'dog', 'nucleus'])
    files.xmls('b.xml', classes=['cell'])
    assert files.refused() == ("ROOT: most objects have none of VOC's 20 classes, but 'cell' (2), 'dog' (1), "
                               "'nucleus' (1): write these names to a file, one per line, and give it as --classes")
    files.text('classes.txt', 'cells\nnuclei\n')
    assert files.refused().endswith('give it as --classes; if classes.txt lists them, give that')
    assert files.refused(classes=files.root / 'classes.txt').startswith(
        "ROOT: no object has a class of classes.txt, but 'cell' (2), 'dog' (1)")
    files.text('classes.txt', 'cell\n')
    manifest = files.check(classes=files.root / 'classes.txt')
    assert manifest.counts.objects == 2 and reasons(manifest) == {'dropped': {'category not in the list': ['a', 'a']}}


def test_a_root_without_annotations(files: Files) -> None:
    with pytest.raises(ConversionError, match='not-there: no such directory; give the directory of Annotations'):
        voc.find([files.root / 'not-there'])
    files.images('a.jpg')
    assert files.refused() == ('ROOT: no directory Annotations; give the directory of Annotations, ImageSets and '
                               'JPEGImages, or one with an xml file beside each image')
    files.xmls('Annotations/a.xml')
    assert files.refused() == ('ROOT: no directory JPEGImages or images; give the directory of Annotations and '
                               'JPEGImages, or one with an xml file beside each image')
    (files.root / 'Annotations' / 'a.xml').unlink()
    files.images('Images/a.jpg')
    assert files.refused() == 'Annotations: it holds no xml file; put the xml files of the images into it'
