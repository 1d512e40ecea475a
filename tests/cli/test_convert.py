"""`mrcnn convert` and `mrcnn validate`: the arguments of the functions that they call, and what they print."""
from __future__ import annotations

import json
import pathlib
import re

import pytest
from PIL import Image

from data_tools import examples
from data_tools.examples import Rules
from data_tools.formats import cityscapes, coco, coco_boxes, shapes, voc
from data_tools.selective_search import SelectiveSearch
from data_tools.sharding import writer
from mrcnn_tf.cli import convert
from mrcnn_tf.input.manifest import Counts, Manifest, Source
from tests.cli.runner import Recorder, mrcnn

EMPTY = Manifest('x', [], Counts(1, 1), 0, {}, {}, [], False, Source('coco', 'a.json', 'i'))


def test_options_reach_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    find, convert, check = Recorder('found'), Recorder(EMPTY), Recorder(EMPTY)
    monkeypatch.setattr('data_tools.formats.coco.find', find)
    monkeypatch.setattr('data_tools.conversion.convert', convert)
    monkeypatch.setattr('data_tools.conversion.check', check)
    source = ['coco', '--annotations', 'a.json', '--images', 'i']
    for arguments in (
            ['convert', *source, '--output', 'o'],
            ['convert', *source, '--output', 'o', '--name', 'val', '--boxes', '--box-format', 'xyxy',
             '--images-per-shard', 5,
             '--shard-size', 3, '--workers', 2,
             '--exif', 'apply', '--drop-empty', '--strict'],
            ['convert', *source, '--output', 'o', '--runner', 'beam'],
            ['convert', *source, '--output', 'o', '--runner', 'beam', '--beam-option', '--runner=X',
             '--beam-option=--y=1'],
            ['convert', *source, '--output', 'o', '--dry-run', '--workers', 2],
            ['validate', *source, '--exif', 'ignore', '--strict', '--allow-loss', '--categories', 'c.txt',
             '--drop-unused-categories']):
        result = mrcnn(*arguments)
        assert result.exit_code == 0, result.output
    paths, output = (pathlib.Path('a.json'), pathlib.Path('i')), pathlib.Path('o')
    assert find.calls == [
        (*paths, coco.Options()), (*paths, coco.Options(masks=False, box_format='xyxy')),
        *[(*paths, coco.Options())] * 3,
        (*paths, coco.Options(categories=pathlib.Path('c.txt'), drop_unused_categories=True))]
    assert convert.calls == [
        ('found', output, 'train', Rules(), writer.Options()),
        ('found', output, 'val', Rules('apply', False, True), writer.Options(5, 3 * 2 ** 20, 2)),
        ('found', output, 'train', Rules(), writer.Options(beam=())),
        ('found', output, 'train', Rules(), writer.Options(beam=('--runner=X', '--y=1')))]
    assert check.calls == [('found', Rules(), 2, 'train'), ('found', Rules('ignore', strict=True, allow_loss=True), 1)]


def test_options_of_cityscapes(monkeypatch: pytest.MonkeyPatch) -> None:
    find = Recorder('found')
    monkeypatch.setattr('data_tools.formats.cityscapes.find', find)
    monkeypatch.setattr('data_tools.conversion.check', Recorder(EMPTY))
    for more in ([], ['--annotations', 'coarse', '--boxes']):
        result = mrcnn('validate', 'cityscapes', '--root', 'r', '--split', 'val', *more)
        assert result.exit_code == 0, result.output
    root = pathlib.Path('r')
    assert find.calls == [(root, 'val', 'fine', True, False), (root, 'val', 'coarse', False, False)]


def test_options_of_voc(monkeypatch: pytest.MonkeyPatch) -> None:
    find = Recorder('found')
    monkeypatch.setattr('data_tools.formats.voc.find', find)
    monkeypatch.setattr('data_tools.conversion.check', Recorder(EMPTY))
    for more in ([], ['--split', 'val', '--root', 's', '--year', 2007, '--year', 2012, '--classes', 'c', '--masks'],
                 ['--boxes', '--first-pixel', 0]):
        result = mrcnn('validate', 'voc', '--root', 'r', *more)
        assert result.exit_code == 0, result.output
    r, s, c = pathlib.Path('r'), pathlib.Path('s'), pathlib.Path('c')
    assert find.calls == [([r], None, [], voc.Options()), ([r, s], 'val', ['2007', '2012'], voc.Options(c, masks=True)),
                          ([r], None, [], voc.Options(masks=False, first_pixel=0))]


def test_choices_are_those_of_the_converters() -> None:
    assert tuple(each.value for each in convert.Exif) == examples.EXIF
    assert tuple(each.value for each in convert.BoxFormat) == coco_boxes.NAMES
    assert [each.value for each in convert.CityscapesAnnotations] == list(cityscapes.ANNOTATIONS)


@pytest.mark.parametrize('verb', ['convert', 'validate'])
def test_the_list_of_kinds_tells_them_apart(verb: str) -> None:
    shown = ' '.join(mrcnn(verb, '--help').stdout.split())
    for line in ("coco COCO's json: of COCO itself", "cityscapes Cityscapes' folders: the 8 classes", 'voc PASCAL'):
        assert line in shown


def test_an_unknown_choice_is_explained() -> None:
    result = mrcnn('convert', 'coco', '--annotations', 'a', '--images', 'i', '--output', 'o', '--exif', 'turn')
    assert result.exit_code == 2 and re.search("'turn' is not one of .*error.*, .*apply.*, .*ignore", result.stderr)


