"""Preparation of a folder: converted once, again when it changes, and split where it has no validation part."""
from __future__ import annotations

import pathlib
import shutil

import pytest

from data_tools.examples import Rules
from data_tools.issues import ConversionError
from data_tools.prepare import Options, prepare
from mrcnn_tf.input.manifest import Manifest
from tests.data_tools.test_folders import EXPORTS

OPTIONS = Options(.5, rules=Rules(allow_loss=True))


def test_a_folder_is_converted_once(tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    shutil.copytree(EXPORTS / 'roboflow', tmp_path / 'mine')
    first = prepare(tmp_path / 'mine', tmp_path / 'data', OPTIONS, said.append)
    assert first.train == tmp_path / 'data' / 'train.json' and first.validation == tmp_path / 'data' / 'val.json'
    assert [Manifest.read(path).counts.images for path in (first.train, first.validation)] == [1, 1]
    assert sorted(path.name for path in (tmp_path / 'data').glob('*.json')) == ['folder.json', 'train.json', 'val.json']
    assert not list((tmp_path / 'data').glob('all*'))
    times = first.train.stat().st_mtime_ns
    assert prepare(tmp_path / 'mine', tmp_path / 'data', OPTIONS, said.append) == first
    assert 'has not changed' in said[-1] and first.train.stat().st_mtime_ns == times
    annotations = tmp_path / 'mine' / 'train' / '_annotations.coco.json'
    annotations.write_text(annotations.read_text() + ' ')
    prepare(tmp_path / 'mine', tmp_path / 'data', Options(0, rules=OPTIONS.rules), said.append)
    assert any('converted again' in line for line in said)
    assert Manifest.read(first.train).counts.images == 2 and not first.validation.exists()


def test_another_folder_does_not_replace_a_set(tmp_path: pathlib.Path) -> None:
    for name in ('one', 'two'):
        shutil.copytree(EXPORTS / 'labelimg', tmp_path / name)
    prepare(tmp_path / 'one', tmp_path / 'data', OPTIONS)
    with pytest.raises(ConversionError, match='data holds the converted images of .*one; give another --data-dir'):
        prepare(tmp_path / 'two', tmp_path / 'data', OPTIONS)
