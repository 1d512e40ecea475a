"""Shards and manifest: complete or not there at all, and the same for any limits and number of processes."""
from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow as tf
from rich.console import Console

from data_tools.issues import ConversionError, Issue, IssueLog
from data_tools.sharding import writer
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, IssueEntry, Manifest, Shard, Source


@dataclass(frozen=True)
class Item:
    number: int
    bytes: int = 100


def make(item: Item) -> tuple[records.Annotated | None, IssueLog]:
    """Image i has i objects, the first of them a crowd; every fifth image is dropped."""
    log = IssueLog()
    if item.number % 5 == 4:
        log.drop(Issue('corrupt image', f'{item.number}.png'), item.number)
        return None, log
    objects = [records.ObjectAnnotation((0, 0, 1, 1), 1, 'cell', 1.0, k == 0, k) for k in range(item.number)]
    if objects:
        log.repair(Issue('box clipped', 'by 1 px'), item.number, 0)
    return records.Annotated(b'x' * 1000, 'png', f'{item.number}.png', 'id', item.number, 8, 8, objects), log


def failing(error: Exception, item: Item) -> tuple[records.Annotated | None, IssueLog]:
    if item.number == 3:
        raise error
    return make(item)


def dying(item: Item) -> tuple[records.Annotated | None, IssueLog]:
    os._exit(9)


def head(name: str = 'train') -> Manifest:
    return Manifest(name, [Category(1, 1, 'cell')], Counts(), 0,
                            {'category not in the list': [IssueEntry(0, 7, '9')]}, {}, [], False,
                            Source('coco', 'a.json', 'images'))


def items(count: int) -> list[Item]:
    return [Item(i) for i in range(count)]


def content(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b'' for path in directory.iterdir()}


@pytest.mark.parametrize('count, size, options, expected', [
    (0, 100, writer.Options(), []),
    (1, 100, writer.Options(), [range(0, 1)]),
    (1000, 100, writer.Options(), [range(0, 1000)]),
    (1001, 100, writer.Options(), [range(0, 500), range(500, 1001)]),
    (10, 100, writer.Options(images_per_shard=4), [range(0, 3), range(3, 6), range(6, 10)]),
    (10, 100, writer.Options(bytes_per_shard=500), [range(0, 5), range(5, 10)]),    # 1000 bytes
    (3, 100, writer.Options(bytes_per_shard=10), [range(0, 1), range(1, 2), range(2, 3)]),
    (2, 0, writer.Options(), [range(0, 2)]),
])
def test_plan(count: int, size: int, options: writer.Options, expected: list[range]) -> None:
    assert writer.plan([size] * count, options) == expected


def test_shards_and_manifest(tmp_path: pathlib.Path) -> None:
    manifest = writer.write(items(7), make, head(), tmp_path / 'out', writer.Options(images_per_shard=3))
    out = tmp_path / 'out'
    names = [f'train-0000{k}-of-00003.tfrecord' for k in range(3)]
    assert sorted(path.name for path in out.iterdir()) == [*names, 'train.json']
    assert manifest == Manifest.read(out / 'train.json')
    # Images 0, 1 | 2, 3 | 5, 6: number 4 is dropped; 0 has no object.
    assert manifest.counts == Counts(images=6, images_without_objects=1, objects=17, crowds=5)
    assert manifest.max_objects_per_image == 6
    assert manifest.dropped == {'category not in the list': [IssueEntry(0, 7, '9')],
                                'corrupt image': [IssueEntry(4, None, '4.png')]}
    assert [issue.image_id for issue in manifest.repaired['box clipped']] == [1, 2, 3, 5, 6]
    for shard, name, ids in zip(manifest.shards, names, ([0, 1], [2, 3], [5, 6]), strict=True):
        data = (out / name).read_bytes()
        assert shard == Shard(name, len(ids), len(data), hashlib.sha256(data).hexdigest())
        stored = [int(records.parse(each, False)['image_id']) for each in tf.data.TFRecordDataset(str(out / name))]
        assert stored == ids


