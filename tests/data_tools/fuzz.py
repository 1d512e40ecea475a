"""Convert thousands of damaged data sets: each must end in one clear line, or in records that hold the annotations.

    python -m tests.data_tools.fuzz --cases 5000 --seed 1

A case is a small valid set of one format (COCO, VOC, Cityscapes) with one or two damaged files: json and xml in their
structure or their bytes, png and jpeg in their bytes. Each case must fulfil:

- The only exception is ConversionError, with one line.
- TensorFlow decodes the records, and boxes and masks are inside the image.
- Every image and annotation is in the records, with the box and class that an independent reader of the same files
  gives, or it is counted as dropped.
- It takes a few seconds at most.

Repeat a case with --seed and --only. With --images, damaged png and jpeg files of all types are checked alone:
TensorFlow must decode what the converters accept, with the size and channels that they report.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import json
import math
import pathlib
import random
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools import conversion, examples
from data_tools import images as image_files
from data_tools.data_set import DataSet
from data_tools.examples import Rules
from data_tools.formats import cityscapes, coco, voc
from data_tools.issues import ConversionError, InvalidDataError
from mrcnn_tf.input import decoding, records
from mrcnn_tf.input.manifest import Counts, Manifest

Files = dict[str, bytes]
SECONDS = 10.0     # of the processor; a case that takes longer hangs
SIZE = (20, 30)
NAN = float('nan')
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 1.5, -0.0, NAN, math.inf, -math.inf, 2 ** 31, 2 ** 63, 10 ** 30, 10 ** 400, 1e308,
    -1e308, '', 'x', '7', '\ud800', 'a\0b', '../../x', 'é' * 50, 'o' * 5000, [], {}, [[]], [None], [1, 2], [1, 2, 3, 4],
    ['a'], [[1, 2, 3]], [NAN] * 4, [[0, 0, 1e6, 0, 1e6, 1e6] * 50], {'size': [20, 30], 'counts': [600]},
    {'size': [20, 30], 'counts': 'PPYo1'}, {'size': [20, 30], 'counts': [-5, 605]}, {'counts': 'abc'}, [20, 30],
    {'size': [1e9, 1e9], 'counts': [10 ** 18]})


class Kind(NamedTuple):
    """A format: its valid files, how to find the data set, and the objects expected by image."""
    files: Callable[[], Files]
    find: Callable[[pathlib.Path], DataSet]
    truth: Callable[[Files], dict[str, list[Expected] | None]]


class Expected(NamedTuple):
    """An object as an independent reading of the files gives it."""
    name: str
    box: tuple[float, float, float, float]      # y1, x1, y2, x2, before it is clipped


def main() -> None:
    """Runs the cases of the command line and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--images', type=int, default=0)
    parser.add_argument('--only', type=int, help='the number of the case to repeat')
    arguments = parser.parse_args()
    numbers = range(arguments.cases) if arguments.only is None else [arguments.only]
    failed = 0
    for ends, failures in (run(numbers, arguments.seed), run_images(range(arguments.images), arguments.seed)):
        for (kind, end), count in sorted(ends.items()):
            print(f'{kind:12}{end:40}{count:6}')
        for number, failure in failures.items():
            print(f'--- case {number} of seed {arguments.seed}\n{failure}')
        print(f'{sum(ends.values())} cases, {len(failures)} failures')
        failed += len(failures)
    sys.exit(bool(failed))


def run(numbers: Any, seed: int) -> tuple[collections.Counter[tuple[str, str]], dict[int, str]]:
    """How the cases ended, and what was wrong with those that ended otherwise than they may."""
    ends: collections.Counter[tuple[str, str]] = collections.Counter()
    failures: dict[int, str] = {}
    for number in numbers:
        name = list(KINDS)[number % len(KINDS)]
        rng = random.Random(f'{seed}/{number}')
        files, damage = _damaged(KINDS[name].files(), rng)
        start = time.process_time()
        try:
            end = _end(KINDS[name], files, rng)
            assert time.process_time() - start < SECONDS, 'it took too long'
            ends[name, end] += 1
        except Exception:
            ends[name, 'FAILURE'] += 1
            failures[number] = f'{name}: {damage}\n{traceback.format_exc()}'
    return ends, failures


