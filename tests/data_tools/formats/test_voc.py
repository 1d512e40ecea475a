"""PASCAL VOC to TFRecord: boxes by hand, masks pixel by pixel, and a real set."""
from __future__ import annotations

import io
import pathlib
import pickle
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools import conversion, examples
from data_tools.formats import voc
from data_tools.issues import ConversionError
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, IssueEntry, Manifest, Source

HEIGHT, WIDTH = 20, 30
SIZE = f'<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>'


def an_object(name: str = 'dog', box: tuple[Any, ...] = (5, 3, 10, 8), more: str = '') -> str:
    """box: xmin, ymin, xmax, ymax as VOC has them."""
    named = zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
    sides = ''.join(f'<{side}>{value}</{side}>' for side, value in named)
    return f'<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>'


class Kit:
    """A folder in VOC's layout."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        for name in ('Annotations', 'ImageSets/Main', 'ImageSets/Segmentation', 'JPEGImages', 'SegmentationObject'):
            (root / name).mkdir(parents=True)

    def add(self, image_id: str, *objects: str, size: str = SIZE, suffix: str = 'jpg', split: str = 'Main/train',
            mode: str = 'RGB') -> bytes:
        path = self.root / 'JPEGImages' / f'{image_id}.{suffix}'
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
        self.xml(image_id, f'<annotation><filename>{image_id}.{suffix}</filename>{size}{"".join(objects)}</annotation>')
        with (self.root / 'ImageSets' / f'{split}.txt').open('a') as stream:
            stream.write(f'{image_id}\n')
        return path.read_bytes()

    def xml(self, image_id: str, text: str | bytes) -> None:
        path = self.root / 'Annotations' / f'{image_id}.xml'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def segments(self, image_id: str, values: np.ndarray) -> None:
        image = Image.fromarray(values.astype(np.uint8)).convert('P')
        image.putdata(values.ravel().tolist())
        image.save(self.root / 'SegmentationObject' / f'{image_id}.png')

    def convert(self, split: str = 'train', **options: Any) -> Manifest:
        data_set = voc.find([self.root], split, options=voc.Options(**options))
        return conversion.convert(data_set, self.root / 'out', 'set', examples.Rules(allow_loss=True))

    def features(self) -> list[dict[str, list[Any]]]:
        path = self.root / 'out' / 'set.json'
        shards = tf.data.TFRecordDataset(Manifest.read(path).shard_paths(path))
        examples = [tf.train.Example.FromString(each.numpy()).features.feature for each in shards]
        return [{key: list(getattr(value, value.WhichOneof('kind')).value) if value.WhichOneof('kind') else []
                 for key, value in each.items()} for each in examples]


@pytest.fixture()
def kit(tmp_path: pathlib.Path) -> Kit:
    return Kit(tmp_path / 'kit')


def test_one_is_subtracted_from_the_minima_of_boxes(kit: Kit) -> None:
    # Columns 5..10 and rows 3..8, counted from 1, are the pixels 4..9 and 2..7; the whole image is 1..30 x 1..20.
    data = kit.add('000012', an_object(), an_object('person', (1, 1, WIDTH, HEIGHT)), an_object('cat', (7, 7, 7, 7)))
    manifest = kit.convert()
    [record] = kit.features()
    np.testing.assert_array_equal(np.reshape(record['image/object/box'], [-1, 4]),
                                  [[2, 4, 8, 10], [0, 0, HEIGHT, WIDTH], [6, 6, 7, 7]])
    assert record['image/object/area'] == [36, 600, 1]
    assert record['image/object/class/text'] == [b'dog', b'person', b'cat']
    assert record['image/object/class/label'] == [12, 15, 8]
    assert record['image/encoded'] == [data] and record['image/split'] == [b'train']
    assert (record['image/id'], record['image/source_id']) == ([12], [b'000012'])
    assert record['image/object/annotation_id'] == [1000001, 1000002, 1000003]
    assert manifest.dropped == manifest.repaired == {} and not manifest.has_masks
    assert manifest.kept == {'box one pixel wide or high': [
        IssueEntry('000012', 3, '7, 7, 7, 7 (ymin, xmin, ymax, xmax)', 'Annotations/000012.xml')]}
    assert manifest.source == Source('voc', str(kit.root / 'ImageSets/Main/train.txt'),
                                             str(kit.root / 'JPEGImages'))


def test_the_classes_of_voc_are_in_alphabetical_order() -> None:
    assert len(voc.CLASSES) == 20 and list(voc.CLASSES) == sorted(set(voc.CLASSES))


def test_difficult_and_truncated_are_kept(kit: Kit) -> None:
    kit.add('a', an_object(more='<truncated>1</truncated><difficult>0</difficult>'),
            an_object(more='<truncated>0</truncated><difficult>1</difficult>'),
            an_object(more='<truncated>Unspecified</truncated>'))
    kit.add('b', an_object())
    kit.convert()
    first, second = kit.features()
    assert (first['image/object/difficult'], first['image/object/truncated']) == ([0, 1, 0], [1, 0, 0])
    assert 'image/object/difficult' not in second and 'image/object/truncated' not in second
    # Crowds are another matter.
    assert first['image/object/is_crowd'] == [0, 0, 0]


def test_parts_of_an_object_are_not_objects(kit: Kit) -> None:
    part = '<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>'
    kit.add('a', an_object('person', more=part))
    kit.convert()
    [record] = kit.features()
    assert record['image/object/class/text'] == [b'person'] and record['image/object/box'] == [2, 4, 8, 10]


SEGMENTS = np.zeros([HEIGHT, WIDTH], np.uint8)
SEGMENTS[2:8, 4:10] = 255       # the border around the first
SEGMENTS[3:7, 5:9] = 1
SEGMENTS[10:15, 0:30] = 2


def test_masks_of_segmentation_object(kit: Kit) -> None:
    kit.add('a', an_object(), an_object('cat', (1, 11, 30, 15)), split='Segmentation/train')
    kit.segments('a', SEGMENTS)
    manifest = kit.convert('Segmentation/train')
    [record] = kit.features()
    assert manifest.has_masks
    for png, index in zip(record['image/object/mask'], (1, 2), strict=True):
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(png))), index == SEGMENTS)
    assert record['image/object/area'] == [16, 150]
    np.testing.assert_array_equal(np.reshape(record['image/object/box'], [-1, 4]), [[2, 4, 8, 10], [10, 0, 15, 30]])
    # The first box has 36 px and that of its mask 16: less than half.
    assert {reason: [each.annotation_id for each in entries] for reason, entries in manifest.kept.items()} == {
        'box and mask disagree': [1]}


def test_masks_are_read_if_every_image_has_them(kit: Kit) -> None:
    kit.add('a', an_object())
    kit.add('b', an_object())
    kit.segments('a', np.where(SEGMENTS == 1, 1, 0))
    manifest = kit.convert()
    assert not manifest.has_masks and len(kit.features()) == 2      # not every image has them
    assert [each.detail for each in manifest.kept['masks not read']] == [
        '1 of 2 images have a SegmentationObject: give --masks to convert only these']
    manifest = kit.convert(masks=True)
    assert [each.image_id for each in manifest.dropped['no segmentation']] == ['b'] and manifest.counts.images == 1
    kit.segments('b', np.where(SEGMENTS == 1, 1, 0))
    assert kit.convert().has_masks
    assert not kit.convert(masks=False).has_masks


def test_segments_that_do_not_fit(kit: Kit) -> None:
    kit.add('a', an_object(), an_object(), an_object())
    kit.segments('a', np.where(SEGMENTS == 2, 9, SEGMENTS))
    manifest = kit.convert()
    assert [each.detail for each in manifest.kept['segments of no object']] == ['[9], the xml has 3 objects']
    assert [each.annotation_id for each in manifest.kept['object without a mask']] == [2, 3]
    assert (manifest.counts.objects, manifest.counts.objects_without_mask) == (3, 2)
    kit.segments('a', SEGMENTS.T)
    assert conversion.check(voc.find([kit.root], 'train')).dropped.keys() == {'mask of another size'}
    Image.new('LA', (WIDTH, HEIGHT)).save(kit.root / 'SegmentationObject' / 'a.png')
    assert conversion.check(voc.find([kit.root], 'train')).dropped.keys() == {'malformed annotation'}


def test_masks_in_colors(kit: Kit) -> None:
    # VOC's map, worked by hand: 1 is 0b001, so 128 of red; 2 of green; 8 is 0b1000, the next bit of red; 255 is
    # 0b11111111, red and green 0b11100000, blue 0b11000000.
    colours = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 255: (224, 224, 192)}
    kit.add('a', *[an_object()] * 8)
    values = SEGMENTS.copy()
    values[19] = 8
    pixels = np.zeros([HEIGHT, WIDTH, 3], np.uint8)
    for index, colour in colours.items():
        pixels[values == index] = colour
    for mode in ('RGB', 'RGBA'):
        Image.fromarray(pixels).convert(mode).save(kit.root / 'SegmentationObject' / 'a.png')
        kit.convert()
        masks = kit.features()[0]['image/object/mask']
        for png, index in ((masks[index - 1], index) for index in (1, 2, 8)):
            np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(png))), values == index)
    pixels[0, 0] = (1, 2, 3)
    Image.fromarray(pixels).save(kit.root / 'SegmentationObject' / 'a.png')
    [issue] = conversion.check(voc.find([kit.root], 'train')).dropped['malformed annotation']
    assert "a.png: RGB [1, 2, 3] is no color of VOC's map; --boxes converts without masks" in issue.detail


def test_several_roots_are_one_set(tmp_path: pathlib.Path) -> None:
    first, second = Kit(tmp_path / 'VOCdevkit' / 'VOC2007'), Kit(tmp_path / 'VOCdevkit' / 'VOC2012')
    first.add('000007', an_object())
    second.add('2008_000002', an_object('cat'), suffix='png')
    for arguments in (([first.root, second.root], 'train'), ([tmp_path / 'VOCdevkit'], 'train', ['2007', '2012'])):
        data_set = voc.find(*arguments)
        manifest = conversion.convert(data_set, first.root / 'out', 'set')
        assert [(record['image/source_id'], record['image/id'], record['image/object/class/text'],
                 record['image/format'], record['image/object/annotation_id']) for record in first.features()] == [
            ([b'000007'], [1], [b'dog'], [b'jpeg'], [1000001]), ([b'2008_000002'], [2], [b'cat'], [b'png'], [2000001])]
        assert manifest.source.images == f'{first.root / "JPEGImages"}, {second.root / "JPEGImages"}'
    with pytest.raises(ConversionError, match=r'train.txt and .*train.txt: image 000007 is listed 2 times; give roots'):
        voc.find([first.root, first.root], 'train')
    with pytest.raises(ConversionError, match='no directory Annotations; give --year 2007 or 2012; give the dir'):
        voc.find([tmp_path / 'VOCdevkit'], 'train')
    with pytest.raises(ConversionError, match='VOC2010: no such directory; give the directory of Annotations'):
        voc.find([tmp_path / 'VOCdevkit'], 'train', ['2010'])


def test_a_list_of_one_class(kit: Kit) -> None:
    kit.add('a', an_object())
    kit.add('b')
    (kit.root / 'ImageSets' / 'Main' / 'dog_train.txt').write_text('a  1\nb -1\n\n')
    assert [item.id for item in voc.find([kit.root], 'dog_train').items] == ['a']


def test_lists_that_cannot_be_used(kit: Kit) -> None:
    kit.add('a', an_object())
    (kit.root / 'ImageSets' / 'Main' / 'dog_train.txt').write_text('')
    with pytest.raises(ConversionError, match='Main/val.txt: no such list of images; there are Main/train$'):
        voc.find([kit.root], 'val')
    with pytest.raises(ConversionError, match='Main/dog_train.txt: it lists no image; give another split'):
        voc.find([kit.root], 'dog_train')
    (kit.root / 'ImageSets' / 'Main' / 'train.txt').write_bytes(b'\xff')
    with pytest.raises(ConversionError, match='Main/train.txt: not UTF-8 at byte 0'):
        voc.find([kit.root], 'train')


def test_classes_of_a_file(kit: Kit, tmp_path: pathlib.Path) -> None:
    kit.add('a', an_object('RBC'), an_object('dog'), an_object('Platelets'))
    (tmp_path / 'classes.txt').write_text('\ufeffPlatelets\n\n RBC \n', encoding='utf-8')
    manifest = kit.convert(classes=tmp_path / 'classes.txt')
    assert manifest.categories == [Category(1, 1, 'Platelets'), Category(2, 2, 'RBC')]
    assert kit.features()[0]['image/object/class/label'] == [2, 1]
    assert manifest.dropped == {'category not in the list': [
        IssueEntry('a', 2, "name is 'dog'", 'Annotations/a.xml')]}


def test_classes_of_a_labelmap(kit: Kit, tmp_path: pathlib.Path) -> None:
    kit.add('a', an_object('cell'))
    (tmp_path / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:1,2,3::\n')
    assert voc.find([kit.root], 'train', options=voc.Options(tmp_path / 'labelmap.txt')).head.categories == [
        Category(1, 1, 'cell')]


@pytest.mark.parametrize(('text', 'message'), [
    ('', 'classes.txt: it lists no class; write the name of each class on a line of its own'),
    ('a\nb\na\n', "classes.txt: class 'a' is listed twice"), (None, 'classes.txt: No such file or directory')])
def test_classes_that_cannot_be_used(kit: Kit, tmp_path: pathlib.Path, text: str | None, message: str) -> None:
    kit.add('a')
    if text is not None:
        (tmp_path / 'classes.txt').write_text(text)
    with pytest.raises(ConversionError, match=message):
        voc.find([kit.root], 'train', options=voc.Options(tmp_path / 'classes.txt'))


@pytest.mark.parametrize(('xml', 'reason'), [
    (an_object(box=(5, 3, 'x', 8)), 'malformed box'),
    (an_object(box=(5, 3, '', 8)), 'malformed box'),
    ('<object><name>dog</name></object>', 'malformed box'),
    (an_object(box=(5, 3, 'nan', 8)), 'non-finite numbers'),
    (an_object(box=(5, 3, '1e999', 8)), 'non-finite numbers'),
    (an_object(box=(5, 3, 4, 8)), 'box without area'),        # 4 px wide less 4
    (an_object(box=(40, 3, 45, 8)), 'box outside the image'),
    (an_object(box=(.1, .2, .5, .6)), 'normalised box'),
    ('<object><name>dog</name><robndbox><cx>9</cx><cy>9</cy><w>5</w><h>4</h><angle>0.5</angle></robndbox></object>',
     'rotated box'),
    (an_object('dogs'), 'category not in the list'),
    (an_object(''), 'category not in the list'),
    ('<object/>', 'category not in the list')])
def test_an_object_is_dropped_and_counted(kit: Kit, xml: str, reason: str) -> None:
    kit.add('a', xml, an_object())
    manifest = kit.convert()
    assert {reason: [each.annotation_id for each in issues] for reason, issues in manifest.dropped.items()} == {
        reason: [1]}
    assert manifest.counts.objects == 1


def test_boxes_counted_from_0_are_clipped_and_counted(kit: Kit) -> None:
    kit.add('a', an_object(box=(0, 0, 10, 8)))
    manifest = kit.convert()
    assert kit.features()[0]['image/object/box'] == [0, 0, 8, 10]
    assert [(each.annotation_id, each.detail) for each in manifest.repaired['box clipped']] == [
        (1, "ymin '0', xmin '0', ymax '8', xmax '10' went 1.00 px beyond the image; if the set counts from 0, give "
            '--first-pixel 0')]


def test_boxes_of_continuous_edges(kit: Kit) -> None:
    kit.add('a', an_object(box=(0, 0, 10.5, 8)), an_object(box=(4, 2, 10, 8)))
    assert kit.convert(first_pixel=0).repaired == {}
    np.testing.assert_array_equal(np.reshape(kit.features()[0]['image/object/box'], [-1, 4]),
                                  [[0, 0, 8, 10.5], [2, 4, 8, 10]])


BOMB = ('<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        f'<annotation>{SIZE}<filename>&b;</filename></annotation>')
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize(('xml', 'reason'), [
    ('', 'malformed xml'), ('<annotation>', 'malformed xml'), ('<html/>', 'malformed xml'),
    (b'\xff\xfe\x00', 'malformed xml'), (BOMB, 'malformed xml'), (OUTSIDE, 'malformed xml'),
    ('<?xml version="1.0" encoding="nonsense"?><annotation/>', 'malformed xml'), (None, 'missing annotation file'),
    (f'<annotation>{SIZE.replace("20", "21")}</annotation>', 'size mismatch')])
def test_an_image_is_dropped_and_counted(kit: Kit, xml: Any, reason: str) -> None:
    kit.add('a', an_object())
    kit.add('b', an_object())
    if xml is None:
        (kit.root / 'Annotations' / 'a.xml').unlink()
    else:
        kit.xml('a', xml)
    manifest = kit.convert()
    dropped = {reason: [each.image_id for each in entries] for reason, entries in manifest.dropped.items()}
    assert dropped == {reason: ['a']}
    assert [record['image/source_id'] for record in kit.features()] == [[b'b']]


def test_a_missing_image_is_named(kit: Kit) -> None:
    kit.add('a', an_object())
    kit.add('b', an_object())
    (kit.root / 'JPEGImages' / 'a.jpg').unlink()
    [issue] = kit.convert().dropped['missing image file']
    assert (issue.file, issue.detail) == (
        'a', f"'a' is not in {kit.root}/JPEGImages; the nearest name is 'b.jpg' (and its 1 annotations)")


def test_classes_in_other_letter_case(kit: Kit, tmp_path: pathlib.Path) -> None:
    kit.add('a', an_object('Dog'), an_object('CAT'), an_object('Cow'))
    (tmp_path / 'classes.txt').write_text('dog\nCat\ncat\nCow\n')
    manifest = kit.convert(classes=tmp_path / 'classes.txt')
    assert [(each.annotation_id, each.detail) for each in manifest.repaired['class in other letter case']] == [
        (1, "'Dog' is read as 'dog'")]
    assert [each.annotation_id for each in manifest.dropped['category not in the list']] == [2]      # Cat or cat
    assert kit.features()[0]['image/object/class/text'] == [b'dog', b'Cow']


def test_polygons_give_a_warning(kit: Kit) -> None:
    kit.add('a', an_object(more='<polygon><x1>5</x1><y1>3</y1><x2>9</x2><y2>3</y2><x3>9</x3><y3>8</y3></polygon>'))
    assert [each.annotation_id for each in kit.convert().kept['polygon not read']] == [1]


def test_parts_of_an_object_that_are_not_read(kit: Kit) -> None:
    kit.add('a', an_object(more='<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>'),
            an_object(more='<difficult>yes</difficult><truncated>Unspecified</truncated>'), an_object())
    assert {reason: [(each.annotation_id, each.detail) for each in entries]
            for reason, entries in kit.convert().kept.items()} == {
        'object of several boxes': [(1, 'the first of 2 is read; give each box its own object')],
        'flag neither 0 nor 1': [(2, "difficult is 'yes', and counts as not stated")]}
    np.testing.assert_array_equal(np.reshape(kit.features()[0]['image/object/box'], [-1, 4])[0], [0, 0, 9, 9])


def test_classes_of_a_file_that_no_object_has(kit: Kit, tmp_path: pathlib.Path) -> None:
    kit.add('a', an_object('cell'))
    (tmp_path / 'classes.txt').write_text('background\ncell\n')
    assert kit.convert(classes=tmp_path / 'classes.txt').kept == {'category without objects': [
        IssueEntry(None, None, "'background'; remove it from the file to drop it", 'classes.txt')]}


def test_warnings_are_counted(kit: Kit) -> None:
    kit.add('a', size='<size><width>0</width><height>0</height><depth>0</depth></size>')
    kit.add('b', mode='L')
    kit.xml('b', f'<annotation><filename>c.jpg</filename>{SIZE}</annotation>')
    manifest = kit.convert()
    assert {reason: [(each.image_id, each.file) for each in entries] for reason, entries in manifest.kept.items()} == {
        'size not stated': [('a', 'Annotations/a.xml')], 'file name differs': [('b', 'Annotations/b.xml')],
        'channels differ': [('b', 'Annotations/b.xml')]}
    assert manifest.counts.images == 2


def test_a_data_set_can_be_pickled(kit: Kit) -> None:
    kit.add('a', an_object())
    data_set = voc.find([kit.root], 'train')
    assert conversion.check(pickle.loads(pickle.dumps(data_set))) == conversion.check(data_set)


@pytest.mark.parametrize(('split', 'images'), [('train', 205), ('val', 87)])
def test_blood_cells(tmp_path: pathlib.Path, bccd_dir: pathlib.Path, split: str, images: int) -> None:
    (tmp_path / 'classes.txt').write_text('RBC\nWBC\nPlatelets\n')
    data_set = voc.find([bccd_dir], split, options=voc.Options(tmp_path / 'classes.txt'))
    manifest = conversion.convert(data_set, tmp_path / 'out', split)
    ids = (bccd_dir / 'ImageSets' / 'Main' / f'{split}.txt').read_text().split()
    boxes = {image_id: _boxes(bccd_dir / 'Annotations' / f'{image_id}.xml') for image_id in ids}
    without_area = sum(x2 <= x1 - 1 or y2 <= y1 - 1 for each in boxes.values() for _, x1, y1, x2, y2 in each)
    assert manifest.counts.images == images == len(ids)
    assert manifest.counts.objects == sum(map(len, boxes.values())) - without_area
    assert {reason: len(each) for reason, each in manifest.dropped.items()} == (
        {'box without area': without_area} if without_area else {})
    clicks = sum(x1 == x2 or y1 == y2 for each in boxes.values() for _, x1, y1, x2, y2 in each)
    assert len(manifest.kept.get('box one pixel wide or high', [])) == clicks == 1
    path = tmp_path / 'out' / f'{split}.json'
    names: Counter[str] = Counter()
    shards = tf.data.TFRecordDataset(Manifest.read(path).shard_paths(path))
    for record in shards.map(lambda serialized: records.parse(serialized, False)).as_numpy_iterator():
        usable = [box for box in boxes[record['source_id'].decode()] if box[3] > box[1] - 1 and box[4] > box[2] - 1]
        expected = np.array([[y1 - 1, x1 - 1, y2, x2] for _, x1, y1, x2, y2 in usable]).reshape(-1, 4)
        np.testing.assert_array_equal(record['boxes'], np.clip(expected, 0, [480, 640, 480, 640]))
        names.update(manifest.categories[label - 1].name for label in record['labels'])
        assert [manifest.categories[label - 1].name for label in record['labels']] == [box[0] for box in usable]
    assert set(names) == {'RBC', 'WBC', 'Platelets'}


def _boxes(path: pathlib.Path) -> list[tuple[str, int, int, int, int]]:
    """Name, xmin, ymin, xmax, ymax."""
    def number(element: ElementTree.Element, side: str) -> int:
        return int(element.findtext(f'bndbox/{side}') or '')

    return [(str(each.findtext('name')), number(each, 'xmin'), number(each, 'ymin'), number(each, 'xmax'),
             number(each, 'ymax')) for each in ElementTree.parse(path).getroot().iter('object')]
