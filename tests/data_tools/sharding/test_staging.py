"""Killed runs: before any step that touches the disk; the next run ends as an uninterrupted one."""
from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from data_tools.formats import coco, shapes
from data_tools.issues import Issue, IssueLog
from data_tools.sharding import forkserver, shards, staging, writer
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source


@dataclass(frozen=True)
class Item:
    number: int
    bytes: int = 100


def make(item: Item) -> tuple[records.Annotated | None, IssueLog]:
    """Image 3 is dropped, others have their number of objects, one of them repaired."""
    sys.audit('test.make', item.number)
    log = IssueLog()
    if item.number == 3:
        log.drop(Issue('corrupt image', '3.png'), 3)
        return None, log
    log.repair(Issue('box clipped', 'é'), item.number, 'text')
    objects = [records.ObjectAnnotation((0, 0, 1, 1), 1, 'cell', 1.0, False, k) for k in range(item.number)]
    return records.Annotated(b'x' * 100, 'png', 'a.png', 'id', item.number, 8, 8, objects), log


def write(output: pathlib.Path, count: int = 6, name: str = 'train', **options: Any) -> Manifest:
    head = Manifest(name, [Category(1, 1, 'cell')], Counts(), 0, {}, {}, [], False,
                            Source('coco', 'a.json', 'images'))
    return writer.write([Item(i) for i in range(count)], make, head, output,
                        writer.Options(**{'images_per_shard': 2, **options}))


def killed(output: pathlib.Path, at: int) -> None:
    """Writes, and dies by SIGKILL before the step `at`, counted from 0, of those that touch files or make a record."""
    steps = iter(range(at + 1))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _touches(event, arguments, str(output)) and next(steps) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    write(output)
    os._exit(0)


def _touches(event: str, arguments: tuple[Any, ...], output: str) -> bool:
    if event == 'test.make':
        return True
    watched = event in ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'fcntl.flock')
    return watched and (event == 'fcntl.flock' or str(arguments[0]).startswith(output))


def run_killed(output: pathlib.Path, at: int) -> bool:
    """Whether the process was killed before it came to its end."""
    process = forkserver.context().Process(target=killed, args=(output, at))
    process.start()
    process.join(60)
    assert process.exitcode in (-signal.SIGKILL, 0)
    return process.exitcode != 0


def content(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b'' for path in directory.iterdir()}


def visible(directory: pathlib.Path) -> dict[str, bytes]:
    return {name: data for name, data in content(directory).items() if not name.startswith('.')}


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    directory = tmp_path_factory.mktemp('whole')
    write(directory)
    return content(directory)


@pytest.mark.parametrize(('older', 'from_step'), [(5, 0), (12, 60)], ids=['older of as many shards', 'of more'])
def test_killed_before_any_step(tmp_path: pathlib.Path, whole: dict[str, bytes], older: int, from_step: int) -> None:
    write(tmp_path / 'older', older)
    before, phases = content(tmp_path / 'older'), set()
    # Every third step of writing, in which they are alike; all of publishing.
    for at in itertools.chain(range(from_step, 54, 3), itertools.count(max(from_step, 54))):
        output = tmp_path / str(at)
        shutil.copytree(tmp_path / 'older', output)
        died, left = run_killed(output, at), visible(output)
        # A manifest that stands is that of a set which is whole, the older or the new.
        assert left in (before, whole) or 'train.json' not in left, at
        write(output)
        assert content(output) == whole, at
        phases.add('writing' if left == before else 'published' if left == whole else 'publishing')
        if not died:
            break
    assert phases == {'writing', 'publishing', 'published'}


@hypothesis.settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.lists(st.integers(0, 60), min_size=2, max_size=4))
def test_killed_again_and_again(tmp_path: pathlib.Path, whole: dict[str, bytes], moments: list[int]) -> None:
    output = tmp_path / 'again'
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    for at in moments:
        run_killed(output, at)
    write(output)
    assert content(output) == whole