def run_images(numbers: Any, seed: int) -> tuple[collections.Counter[tuple[str, str]], dict[int, str]]:
    """As `run`, of single image files."""
    ends: collections.Counter[tuple[str, str]] = collections.Counter()
    failures: dict[int, str] = {}
    sorts = _image_sorts()
    for number in numbers:
        rng = random.Random(f'{seed}/image/{number}')
        name = rng.choice(sorted(sorts))
        damaged = _bytes(sorts[name], rng)
        if rng.random() < .5 and name.startswith('png'):
            damaged = _with_checksums(damaged)
        try:
            ends[name, _image_end(damaged)] += 1
        except Exception:
            ends[name, 'FAILURE'] += 1
            failures[number] = f'{name}\n{traceback.format_exc()}'
    return ends, failures


def _image_end(data: bytes) -> str:
    try:
        file = image_files.check(data, 'a')
    except InvalidDataError as error:
        assert '\n' not in error.issue.detail
        return 'refused'
    assert decoding.decode(data).shape == [file.height, file.width, 3]
    if file.format == 'png':
        channels = tf.io.decode_png(data, dtype=tf.uint16).shape[2]
        assert channels in (file.channels, file.channels + 1), channels    # a palette's colours may be transparent
    if file.orientation != 1:
        with contextlib.suppress(InvalidDataError):
            turned = image_files.turn(file, 'a')
            assert decoding.decode(turned.data).shape == [*file.turned_size(), 3]
    return 'decoded'


def _with_checksums(png: bytes) -> bytes:
    """The chunks of a damaged PNG with the checksums that they should have: the damage goes deeper so."""
    parts, at = [png[:8]], 8
    while at + 8 <= len(png):
        end = at + 8 + int.from_bytes(png[at:at + 4], 'big')
        body = png[at + 4:end]
        parts += [png[at:at + 4], body, zlib.crc32(body).to_bytes(4, 'big')]
        at = end + 4
    return b''.join(parts)


def _image_sorts() -> Files:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)).resize(SIZE[::-1])
    colours, exif = noise.convert('RGB'), Image.Exif()
    exif[0x0112], exif[0x010e] = 6, 'x' * 40
    deep = Image.fromarray(np.asarray(noise)[:, :, 0].astype(np.uint16) * 257)
    return {f'{sort[0].lower()} {sort[1]}': _saved(*sort[2:], format=sort[0], **options) for sort, options in (
        (('PNG', 'colours', colours), {}), (('PNG', 'deep', deep), {}), (('PNG', 'grey', colours.convert('L')), {}),
        (('PNG', 'palette', colours.convert('P')), {}), (('PNG', 'bits', colours.convert('1')), {}),
        (('PNG', 'transparent palette', colours.convert('P')), {'transparency': 3}), (('PNG', 'four', noise), {}),
        (('PNG', 'two', colours.convert('LA')), {}), (('PNG', 'turned', colours), {'exif': exif}),
        (('JPEG', 'colours', colours), {}), (('JPEG', 'progressive', colours), {'progressive': True}),
        (('JPEG', 'grey', colours.convert('L')), {}), (('JPEG', 'cmyk', colours.convert('CMYK')), {}),
        (('JPEG', 'turned', colours), {'exif': exif, 'quality': 30}),
        (('JPEG', 'restarts', colours), {'restart_marker_blocks': 1}))}