@pytest.fixture()
def drawn(tmp_path: pathlib.Path) -> shapes.DrawnSet:
    """Three pictures, of which one is missing, and an annotation beyond its image."""
    made = shapes.draw(tmp_path, 3, seed=1, size=(40, 40))
    data = json.loads(made.annotations.read_text())
    data['annotations'][0]['bbox'][0] = 1000
    made.annotations.write_text(json.dumps(data))
    (made.images / '000003.png').unlink()
    return made


def test_validate_prints_a_line_for_each_problem_and_a_summary(drawn: shapes.DrawnSet) -> None:
    result = mrcnn('validate', 'coco', '--annotations', drawn.annotations, '--images', drawn.images)
    assert result.exit_code == 0, result.output
    first, second, third, *_ = result.stdout.splitlines()
    assert re.match(r'annotations.json: image 1, annotation 1: dropped, box outside the image: bbox is \[', first)
    assert re.match(r'000003.png: image 3: dropped, missing image file: .*000003.png', second)
    assert re.match(r'checked: 2 images \(0 without objects\), \d+ objects', third)


@pytest.mark.parametrize('verb', ['validate', 'convert', 'dry'])
def test_a_report_is_json_and_nothing_else(drawn: shapes.DrawnSet, tmp_path: pathlib.Path, verb: str) -> None:
    more = [] if verb == 'validate' else ['--output', tmp_path / 'out', *(['--dry-run'] if verb == 'dry' else [])]
    result = mrcnn('convert' if verb == 'dry' else verb, 'coco', '--annotations', drawn.annotations,
                   '--images', drawn.images, '--json', *more)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report['problem_counts'] == {
        'dropped': {'box outside the image': 1, 'missing image file': 1}, 'repaired': {}, 'kept': {}}
    assert [(each['file'], each['image_id'], each['annotation_id']) for each in report['problems']] == [
        ('annotations.json', 1, 1), ('000003.png', 3, None)]
    assert (tmp_path / 'out').exists() == (verb == 'convert')


@pytest.mark.parametrize('verb', ['validate', 'convert'])
def test_strict_is_one_line_and_a_failure(drawn: shapes.DrawnSet, tmp_path: pathlib.Path, verb: str) -> None:
    more = ['--output', tmp_path / 'out'] if verb == 'convert' else []
    result = mrcnn(verb, 'coco', '--annotations', drawn.annotations, '--images', drawn.images, '--strict', *more)
    assert (result.exit_code, result.stdout) == (1, '')
    assert re.fullmatch(r'mrcnn: error: annotations.json: image 1, annotation 1: would be dropped, box outside the '
                        r'image: .*; fix it or convert without --strict\n', result.stderr)
    assert not list(tmp_path.glob('out/*'))


@pytest.mark.parametrize('verb', [['validate'], ['convert', '--dry-run', '--output', 'o'],
                                  ['convert', '--dry-run', '--json', '--output', 'o']])
def test_what_convert_would_stop_at_is_a_failure_beforehand(drawn: shapes.DrawnSet, verb: list[str]) -> None:
    exif, picture = Image.Exif(), drawn.images / '000002.png'
    exif[0x0112] = 3
    Image.open(picture).save(picture, exif=exif)
    source = ['coco', '--annotations', drawn.annotations, '--images', drawn.images]
    result = mrcnn(verb[0], *source, *verb[1:])
    assert result.exit_code == 1 and 'EXIF orientation' in result.stdout      # all of what was found, and then
    assert re.search(r'mrcnn: error: 000002.png: image 2: stopped, EXIF orientation: .*: give exif apply .*\n$',
                     result.stderr)
    assert mrcnn(verb[0], *source, *verb[1:], '--exif', 'ignore').exit_code == 0
    for picture in drawn.images.iterdir():
        picture.unlink()
    result = mrcnn(verb[0], *source, *verb[1:])
    assert result.exit_code == 1 and re.search(r'error: .*annotations.json: no image is left to write', result.stderr)


@pytest.mark.parametrize(('more', 'message'), [
    (['--beam-option=--runner=X'], '--beam-option=--runner=X needs --runner beam; --runner is local'),
    (['--dry-run', '--name', 'a/b'],
     "name 'a/b': use letters, digits, _, - and . only, with no - or . at the beginning")])
def test_options_that_do_not_go(drawn: shapes.DrawnSet, tmp_path: pathlib.Path, more: list[str], message: str) -> None:
    result = mrcnn('convert', 'coco', '--annotations', drawn.annotations, '--images', drawn.images,
                   '--output', tmp_path / 'out', *more)
    assert (result.exit_code, result.stdout, result.stderr) == (1, '', f'mrcnn: error: {message}\n')


def test_convert_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    attach = Recorder()
    monkeypatch.setattr('data_tools.proposals.attach', attach)
    monkeypatch.setattr('data_tools.selective_search._opencv', lambda: None)
    needed = ['d/train.json', '--output', 'o', '--name', 'with']
    assert mrcnn('convert', 'proposals', *needed).exit_code == 0
    assert mrcnn('convert', 'proposals', *needed, '--proposals', 'p.mat', '--mode', 'quality', '--top', 100,
                 '--images-per-shard', 5, '--shard-size', 3, '--workers', 2).exit_code == 0
    old, new = pathlib.Path('d/train.json'), (pathlib.Path('o'), 'with')
    assert attach.calls == [(old, SelectiveSearch('fast'), *new, 2000, writer.Options()),
                            (old, pathlib.Path('p.mat'), *new, 100, writer.Options(5, 3 * 2 ** 20, 2))]