def interrupted(output: pathlib.Path, number: int = 4) -> None:
    """Leaves two whole shards of three: Ctrl-C at an image of the third."""
    def stop(event: str, arguments: tuple[Any, ...]) -> None:
        if active and (event, arguments) == ('test.make', (number,)):
            raise KeyboardInterrupt

    active = True
    sys.addaudithook(stop)      # there is no way to take it away
    try:
        with pytest.raises(KeyboardInterrupt):
            write(output)
    finally:
        active = False
    assert sorted(content(output / '.train.partial')) == [
        '00000.json', '00000.tfrecord', '00001.json', '00001.tfrecord', 'journal.json']


def test_complete_shards_are_not_written_again(
        tmp_path: pathlib.Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(tmp_path)
    assert visible(tmp_path) == {}
    kept = (tmp_path / '.train.partial' / '00001.tfrecord').stat().st_ino
    capsys.readouterr()
    write(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'train: resumes: 2 of 3 shards are complete' and lines[1].startswith('train: 6 of 6 images')
    assert content(tmp_path) == whole
    assert (tmp_path / 'train-00001-of-00003.tfrecord').stat().st_ino == kept


@pytest.mark.parametrize('damage', [b'', b'x' * 10, None])
def test_a_damaged_shard_is_written_again(
        tmp_path: pathlib.Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str],
        damage: bytes | None) -> None:
    interrupted(tmp_path)
    shard = tmp_path / '.train.partial' / '00001.tfrecord'
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    (tmp_path / '.train.partial' / '.12345678.00002.tfrecord').write_bytes(b'half')
    capsys.readouterr()
    write(tmp_path)
    assert capsys.readouterr().out.startswith('train: resumes: 1 of 3 shards')
    assert content(tmp_path) == whole


@pytest.mark.parametrize('journal', ['', '[]', '{"version": 0}', '{"version": 1, "fingerprint": 3}'])
def test_an_invalid_journal_is_ignored(
        tmp_path: pathlib.Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str], journal: str) -> None:
    interrupted(tmp_path)
    (tmp_path / '.train.partial' / 'journal.json').write_text(journal)
    capsys.readouterr()
    write(tmp_path)
    assert 'resumes' not in capsys.readouterr().out and content(tmp_path) == whole


def other_make(item: Item) -> tuple[records.Annotated | None, IssueLog]:
    return make(item)


@pytest.mark.parametrize('change', ['items', 'make', 'head', 'options', 'version'])
def test_another_input_or_other_options_start_anew(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
        change: str) -> None:
    head = Manifest('train', [Category(1, 1, 'cell')], Counts(), 0, {}, {}, [], False,
                            Source('coco', 'b.json' if change == 'head' else 'a.json', 'images'))
    interrupted(tmp_path)
    monkeypatch.setattr('data_tools.sharding.shards.VERSIONS', {
        **shards.VERSIONS, **({'Pillow': '0'} if change == 'version' else {})})
    capsys.readouterr()
    items = [Item(i, 101 if (change, i) == ('items', 5) else 100) for i in range(6)]
    options = writer.Options(3 if change == 'options' else 2)
    manifest = writer.write(items, other_make if change == 'make' else make, head, tmp_path, options)
    assert 'resumes' not in capsys.readouterr().out
    assert manifest.counts.images == 5 and len(content(tmp_path)) == 1 + len(manifest.shards)


def test_the_number_of_processes_does_not_prevent_resuming(
        tmp_path: pathlib.Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(tmp_path)
    capsys.readouterr()
    write(tmp_path, workers=4)
    assert 'resumes: 2 of 3' in capsys.readouterr().out and content(tmp_path) == whole


def refusing(target: str, real: Callable[..., None] = os.replace) -> Callable[..., None]:
    """In place of os.replace: refuses the target, once."""
    targets = [target]

    def replace(source: str | pathlib.Path, destination: str | pathlib.Path) -> None:
        if str(destination) in targets:
            targets.clear()
            raise PermissionError(13, 'Permission denied', target)
        real(source, destination)

    return replace


@pytest.mark.parametrize('name', ['.train.partial/manifest.json', '.train.partial/old/train-00001-of-00003.tfrecord',
                                  'train-00002-of-00003.tfrecord', 'train.json'])
def test_the_older_set_is_unchanged_if_renaming_fails(
        tmp_path: pathlib.Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], name: str) -> None:
    write(tmp_path, 5)
    before = visible(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr('os.replace', refusing(str(tmp_path / name)))
        with pytest.raises(PermissionError):
            write(tmp_path)
    assert visible(tmp_path) == before
    capsys.readouterr()
    write(tmp_path)
    assert content(tmp_path) == whole
    assert 'resumes: ' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['journal', 'manifest', 'old', '00000', 'a.partial'])