def _saved(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def _end(kind: Kind, files: Files, rng: random.Random) -> str:
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        rules = Rules(exif=rng.choice(examples.EXIF), keep_empty=rng.random() < .8, strict=rng.random() < .1)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                data_set = kind.find(root)
                manifest = conversion.convert(data_set, root / 'out', 'set', rules)
        except ConversionError as error:
            text = str(error)
            assert '\n' not in text and len(text) > 20, f'not one clear line: {text!r}'
            left = [path.name for path in root.glob('out/*') if not path.name.startswith('.')]
            assert not left, f'{left} are left'
            return 'one clear line'
        _check(manifest, root / 'out' / 'set.json', files, kind.truth(files))
        problems = manifest.dropped or manifest.repaired or manifest.kept
        return 'records, and problems are counted' if problems else 'records, no problem'


def _check(manifest: Manifest, path: pathlib.Path, files: Files,
           truth: dict[str, list[Expected] | None]) -> None:
    assert Manifest.read(path) == manifest
    counts, seen = Counts(), set()
    dropped = collections.Counter(str(each.image_id) for entries in manifest.dropped.values() for each in entries
                                  if each.annotation_id is not None)
    of_image = {str(each.image_id) for entries in manifest.dropped.values() for each in entries
                if each.annotation_id is None and each.file != 'a.json'}
    for record in _records(path):
        source_id = record['source_id'].decode()
        _check_record(record, manifest, files)
        count = len(record['labels'])
        counts = Counts(counts.images + 1, counts.images_without_objects + (count == 0),
                                counts.objects + count, counts.crowds + int(record['crowd'].sum()))
        seen.add(source_id)
        expected = truth[source_id]
        assert expected is not None, f'{source_id} is in the records and its annotations cannot be read'
        _check_order(record, manifest, expected)
        assert count + dropped[source_id] >= len(expected), f'{source_id}: an annotation is neither written nor counted'
    assert counts == manifest.counts, (counts, manifest.counts)
    missing = set(truth) - seen - of_image
    assert not missing, f'images {missing} are neither written nor counted'


def _records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    manifest = Manifest.read(path)
    for serialized in tf.data.TFRecordDataset(manifest.shard_paths(path)):
        parsed = records.parse(serialized, manifest.has_masks)
        features = tf.train.Example.FromString(serialized.numpy()).features.feature
        yield {**{key: value.numpy() for key, value in parsed.items()},
               'filename': features['image/filename'].bytes_list.value[0].decode()}


def _check_record(record: dict[str, Any], manifest: Manifest, files: Files) -> None:
    height, width = int(record['height']), int(record['width'])
    assert decoding.decode(record['encoded']).shape == [height, width, 3]
    turned = 'EXIF orientation applied' in manifest.repaired
    assert turned or record['encoded'] in files.values(), 'the bytes of the image are not those of a file'
    boxes, labels = record['boxes'], record['labels']
    assert np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes <= [height, width, height, width]).all()
    assert ((labels >= 1) & (labels <= len(manifest.categories))).all()
    assert np.isfinite(record['area']).all() and (record['area'] > 0).all()
    for png in record.get('masks', []):
        mask = tf.io.decode_png(png).numpy()
        assert mask.shape == (height, width, 1) and set(np.unique(mask)) <= {0, 1} and mask.any()


def _check_order(record: dict[str, Any], manifest: Manifest, expected: list[Expected]) -> None:
    """The objects are some of the expected ones, in their order."""
    height, width = int(record['height']), int(record['width'])
    rest = iter(expected)
    for label, box in zip(record['labels'], record['boxes'], strict=True):
        name = manifest.categories[label - 1].name
        assert any(each.name == name and np.allclose(box, np.clip(each.box, 0, [height, width] * 2), atol=1e-3)
                   for each in rest), f'{name} at {box} is not what the files say: {expected}'


def _damaged(files: Files, rng: random.Random) -> tuple[Files, str]:
    files, damage = dict(files), []
    for name in rng.sample(sorted(files), rng.choice((1, 1, 1, 2))):
        ways = {'json': (_json_structure, _json_structure, _json_structure, _bytes), 'xml': (_xml_structure, _bytes)
                }.get(name.rpartition('.')[2], (_bytes,))
        way = rng.choice(ways)
        files[name] = way(files[name], rng)
        damage.append(f'{name} by {way.__name__}: {files[name][:300]!r}' if way is not _bytes else f'{name}, bytes')
    return files, '; '.join(damage)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 4, 30))
        part = {
            'flip': lambda piece: bytes(byte ^ 1 << rng.randrange(8) for byte in piece),
            'set': lambda piece: bytes(rng.choice((0, 255, 127, 1)) for _ in piece), 'cut': lambda _: b'',
            'double': lambda piece: piece + piece, 'random': lambda piece: rng.randbytes(len(piece))
        }[rng.choice(('flip', 'flip', 'set', 'cut', 'double', 'random'))](bytes(changed[at:at + length]))
        changed[at:at + length] = part
    return bytes(changed[:rng.randrange(len(changed))] if rng.random() < .1 and changed else changed)


def _json_structure(data: bytes, rng: random.Random) -> bytes:
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(tree))
        container, key = rng.choice(places)
        way = rng.choice(('replace', 'replace', 'replace', 'remove', 'double', 'deep', 'scale'))
        if way == 'remove':
            del container[key]
        elif way == 'double' and isinstance(container, list):
            container.insert(key, container[key])
        elif way == 'deep':
            container[key] = _nested(rng.choice((3, 200)))
        elif way == 'scale' and type(container[key]) in (int, float):
            container[key] *= rng.choice((-1, 0.5, 2, 100, 1e20))
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))      # or a case would change those after it
        if not list(_places(tree)):
            break
    return json.dumps(tree).encode()


