"""Annotations as other tools write them, `../shared/cases`: each is read, or refused with its cause.

A row of ROWS is what `mrcnn validate` and `mrcnn convert` make of one folder; both must agree. What else is to be
tested of a case, such as values in the records, uses `convert` below.
"""
from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass, field

import pytest
from typer.testing import CliRunner

from mrcnn_tf import cli
from mrcnn_tf.input.manifest import Counts, Manifest

CASES = pathlib.Path(__file__).resolve().parents[3] / 'shared' / 'cases'


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
    source: tuple[str, ...] = ()                                  # options of the kind; the folder's name for {}

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
    result = CliRunner(env={'COLUMNS': '400'}).invoke(cli.app, [verb, *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    written = path is not None and path.exists()
    return Outcome(result.exit_code, re.sub(r'[\s\u2500-\u257f]+', ' ', result.stdout), result.stderr,
                   Manifest.read(path) if path is not None and written else None)


_NAMES = {'file found under another name': 3}
ROWS = [
    Row('backslash-names', Counts(3, 0, 5, 0), _NAMES,
        says=("'images\\img_001.png' is 'img_001.png': it has Windows separators",)),
    Row('percent-names', Counts(3, 0, 5, 0), _NAMES,
        says=("'my%20photo%200.png' is 'my photo 0.png': it is percent-encoded",)),
    Row('url-names', Counts(3, 0, 5, 0), _NAMES, says=("sig=0000' is 'img_001.png': it is a URL",)),
    Row('wrong-suffix-names', Counts(3, 0, 5, 0), _NAMES,
        says=("'img_001.jpg' is 'img_001.png': it has another suffix",)),
    Row('images-in-subfolder', Counts(3, 0, 5, 0), _NAMES,
        says=("'img_001.png' is 'Train/Data/img_001.png': it is in another folder",)),
]


@pytest.mark.parametrize('row', ROWS, ids=lambda row: ' '.join((row.name, *row.options)))
def test_case(row: Row, tmp_path: pathlib.Path) -> None:
    validated, converted = validate(row), convert(row, tmp_path)
    for outcome in (validated, converted):
        assert outcome.exit_code == int(row.counts is None), outcome.error
        for each in row.says:
            assert each in (outcome.error if row.counts is None else outcome.output)
        assert outcome.error.count('\n') == int(row.counts is None), outcome.error      # one line
    if row.counts is None:
        assert converted.manifest is None and not list(tmp_path.iterdir())
        return
    assert converted.manifest is not None and converted.manifest.counts == row.counts
    for action in ('repaired', 'dropped', 'kept'):
        found = {reason: len(incidents) for reason, incidents in getattr(converted.manifest, action).items()}
        assert (action, found) == (action, getattr(row, action))
