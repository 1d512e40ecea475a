"""Exports of annotation tools, in `exports/`: what docs/annotation_tools.md says to run converts them.

Each holds the same scene, 48 x 32 px: on the first image a red rectangle, x 8 to 20 and y 6 to 16, and a green triangle
with corners at x, y (26, 8), (40, 10) and (36, 24); on the second the rectangle alone. The files of CVAT and of YOLO
(`coco`) were written by Datumaro, those of Label Studio and labelme by label-studio-sdk and labelme2coco; the others
have the form that the source of the tool, or examples of its exports, show.
"""
from __future__ import annotations

import io
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from typer.testing import CliRunner

from mrcnn_tf.cli import main
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Manifest
from tests.paths import ROOT

_EXPORTS = pathlib.Path(__file__).parent / 'exports'
_PAGE = ROOT / 'docs' / 'annotation_tools.md'
_COMMANDS = re.findall(r'^    (mrcnn convert .+)$', _PAGE.read_text(encoding='utf-8'), re.MULTILINE)
_RENAMED = {'file found under another name': 2}
RED, GREEN = [6, 8, 16, 20], [8, 26, 24, 40]      # y1, x1, y2, x2
# By the directory of the export: what is repaired; whether there are masks.
EXPORTS: dict[str, tuple[dict[str, int], bool]] = {
    'cvat': ({}, True), 'cvat_voc': ({}, False), 'label_studio': (_RENAMED, True), 'label_studio_voc': ({}, False),
    'roboflow': ({}, True), 'labelme2coco': (_RENAMED, True), 'via': ({}, True), 'labelimg': ({}, False),
    'makesense': ({}, True), 'coco': ({}, False)}


def command(export: str) -> str:
    """The one command of the page for an export."""
    [command] = [each for each in _COMMANDS if re.search(rf'--(annotations|root) {export}[/ ]', each)]
    return command


def test_each_command_has_an_export() -> None:
    assert len(_COMMANDS) == len(EXPORTS) and sorted(map(command, EXPORTS)) == sorted(_COMMANDS)


@pytest.mark.parametrize('export', EXPORTS)
def test_export(export: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(_EXPORTS, tmp_path / 'work')
    monkeypatch.chdir(tmp_path / 'work')
    result = CliRunner().invoke(main.app, shlex.split(command(export))[1:])
    assert result.exit_code == 0, result.output
    path = tmp_path / 'work' / 'data' / 'train.json'
    manifest, (repaired, masks) = Manifest.read(path), EXPORTS[export]
    assert manifest.dropped == {} and manifest.has_masks == masks
    assert {reason: len(each) for reason, each in manifest.repaired.items()} == repaired
    names = {category.label: category.name for category in manifest.categories}
    parsed = tf.data.TFRecordDataset(manifest.shard_paths(path)).map(lambda record: records.parse(record, masks))
    # Label Studio's VOC rounds down x and width, each by itself: 7.99.. is 7.
    tolerance = 1 if export == 'label_studio_voc' else 1e-4
    for record, expected in zip(parsed.as_numpy_iterator(), ({'red': RED, 'green': GREEN}, {'red': RED}), strict=True):
        boxes = dict(zip((names[label] for label in record['labels']), record['boxes'], strict=True))
        assert boxes.keys() == expected.keys()
        for name, box in expected.items():
            np.testing.assert_allclose(boxes[name], box, atol=tolerance)
        assert not record['crowd'].any()
        if masks:      # a rectangle of 12 x 10 pixels
            red = record['masks'][[names[label] for label in record['labels']].index('red')]
            assert np.asarray(Image.open(io.BytesIO(red))).sum() == 120