def _nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each container with each of its keys."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def _xml_structure(data: bytes, rng: random.Random) -> bytes:
    root = ElementTree.fromstring(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        parents = [(parent, child) for parent in root.iter() for child in parent]
        if not parents:
            break
        parent, child = rng.choice(parents)
        way = rng.choice(('text', 'text', 'text', 'remove', 'double', 'tag'))
        if way == 'remove':
            parent.remove(child)
        elif way == 'double':
            parent.append(child)
        elif way == 'tag':
            child.tag = rng.choice(('object', 'bndbox', 'name', 'size', 'x'))
        else:
            child.text = rng.choice(('', ' ', '0', '-1', '1', '7.5', 'nan', 'inf', '1e999', '1_0', '9' * 400, 'x', 'é',
                                     '٣', 'dog', '255', '-0', '1e-320'))
    return ElementTree.tostring(root)


def _png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, 'PNG')
    return stream.getvalue()


def _pictures() -> tuple[bytes, bytes]:
    """A PNG, and a JPEG with an orientation that is upright."""
    values = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 1
    Image.fromarray(values).save(stream, 'JPEG', exif=exif)
    return _png(values), stream.getvalue()


def _coco_files() -> Files:
    square = np.zeros(SIZE, np.uint8)
    square[2:8, 4:10] = 1
    text = coco_mask.encode(np.asfortranarray(square))['counts'].decode()
    shapes = ([[4, 2, 10, 2, 10, 8, 4, 8]], {'size': [*SIZE], 'counts': [82, *[6, 14] * 5, 6, 412]},
              {'size': [*SIZE], 'counts': text}, [[4, 2, 10, 2, 10, 8], [10, 8, 4, 8, 4, 2]])
    annotations = [{'id': i, 'image_id': i // 3 + 1, 'category_id': 3 + 4 * (i % 2), 'iscrowd': int(i == 2),
                    'area': 36.5, 'bbox': [4, 2, 6, 6], 'segmentation': shape} for i, shape in enumerate(shapes, 1)]
    listed = [{'id': i, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]} for i, name in enumerate(
        ('a.png', 'b.jpg'), 1)]
    png, jpeg = _pictures()
    data = {'images': listed, 'annotations': annotations,
            'categories': [{'id': 7, 'name': 'cat'}, {'id': 3, 'name': 'dog'}]}
    return {'a.json': json.dumps(data).encode(), 'images/a.png': png, 'images/b.jpg': jpeg}


def _coco_truth(files: Files) -> dict[str, list[Expected] | None]:
    data = json.loads(files['a.json'])
    names = {each['id']: each['name'] for each in data.get('categories', [])}
    truth: dict[str, list[Expected] | None] = {str(image['id']): [] for image in data['images']}
    by_id = {image['id']: str(image['id']) for image in data['images']}
    for each in data.get('annotations', []):
        image_id = each.get('image_id')
        if isinstance(image_id, (int, float, str)) and image_id in by_id:
            expected = truth[by_id[image_id]]
            assert expected is not None
            expected.append(Expected(_name(names, each), _coco_box(each)))
    return truth


def _name(names: dict[Any, str], annotation: dict[str, Any]) -> str:
    category = annotation.get('category_id')
    return names.get(category, '') if isinstance(category, (int, float)) else ''


def _coco_box(annotation: dict[str, Any]) -> tuple[float, float, float, float]:
    """The box, or for want of one that of the mask; NaN where there is neither."""
    try:
        if annotation.get('bbox') is None:
            shape = annotation['segmentation']
            if isinstance(shape, list):
                good = [each for each in shape if len(each) >= 6 and len(each) % 2 == 0]
                shape = coco_mask.merge(coco_mask.frPyObjects(good, *SIZE))
            elif isinstance(shape['counts'], list):
                shape = coco_mask.frPyObjects(shape, *SIZE)
            x, y, width, height = coco_mask.toBbox(shape).tolist()
        else:
            x, y, width, height = (float(value) for value in annotation['bbox'])
        return y, x, y + height, x + width
    except (TypeError, ValueError, KeyError, OverflowError):
        return NAN, NAN, NAN, NAN


def _voc_files() -> Files:
    png, jpeg = _pictures()
    xml = ('<annotation><filename>{}</filename><size><width>30</width><height>20</height><depth>3</depth></size>'
           '<object><name>dog</name><truncated>1</truncated><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>3</ymin>'
           '<xmax>10</xmax><ymax>8</ymax></bndbox></object><object><name>cat</name><bndbox><xmin>12</xmin><ymin>10</ymin>'
           '<xmax>30</xmax><ymax>20</ymax></bndbox></object></annotation>')
    segments = np.zeros(SIZE, np.uint8)
    segments[2:8, 4:10], segments[9:20, 11:30], segments[2, 4:10] = 1, 2, 255
    return {'ImageSets/Main/train.txt': b'a\nb\n', 'JPEGImages/a.png': png, 'JPEGImages/b.jpg': jpeg,
            **{f'Annotations/{name}.xml': xml.format(name).encode() for name in 'ab'},
            **{f'SegmentationObject/{name}.png': _png(segments) for name in 'ab'}}