def test_same_bytes_from_one_process_and_from_two(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for workers in (1, 2):
        options = writer.Options(images_per_shard=3, workers=workers)
        writer.write(items(7), make, head(), tmp_path / str(workers), options)
        assert capsys.readouterr().out.count('train: 7 of 7 images') == 1
    assert content(tmp_path / '1') == content(tmp_path / '2')
    assert len(content(tmp_path / '1')) == 4


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.lists(st.integers(0, 7), min_size=1, max_size=20).filter(lambda numbers: not {*numbers} <= {0, 4}),
                  st.integers(1, 8), st.integers(50, 3000), st.integers(2, 4))
def test_any_limits_and_any_number_of_processes_give_the_same(
        tmp_path: pathlib.Path, numbers: list[int], images: int, size: int, workers: int) -> None:
    results = []
    for i, options in enumerate((writer.Options(), writer.Options(images, size),
                                 writer.Options(images, size, workers))):
        output = tmp_path / str(i)
        shutil.rmtree(output, ignore_errors=True)
        manifest = writer.write([Item(number) for number in numbers], make, head(), output, options)
        paths = manifest.shard_paths(output / 'train.json')
        results.append((dataclasses.replace(manifest, shards=[]), [
            bytes(each) for each in tf.data.TFRecordDataset(paths).as_numpy_iterator()]))
    assert results[0] == results[1] == results[2]
    assert content(tmp_path / '1') == content(tmp_path / '2')


def test_only_an_older_set_of_the_name_is_replaced(tmp_path: pathlib.Path) -> None:
    writer.write(items(7), make, head(), tmp_path, writer.Options(images_per_shard=3))
    other = 'train-crops-00000-of-00001.tfrecord'
    (tmp_path / other).write_bytes(b'')
    writer.write(items(3), make, head('val'), tmp_path)
    writer.write(items(7), make, head(), tmp_path, writer.Options(images_per_shard=4))
    assert sorted(content(tmp_path)) == [
        'train-00000-of-00002.tfrecord', 'train-00001-of-00002.tfrecord', other, 'train.json',
        'val-00000-of-00001.tfrecord', 'val.json']


