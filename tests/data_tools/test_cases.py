"""Annotations as other tools write them, `../shared/cases`: each is read, or refused with its cause.

A row of ROWS is what `mrcnn validate` and `mrcnn convert` make of one folder; both must agree. What else is to be
tested of a case, such as values in the records, uses `convert` below.
"""
from __future__ import annotations

import io
import pathlib
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mrcnn_tf.cli import main
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import Counts, Manifest
from tests.paths import SHARED

CASES = SHARED / 'cases'
PROGRESS = re.compile(r'checked: \d+ of \d+ images, .* images/s')


@dataclass(frozen=True)
class Outcome:
    """What a command did."""
    exit_code: int
    output: str                     # spaces and line breaks as one space, no borders of tables
    error: str
    manifest: Manifest | None       # of a conversion that went through


@dataclass(frozen=True)
class Row:
    """What becomes of a case."""
    name: str
    counts: Counts | None                                         # images, of these empty, objects, crowds; None: fails
    repaired: dict[str, int] = field(default_factory=dict)        # by reason
    dropped: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    says: tuple[str, ...] = ()                                    # on the standard output, or in the error
    options: tuple[str, ...] = ()
    kind: str = 'coco'
    source: tuple[str, ...] = ()                                  # options of the kind; the folder's path for {}

    def arguments(self) -> list[str]:
        """The kind and its input."""
        source = self.source or ('--annotations', '{}/annotations.json', '--images', '{}/images')
        return [self.kind, *(each.format(case(self.name)) for each in source), *self.options]


def case(name: str) -> pathlib.Path:
    """The folder of a case; skips the test where it is missing."""
    folder = CASES / name
    if not folder.is_dir():
        pytest.skip(f'no folder {folder}')
    return folder


def validate(row: Row) -> Outcome:
    """What `mrcnn validate` says of a case."""
    return _run('validate', row.arguments(), None)


def convert(row: Row, output: pathlib.Path) -> Outcome:
    """What `mrcnn convert` makes of a case, in a folder of its own: OUTPUT/train.json."""
    return _run('convert', [*row.arguments(), '--output', str(output)], output / 'train.json')