def _voc_truth(files: Files) -> dict[str, list[Expected] | None]:
    rows = [row.split() for row in files['ImageSets/Main/train.txt'].decode('utf-8-sig').splitlines()]
    return {row[0]: _voc_objects(files.get(f'Annotations/{row[0]}.xml')) for row in rows if row and row[1:] != ['-1']}


def _voc_objects(xml: bytes | None) -> list[Expected] | None:
    try:
        root = ElementTree.fromstring(xml or b'')
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    return [Expected((each.findtext('name') or '').strip(), _voc_box(each)) for each in root.findall('object')]


def _voc_box(element: ElementTree.Element) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(element.findtext(f'bndbox/{side}') or '') for side in ('xmin', 'ymin', 'xmax', 'ymax'))
    except ValueError:
        return NAN, NAN, NAN, NAN
    return y1 - 1, x1 - 1, y2, x2


CITY = '{}/train/ulm/ulm_00000{}_000019_{}'


def _cityscapes_files() -> Files:
    png, _ = _pictures()
    values = np.full(SIZE, 7, np.uint16)
    values[2:8, 4:10], values[9:20, 11:30], values[0, 0] = 26000, 24, 24001
    polygons = [{'label': 'road', 'polygon': [[0, 0], [29, 0], [29, 19], [0, 19]]},
                {'label': 'car', 'polygon': [[4, 2], [9, 2], [9, 7], [4, 7]], 'deleted': 0},
                {'label': 'persongroup', 'polygon': [[11, 9], [29, 9], [29, 19]]},
                {'label': 'license plate', 'polygon': [[5, 3], [6, 3], [6, 4]]}]
    data = {'imgHeight': SIZE[0], 'imgWidth': SIZE[1], 'objects': polygons}
    return {**{CITY.format('leftImg8bit', i, 'leftImg8bit.png'): png for i in (0, 1)},
            CITY.format('gtFine', 0, 'gtFine_instanceIds.png'): _png(values),
            CITY.format('gtFine', 1, 'gtFine_polygons.json'): json.dumps(data).encode()}


def _cityscapes_truth(files: Files) -> dict[str, list[Expected] | None]:
    return {'ulm_000000_000019': _of_pixels(files[CITY.format('gtFine', 0, 'gtFine_instanceIds.png')]),
            'ulm_000001_000019': _of_polygons(files[CITY.format('gtFine', 1, 'gtFine_polygons.json')])}


def _of_pixels(png: bytes) -> list[Expected] | None:
    try:
        with Image.open(io.BytesIO(png)) as image:
            return _instances(np.asarray(image).astype(np.int64))
    except Exception:      # Pillow's decoders raise almost anything
        return None


def _of_polygons(data: bytes) -> list[Expected] | None:
    """By the official code."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.helpers.labels import name2label
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    annotation = Annotation()
    try:
        tree = json.loads(data)
        known = [each for each in tree['objects'] if not each.get('deleted') and len(each['polygon']) > 2
                 and (each['label'] in name2label or each['label'].removesuffix('group') in name2label)]
        annotation.fromJsonText(json.dumps({**tree, 'objects': [{**each, 'deleted': 0} for each in known]}))
        with contextlib.redirect_stdout(io.StringIO()):     # it prints the polygons that it cannot draw
            return _instances(np.asarray(createInstanceImage(annotation, 'ids')))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        return None


def _instances(pixels: np.ndarray) -> list[Expected]:
    classes = {24: 'person', 25: 'rider', 26: 'car', 27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle',
               33: 'bicycle'}
    expected = []
    for value in np.unique(pixels):
        name = classes.get(int(value) if value < 1000 else int(value) // 1000)
        if name:
            y, x = (pixels == value).nonzero()
            expected.append(Expected(name, (y.min(), x.min(), y.max() + 1, x.max() + 1)))
    return expected


def _find_voc(root: pathlib.Path) -> DataSet:
    return voc.find([root], 'train')


KINDS = {
    'coco': Kind(_coco_files, lambda root: coco.find(root / 'a.json', root / 'images'), _coco_truth),
    'voc': Kind(_voc_files, _find_voc, _voc_truth),
    'cityscapes': Kind(_cityscapes_files, lambda root: cityscapes.find(root, 'train'), _cityscapes_truth),
}


if __name__ == '__main__':
    main()
