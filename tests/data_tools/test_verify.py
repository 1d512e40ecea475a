"""Verification of a set: a valid one passes, and each kind of damage is named with its shard and record."""
from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools import verify
from data_tools.formats import coco, shapes
from data_tools.issues import InvalidDataError
from data_tools.sharding import writer
from data_tools.totals import Totals
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, ManifestError, Shard, Source
from tests.cli.runner import mrcnn

SHARDS = [f'train-0000{k}-of-00003.tfrecord' for k in range(3)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Nine drawn pictures in three shards."""
    directory = tmp_path_factory.mktemp('whole')
    drawn = shapes.draw(directory, 9, 0, (40, 48))
    coco.convert(drawn.annotations, drawn.images, directory / 'out', options=writer.Options(images_per_shard=3))
    return directory / 'out'


@pytest.fixture()
def folder(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(whole, tmp_path / 'out'))


def lines(folder: pathlib.Path, sample: int = 0) -> list[str]:
    return [problem.line() for problem in verify.verify(folder / 'train.json', sample).findings.problems]


def test_a_whole_set(whole: pathlib.Path) -> None:
    manifest = Manifest.read(whole / 'train.json')
    report = verify.verify(whole / 'train.json', 0)
    totals = Totals(manifest.counts, manifest.max_objects_per_image)
    assert report.findings == verify.Findings(totals, 9, manifest.counts.objects)
    assert report.text() == (
        f'{whole}/train.json: 3 shards, 9 records and {manifest.counts.objects} objects read, 9 images and '
        f'{manifest.counts.objects} masks decoded: all is as the manifest says')


@pytest.mark.parametrize(('sample', 'decoded'), [(1, 1), (4, 4), (9, 9), (200, 9), (0, 9)])
def test_a_sample_is_spread_and_of_its_size(whole: pathlib.Path, sample: int, decoded: int) -> None:
    assert verify.verify(whole / 'train.json', sample).findings.images_decoded == decoded


def test_the_sample_is_even() -> None:
    expected = verify.Expected([], False, False, 4, 10)
    assert [i for i in range(10) if expected.decodes(i)] == [2, 4, 7, 9]      # (i + 1) * 4 // 10 grows there


def test_several_processes_give_the_same_report(folder: pathlib.Path) -> None:
    flip(folder / SHARDS[0], 5000)
    flip(folder / SHARDS[2], 40)
    one, two = (verify.verify(folder / 'train.json', 3, workers) for workers in (1, 2))
    assert one == two and len(one.findings.problems) == 2


def flip(path: pathlib.Path, at: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def starts(path: pathlib.Path) -> list[int]:
    sizes = [len(each) + 16 for each in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.integers(0, 2), st.integers(0, 10 ** 9), st.integers(0, 7))
def test_any_flipped_bit_is_named_with_its_shard_and_record(
        whole: pathlib.Path, tmp_path: pathlib.Path, shard: int, at: int, bit: int) -> None:
    folder = tmp_path / 'flipped'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = folder / SHARDS[shard]
    at %= path.stat().st_size
    edges = starts(path)
    record = max(i for i, start in enumerate(edges) if start <= at)
    flip(path, at, 1 << bit)
    [line] = lines(folder, 1)
    assert line.startswith(f'{SHARDS[shard]}: record {record} (at byte {edges[record]}): ')


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.integers(0, 10 ** 9))
def test_a_shard_that_is_cut_anywhere_is_named(whole: pathlib.Path, tmp_path: pathlib.Path, length: int) -> None:
    folder = tmp_path / 'cut'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    path = folder / SHARDS[1]
    edges = starts(path)
    length %= edges[-1]
    path.write_bytes(path.read_bytes()[:length])
    [line, *others] = lines(folder, 1)
    record = max(i for i, start in enumerate(edges) if start <= length)
    if length in edges:
        assert line == f'{SHARDS[1]}: it has bytes: {length}, the manifest says {edges[-1]}'
        assert others[0] == f'{SHARDS[1]}: it has records: {record}, the manifest says 3'
    else:
        assert line.startswith(f'{SHARDS[1]}: record {record} (at byte {edges[record]}): cut off after ')
        assert others == []


def test_a_shard_of_another_run_has_another_checksum(folder: pathlib.Path) -> None:
    # Each alone is sound.
    first, second = (folder / name for name in SHARDS[:2])
    first.write_bytes(second.read_bytes())
    assert any(line.startswith(f'{SHARDS[0]}: it has sha256 ') for line in lines(folder))


def test_a_missing_shard(folder: pathlib.Path) -> None:
    (folder / SHARDS[1]).unlink()
    assert lines(folder) == [f'{SHARDS[1]}: No such file or directory']


def test_a_manifest_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ManifestError, match='no such file'):
        verify.verify(tmp_path / 'train.json')


@pytest.mark.parametrize(('name', 'value', 'line'), [
    ('counts', {'objects': 1}, 'the manifest says objects 1, the records hold '),
    ('counts', {'crowds': 5}, 'the manifest says crowds 5, the records hold 0'),
    ('max_objects_per_image', 77, 'the manifest says max_objects_per_image 77, the records hold '),
])
def test_totals_that_differ_from_the_manifest(folder: pathlib.Path, name: str, value: Any, line: str) -> None:
    path = folder / 'train.json'
    data = json.loads(path.read_text())
    data[name] = {**data[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(data))
    [problem] = lines(folder)
    assert problem.startswith(line)


def png(values: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(stream, 'PNG')
    return stream.getvalue()


PICTURE = png(np.zeros([8, 9, 3], np.uint8))
MASK = np.ones([8, 9], np.uint8)
OBJECT = records.ObjectAnnotation((1, 2, 3, 4), 1, 'cell', 4.0, False, 7, png(MASK))
EXAMPLE = records.Annotated(PICTURE, 'png', 'a.png', '5', 5, 8, 9, [OBJECT], 3, 'uint8')
BOXES = records.Proposals(np.array([[0, 0, 8, 9]], np.float32), np.array([1], np.float32))


def with_object(**changes: Any) -> records.Annotated:
    return dataclasses.replace(EXAMPLE, objects=[dataclasses.replace(OBJECT, **changes)])


def written(directory: pathlib.Path, example: records.Annotated, serialized: bytes | None = None,
            **manifest: Any) -> pathlib.Path:
    """A set of one record whose checksums and sizes are right, whatever it holds."""
    data = records.encode(example) if serialized is None else serialized
    with tf.io.TFRecordWriter(str(directory / 'a.tfrecord')) as stream:
        stream.write(data)
    file = (directory / 'a.tfrecord').read_bytes()
    Manifest(**{
        'name': 'a', 'categories': [Category(1, 1, 'cell'), Category(2, 2, 'dog')],
        'counts': Counts(1, 0, 1, 0), 'max_objects_per_image': 1, 'dropped': {}, 'repaired': {},
        'shards': [Shard('a.tfrecord', 1, len(file), hashlib.sha256(file).hexdigest())],
        'has_masks': True, 'source': Source('coco', '', ''), **manifest}).write(directory / 'a.json')
    return directory / 'a.json'


NAN, INFINITE = float('nan'), float('inf')


@pytest.mark.parametrize(('example', 'detail'), [
    (EXAMPLE, None),
    (with_object(name=''), None),
    (with_object(label=3), 'annotation 7 has label 3, expected 1 to 2'),
    (with_object(label=2), "annotation 7 is a 'cell', its label 2 a 'dog'"),
    (with_object(box=(1, 2, NAN, 4)), 'annotation 7 has the box [1.0, 2.0, nan, 4.0], which is not finite'),
    (with_object(box=(1, 2, 9, 4)), 'annotation 7 has the box [1.0, 2.0, 9.0, 4.0], which is not within 8 x 9 px'),
    (with_object(box=(-1, 2, 3, 4)), 'annotation 7 has the box [-1.0, 2.0, 3.0, 4.0], which is not within 8 x 9 px'),
    (with_object(box=(3, 2, 3, 4)), 'annotation 7 has the box [3.0, 2.0, 3.0, 4.0], which is not within 8 x 9 px'),
    (with_object(area=INFINITE), 'annotation 7 has the area inf'),
    (with_object(mask=None), 'annotation 7 has no mask, the manifest says otherwise'),
    (with_object(mask=png(MASK[1:])), 'the mask of annotation 7 is uint8 [7, 9], expected uint8 [8, 9]'),
    (with_object(mask=png(MASK * 255)), 'the mask of annotation 7 has other values than 0 and 1'),
    (with_object(mask=png(MASK * 0)), 'the mask of annotation 7 has no pixel'),
    (with_object(mask=png(MASK), has_mask=False),
     'the mask of annotation 7 has pixels, although the record says that the object has no mask'),
    (with_object(mask=png(MASK)[:40]), 'the mask of annotation 7 cannot be decoded: '),
    (dataclasses.replace(EXAMPLE, encoded=PICTURE[:-20]), 'corrupt image: a.png: '),
    (dataclasses.replace(EXAMPLE, height=9, objects=[dataclasses.replace(OBJECT, mask=png(np.ones([9, 9], np.uint8)))]),
     'height of the image is 8, the record says 9'),
    (dataclasses.replace(EXAMPLE, channels=1), 'channels of the image is 3, the record says 1'),
    (dataclasses.replace(EXAMPLE, dtype='uint16'), 'dtype of the image is uint8, the record says uint16'),
    (dataclasses.replace(EXAMPLE, proposals=BOXES), 'it has proposals, the manifest says otherwise'),
], ids=lambda value: (value or 'valid') if isinstance(value, str | None) else 'record')
def test_wrong_values_of_a_record(tmp_path: pathlib.Path, example: records.Annotated, detail: str | None) -> None:
    lines = [problem.line() for problem in verify.verify(written(tmp_path, example)).findings.problems]
    place = 'a.tfrecord: record 0 (at byte 0): image 5: '
    assert len(lines) == (detail is not None)
    assert all(line.startswith(f'{place}{detail}') for line in lines)


def test_an_object_with_a_box_only(tmp_path: pathlib.Path) -> None:
    """Its mask is empty and not counted as decoded; the manifest has to count it."""
    bare = with_object(mask=png(MASK * 0), has_mask=False)
    findings = verify.verify(written(tmp_path, bare, counts=Counts(1, 0, 1, 0, 1))).findings
    assert (findings.problems, findings.masks_decoded) == ([], 0)
    [problem] = verify.verify(written(tmp_path, bare)).findings.problems
    assert 'objects_without_mask' in problem.detail


@pytest.mark.parametrize(('proposals', 'detail'), [
    (BOXES, None), (None, 'it has no proposals, the manifest says otherwise'),
    (records.Proposals(np.array([[0, 0, 8, 10]], np.float32), BOXES.scores),
     'proposal 0 is [0.0, 0.0, 8.0, 10.0], which is not within 8 x 9 px'),
    (records.Proposals(BOXES.boxes, np.array([NAN], np.float32)), 'a score of its proposals is not finite'),
])
def test_proposals(tmp_path: pathlib.Path, proposals: records.Proposals | None, detail: str | None) -> None:
    path = written(tmp_path, dataclasses.replace(EXAMPLE, proposals=proposals), has_proposals=True,
                   max_proposals_per_image=1)
    lines = [problem.line() for problem in verify.verify(path).findings.problems]
    assert lines == ([] if detail is None else [f'a.tfrecord: record 0 (at byte 0): image 5: {detail}'])


@pytest.mark.parametrize(('serialized', 'detail'), [
    (b'no example', 'not an Example'), (b'', 'image/encoded holds 0 values, expected one; convert the data again')])
def test_bytes_that_are_no_record(tmp_path: pathlib.Path, serialized: bytes, detail: str) -> None:
    [line] = [problem.line() for problem in verify.verify(written(tmp_path, EXAMPLE, serialized)).findings.problems]
    assert line.startswith(f'a.tfrecord: record 0 (at byte 0): {detail}')


def test_images_outside_the_sample_are_not_decoded(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes, name: str, max_pixels: int) -> Any:
        raise InvalidDataError('corrupt image', name)

    monkeypatch.setattr('data_tools.images.check', refuse)
    # Of 9 the last of each third: the third of each shard.
    assert [problem.record for problem in verify.verify(folder / 'train.json', 3).findings.problems] == [2, 2, 2]


def test_the_command(folder: pathlib.Path) -> None:
    good = mrcnn('verify', folder / 'train.json')
    assert good.exit_code == 0 and good.stdout.endswith('all is as the manifest says\n')
    assert 'train: 9 of 9 records' in good.stderr
    flip(folder / SHARDS[1], 20)
    bad = mrcnn('verify', folder / 'train.json', '--sample', 0)
    first, last = bad.stdout.splitlines()
    assert bad.exit_code == 1 and first == f'{SHARDS[1]}: record 0 (at byte 0): its checksum is wrong'
    assert last.endswith(': 1 problems; copy or convert again what is named above')
    report = json.loads(mrcnn('verify', folder / 'train.json', '--json').stdout)
    assert (report['format'], report['shards'], report['counts']['images']) == ('mrcnn_tf verification', 3, 8)
    assert report['problems'] == [{'shard': SHARDS[1], 'record': 0, 'byte': 0, 'detail': 'its checksum is wrong'}]


def test_nuclei(tmp_path: pathlib.Path, nuclei_dir: pathlib.Path) -> None:
    path = nuclei_dir / 'annotations' / 'instances_val.json'
    manifest = coco.convert(path, nuclei_dir / 'images', tmp_path, 'val')
    findings = verify.verify(tmp_path / 'val.json', 20).findings
    assert (findings.totals.counts, findings.problems, findings.images_decoded) == (manifest.counts, [], 20)