@pytest.fixture()
def file_limit() -> Iterator[int]:
    """Files larger than this cannot be written: the kernel refuses, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_disk_refuses_leaves_nothing(tmp_path: pathlib.Path, file_limit: int) -> None:
    many = [Item(number) for _ in range(file_limit // 1000) for number in (0, 1)]     # of over 1000 bytes each
    message = (f'{tmp_path}/out: File too large; free some space there and run the same command again: it '
               'continues after the complete shards')
    with pytest.raises(OSError, match=f'^{message}$'):
        writer.write(many, make, head(), tmp_path / 'out')
    assert not list(tmp_path.iterdir())


def test_after_a_full_disk_the_same_command_continues(
        tmp_path: pathlib.Path, file_limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> Manifest:
        return writer.write(small + large, make, head(), tmp_path, writer.Options(images_per_shard=30))

    small, large = [Item(1)] + [Item(0)] * 9 + [Item(4)] * 20, [Item(0)] * 30     # of 4 nothing is written
    with pytest.raises(OSError, match='File too large'):
        run()
    assert list(content(tmp_path)) == ['.train.partial']
    assert sorted(content(tmp_path / '.train.partial')) == ['00000.json', '00000.tfrecord', 'journal.json']
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    capsys.readouterr()
    assert run().counts.images == 40
    assert capsys.readouterr().out.startswith('train: resumes: 1 of 2 shards are complete\ntrain: 60 of 60 images')


def test_an_older_set_survives_a_run_that_fails(tmp_path: pathlib.Path) -> None:
    writer.write(items(3), make, head(), tmp_path)
    before = content(tmp_path)
    with pytest.raises(OSError, match='gone'):
        writer.write(items(7), functools.partial(failing, OSError('gone')), head(), tmp_path)
    assert content(tmp_path) == before


def test_free_space_is_checked_beforehand(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr('shutil.disk_usage', lambda path: usage._replace(free=2 * 2 ** 20))
    with pytest.raises(OSError, match=f'^{tmp_path}: about 3 MiB are needed and 2 are free; free some'):
        writer.write([Item(1, 3 * 2 ** 20)], make, head(), tmp_path)
    assert content(tmp_path) == {}
    writer.write([Item(1, 2 ** 20)], make, head(), tmp_path)


def test_failures_of_a_worker_reach_the_caller(tmp_path: pathlib.Path) -> None:
    options = writer.Options(images_per_shard=2, workers=2)
    with pytest.raises(OSError, match='gone'):
        writer.write(items(5), functools.partial(failing, OSError('gone')), head(), tmp_path, options)
    assert not [name for name in content(tmp_path) if not name.startswith('.')]


def test_a_worker_that_dies_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match=f'^{tmp_path}: a worker process died.*fewer workers: it continues'):
        writer.write(items(4), dying, head(), tmp_path, writer.Options(images_per_shard=2, workers=2))
    assert content(tmp_path) == {}


@pytest.mark.parametrize('numbers, message', [
    ([], r'no image is left to write \(1 category not in the list\); is .* \(the first: image 0, annotation 7: 9\)'),
    ([4, 9], r'no image is left to write \(2 corrupt image, 1 category not in the list\); .* such as image 4: 4.png'),
    ([0], r'no object is left to write \(1 category not in the list\); is .* \(the first: image 0, annotation 7: 9\)'),
])
def test_a_set_of_which_nothing_is_left_is_an_error(tmp_path: pathlib.Path, numbers: list[int], message: str) -> None:
    with pytest.raises(ConversionError, match=f'^a.json: {message}'):
        writer.write([Item(number) for number in numbers], make, head(), tmp_path)
    assert content(tmp_path) == {}


@pytest.mark.parametrize('name', ['', '.train', 'a/b', '../train', 'a b', 'é'])
def test_a_name_that_makes_no_file_name(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(ConversionError, match='use letters, digits'):
        writer.write(items(1), make, head(name), tmp_path)


def test_an_output_that_is_a_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'out').write_text('')
    with pytest.raises(ConversionError, match='out is a file; give a directory as output'):
        writer.write(items(1), make, head(), tmp_path / 'out')


def test_a_bar_with_rate_on_a_terminal(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('FORCE_COLOR', '1')
    monkeypatch.setenv('COLUMNS', '120')
    writer.write(items(3), make, head(), tmp_path)
    printed = capsys.readouterr().out
    assert '3/3' in printed and 'images/s' in printed


def test_lines_now_and_then_without_a_terminal(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 10.0, 30.0, 40.0, 50.0])      # the start, then after each image
    monkeypatch.setattr('time.monotonic', lambda: next(clock))
    writer.write([Item(1)] * 4, make, head(), tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        'train: 2 of 4 images, 0.07 images/s, 0:00:30 left', 'train: 4 of 4 images, 0.08 images/s']


def test_summary(tmp_path: pathlib.Path) -> None:
    stream = io.StringIO()
    writer.summarize(writer.write(items(7), make, head(), tmp_path), Console(file=stream, width=100))
    first, *table = stream.getvalue().splitlines()
    assert first == ('train: 6 images (1 without objects), 17 objects (5 crowds), at most 6 per image, 1 categories; '
                     '1 shards, 0.0 MiB')
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in table if '│' in line]
    assert rows == [['dropped', 'category not in the list', '1', 'image 0, annotation 7: 9'],
                    ['dropped', 'corrupt image', '1', 'image 4: 4.png'],
                    ['repaired', 'box clipped', '5', 'image 1, annotation 0: by 1 px']]


def test_a_long_path_is_complete_in_the_summary() -> None:
    path, stream = '/data/' + 'x' * 120 + '.jpg', io.StringIO()
    manifest = dataclasses.replace(head(), dropped={'missing image file': [IssueEntry(1, None, path)]})
    writer.summarize(manifest, Console(file=stream, width=80))
    cells = [line.split('│')[4].strip() for line in stream.getvalue().splitlines() if line.startswith('│')]
    assert ''.join(cells).replace(' ', '') == f'image1:{path}'