def _run(verb: str, arguments: list[str], path: pathlib.Path | None) -> Outcome:
    result = CliRunner(env={'COLUMNS': '400'}).invoke(main.app, [verb, *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    written = path is not None and path.exists()
    return Outcome(result.exit_code, re.sub(r'[\s\u2500-\u257f]+', ' ', result.stdout), result.stderr,
                   Manifest.read(path) if path is not None and written else None)


_FORM = 'id in another form'
_NAMES = {'file found under another name': 3}
_VOC = ('--root', '{0}', '--classes', '{0}/classes.txt')
_LISTED = {'list names a file in place of an id': 3}
ROWS = [
    Row('voc-flat-folder', Counts(3, 0, 5, 0), kind='voc', source=_VOC),
    Row('voc-flat-folder', None, kind='voc', source=_VOC, options=('--split', 'train'), says=(
        "no list 'train', as there is no directory ImageSets with lists; leave --split out to read all 3 xml files",)),
    Row('voc-list-of-paths', Counts(3, 0, 5, 0), _LISTED, kind='voc', source=_VOC, options=('--split', 'train'), says=(
        "'data/JPEGImages/im0.jpg' is read as 'im0'",)),
    Row('voc-list-with-suffix', Counts(3, 0, 5, 0), _LISTED, kind='voc', source=_VOC, options=('--split', 'train'),
        says=("'im0.jpg' is read as 'im0'",)),
    Row('voc-own-classes', None, kind='voc', source=('--root', '{}', '--split', 'train'), says=(
        "most objects have none of VOC's 20 classes, but 'cell' (5): write these names to a file, one per line, and "
        'give it as --classes',)),
    Row('voc-own-classes', Counts(3, 0, 5, 0), kind='voc', source=_VOC, options=('--split', 'train')),
    Row('backslash-names', Counts(3, 0, 5, 0), _NAMES,
        says=("'images\\img_001.png' is 'img_001.png': it has Windows separators",)),
    Row('percent-names', Counts(3, 0, 5, 0), _NAMES,
        says=("'my%20photo%200.png' is 'my photo 0.png': it is percent-encoded",)),
    Row('url-names', Counts(3, 0, 5, 0), _NAMES, says=("sig=0000' is 'img_001.png': it is a URL",)),
    Row('wrong-suffix-names', Counts(3, 0, 5, 0), _NAMES,
        says=("'img_001.jpg' is 'img_001.png': it has another suffix",)),
    Row('images-in-subfolder', Counts(3, 0, 5, 0), _NAMES,
        says=("'img_001.png' is 'Train/Data/img_001.png': it is in another folder",)),
    Row('corners-in-bbox', None, says=(
        '3 of 5 boxes end beyond the image; they look like x1, y1, x2, y2: give --box-format xyxy, or',)),
    Row('corners-in-bbox', Counts(3, 0, 5, 0), options=('--box-format', 'xyxy')),
    Row('normalised-boxes', None, says=(
        '5 of 5 boxes lie within 0..1; they look like fractions of the image: x, y, width, height: give --box-format '
        'normalized-xywh, or',)),
    Row('normalised-boxes', Counts(3, 0, 5, 0), options=('--box-format', 'normalized-xywh')),
    Row('rotated-boxes', Counts(3, 0, 5, 0), {'rotated box': 5, 'box clipped': 1}, says=(
        'bbox is [8, 10, 20, 16], rotated by 33 degrees: the upright box around it is used',)),
    Row('rotated-boxes-five', Counts(3, 1, 3, 0), {'box with an angle of 0': 3}, {'rotated box': 2}, says=(
        'bbox is [20, 34, 25, 22, 30.0]: its fifth number may be an angle or a score',)),
    Row('zero-bbox-good-polygon', Counts(3, 0, 5, 0), {'box computed': 5}),
    Row('flat-polygon', Counts(3, 0, 5, 0), {'segmentation in another form': 5}),
    Row('rle-in-list', Counts(3, 0, 5, 0), {'segmentation in another form': 5}),
    Row('rle-odd-forms', Counts(3, 0, 5, 0), {'segmentation in another form': 3}),
    Row('masks-on-some', Counts(6, 0, 10, 0, 5), kept={'object without a mask': 5}, says=(
        '5 of 10 objects have a box and no mask: they have box losses and no mask loss in training',)),
    Row('masks-on-some', Counts(6, 0, 10, 0), options=('--boxes',)),
    Row('text-image-ids', Counts(3, 0, 5, 0), {_FORM: 3}, says=("image_id '1' of 2 annotations is image 1",)),
    Row('text-category-ids', Counts(3, 0, 5, 0), {_FORM: 2}, says=("category_id '1' of 3 annotations is category 1",)),
    Row('annotations-as-object', Counts(3, 0, 5, 0), {'object instead of a list': 1},
        says=('annotations is an object of 5 values, whose keys are their ids',)),
    Row('file-listed-twice', Counts(3, 0, 5, 0), kept={'file of several images': 1},
        says=("'img_001.png' is the file of the images 1 and 2; in each, the objects of the others are background",)),
    Row('root-category', Counts(3, 0, 5, 0), kept={'supercategory in the list': 1},
        says=("category 0 'cells-aBcD' has no object and is the supercategory of all others; --drop-unused-",)),
    Row('root-category', Counts(3, 0, 5, 0), dropped={'category left out': 1}, options=('--drop-unused-categories',),
        says=("category 0 'cells-aBcD': no object",)),
    Row('annotations-of-other-split', None,
        says=('annotations.json: 4 of 5 objects are lost (4 annotation for a missing image); are they the annotations '
              'of other images, such as another split?', 'image_id 501 is not in the list); give --allow-loss to')),
    Row('annotations-of-other-split', Counts(3, 2, 1, 0), dropped={'annotation for a missing image': 4},
        kept={'category without objects': 1}, says=('4 of 5 objects are lost',), options=('--allow-loss',)),
    Row('all-crowd', Counts(3, 0, 5, 5), says=('all 5 objects are crowds, so none is a positive',)),
    Row('no-annotations', Counts(3, 3, 0, 0), says=('the set has no objects: it can serve as a test set and cannot',)),
    Row('resized-without-size', None,
        says=('4 of 5 objects reach beyond their image; were the images resized after they were annotated?',)),
    Row('width-height-exchanged', None, says=(
        'img_001.png: height 48, width 64; the annotations say height 64, width 48: exchanged', 'remove "width"')),
]


def name(row: Row) -> str:
    return ' '.join((row.name, *row.options))


def errors(outcome: Outcome) -> list[str]:
    """Return the lines on stderr that are no progress."""
    return [line for line in outcome.error.splitlines() if not PROGRESS.fullmatch(line)]


@pytest.mark.parametrize('row', [row for row in ROWS if row.counts is None], ids=name)
def test_a_case_that_is_refused(row: Row, tmp_path: pathlib.Path) -> None:
    for outcome in (validate(row), converted := convert(row, tmp_path)):
        assert outcome.exit_code == 1 and len(errors(outcome)) == 1, outcome.error
        assert all(each in outcome.error for each in row.says), outcome.error
    assert converted.manifest is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize('row', [row for row in ROWS if row.counts is not None], ids=name)
def test_a_case_that_is_converted(row: Row, tmp_path: pathlib.Path) -> None:
    for outcome in (validate(row), converted := convert(row, tmp_path)):
        assert (outcome.exit_code, errors(outcome)) == (0, [])
        assert all(each in outcome.output for each in row.says), outcome.output
    assert converted.manifest is not None and converted.manifest.counts == row.counts
    for action in ('repaired', 'dropped', 'kept'):
        counts = {reason: len(issues) for reason, issues in getattr(converted.manifest, action).items()}
        assert (action, counts) == (action, getattr(row, action))


@pytest.mark.parametrize('row', [row for row in ROWS if row.counts == Counts(3, 0, 5, 0) and row.name in (
    'corners-in-bbox', 'normalised-boxes', 'zero-bbox-good-polygon', 'flat-polygon', 'rle-in-list', 'rle-odd-forms',
)], ids=lambda row: row.name)
def test_boxes_and_masks_of_a_case(row: Row, tmp_path: pathlib.Path) -> None:
    """All hold the same objects, whose masks fill their boxes; y1, x1, y2, x2."""
    expected = [[[10, 8, 26, 28], [30, 36, 54, 54]], [[5, 5, 25, 35]], [[34, 20, 56, 45], [4, 40, 20, 56]]]
    assert convert(row, tmp_path).exit_code == 0
    for truth, boxes in zip(ground_truth(tmp_path / 'train.json'), expected, strict=True):
        np.testing.assert_allclose(truth['boxes'], boxes, atol=1e-3)
        np.testing.assert_allclose(truth['area'], [(y2 - y1) * (x2 - x1) for y1, x1, y2, x2 in boxes], rtol=1e-3)
        for png, (y1, x1, y2, x2) in zip(truth.get('masks', ()), boxes, strict='masks' in truth):
            mask = np.array(Image.open(io.BytesIO(png)))
            assert mask[y1:y2, x1:x2].all() and mask.sum() == (y2 - y1) * (x2 - x1)


def test_the_upright_box_around_a_rotated_one(tmp_path: pathlib.Path) -> None:
    """20 x 16 px around 18, 18, by 33 degrees (cosine 0.83867, sine 0.54464): half of 20 * 0.83867 + 16 * 0.54464 wide
    and half of 20 * 0.54464 + 16 * 0.83867 high."""
    convert(Row('rotated-boxes', None), tmp_path)
    first = next(ground_truth(tmp_path / 'train.json'))['boxes'][0]
    np.testing.assert_allclose(first, [18 - 12.15575, 18 - 12.74382, 18 + 12.15575, 18 + 12.74382], atol=1e-3)