def test_names_that_are_also_names_of_staging(tmp_path: pathlib.Path, name: str) -> None:
    for count in (4, 6):
        write(tmp_path, count, name)
    assert sorted(content(tmp_path)) == sorted([f'{name}.json', *staging.final_names(name, 3)])
    assert Manifest.read(tmp_path / f'{name}.json').counts.images == 5


def test_a_complete_set_is_published_before_another_is_written(
        tmp_path: pathlib.Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(staging.Staging, '_rename', stop)
        write(tmp_path)
    assert visible(tmp_path) == {}
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, '_write_shards', stop)
        write(tmp_path, 5)
    assert content(tmp_path) == whole
    assert 'train: published the complete set of an earlier run' in capsys.readouterr().out


def test_two_runs_of_one_set_do_not_mix(tmp_path: pathlib.Path) -> None:
    with staging.claim(tmp_path, 'train'):
        with pytest.raises(OSError, match=f"^{tmp_path}: another run is writing the set 'train' there; wait until"):
            write(tmp_path)
        with staging.claim(tmp_path, 'val'):
            pass
    assert content(tmp_path) == {}


def test_a_file_system_without_locks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(37, 'No locks available')

    monkeypatch.setattr('fcntl.flock', refuse)
    assert write(tmp_path).counts.images == 5


def _run(drawn: shapes.DrawnSet, output: pathlib.Path, workers: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-c', 'from mrcnn_tf.cli.main import main; main()', 'convert', 'coco', '--annotations',
         str(drawn.annotations), '--images', str(drawn.images), '--output', str(output), '--workers', str(workers),
         '--images-per-shard', '8'],
        stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})


def _processes(command: str) -> list[str]:
    processes = []
    for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
        with contextlib.suppress(OSError):
            processes += [path.parent.name] if command in path.read_text(errors='replace') else []
    return processes


@pytest.fixture(scope='module')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> shapes.DrawnSet:
    """160 images: few are drawn, and each is listed many times."""
    directory = tmp_path_factory.mktemp('drawn')
    made = shapes.draw(directory, 16, 0, (64, 64))
    data = json.loads(made.annotations.read_text())
    many = {**data, 'images': [], 'annotations': []}
    for turn in range(10):
        many['images'] += [{**image, 'id': image['id'] + 100 * turn} for image in data['images']]
        many['annotations'] += [{**each, 'id': len(many['annotations']) + i, 'image_id': each['image_id'] + 100 * turn}
                                for i, each in enumerate(data['annotations'])]
    made.annotations.write_text(json.dumps(many))
    return made


@pytest.mark.skipif(not pathlib.Path('/proc/self/environ').exists(), reason='no /proc to see processes in')
def test_a_conversion_of_several_processes_that_is_killed(
        tmp_path: pathlib.Path, drawn: shapes.DrawnSet, monkeypatch: pytest.MonkeyPatch) -> None:
    coco.convert(drawn.annotations, drawn.images, tmp_path / 'whole', options=writer.Options(images_per_shard=8))
    mark = f'MRCNN_TEST={tmp_path}'
    monkeypatch.setenv(*mark.split('=', 1))
    output = tmp_path / 'out'
    with _run(drawn, output, workers=2) as process:
        while not list(output.glob('.train.partial/0*.json')):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    assert visible(output) == {}
    deadline = time.monotonic() + 30
    while _processes(mark) and time.monotonic() < deadline:      # the workers see that the first process is gone
        time.sleep(0.05)
    assert _processes(mark) == []
    with _run(drawn, output, workers=1) as process:
        printed = process.communicate()[0]
    assert re.match(r'train: resumes: \d+ of 20 shards are complete\n', printed)
    assert content(output) == content(tmp_path / 'whole')
