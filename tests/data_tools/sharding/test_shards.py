"""One shard and its note: written completely or not at all, and recognized only if unchanged."""
from __future__ import annotations

import errno
import hashlib
import json
import pathlib

import pytest
import tensorflow as tf

from data_tools.issues import Issue, IssueLog
from data_tools.sharding import shards
from data_tools.totals import Totals
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Counts, IssueEntry, Shard


def make(number: int) -> tuple[records.Annotated | None, IssueLog]:
    """Return a record with this number of objects; 0 is dropped."""
    log = IssueLog()
    if number == 0:
        log.drop(Issue('corrupt image', '0.png'), 0)
        return None, log
    log.repair(Issue('box clipped', 'é'), number, 'text')
    objects = [records.ObjectAnnotation((0, 0, 1, 1), 1, 'cell', 1., False, k) for k in range(number)]
    return records.Annotated(b'x', 'png', 'a.png', 'id', number, 8, 8, objects), log


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """The path of a shard in a staging directory."""
    (tmp_path / '.train.partial').mkdir()
    return tmp_path / '.train.partial' / '00000.tfrecord'


def test_a_shard_and_what_it_holds(path: pathlib.Path) -> None:
    steps: list[None] = []
    written = shards.write(make, shards.Job(path, [2, 0, 3]), lambda: steps.append(None))
    data = path.read_bytes()
    assert len(steps) == 3 and len(list(tf.data.TFRecordDataset(str(path)))) == 2
    assert written.shard == Shard('', 2, len(data), hashlib.sha256(data).hexdigest())
    assert written.totals == Totals(Counts(2, 0, 5, 0), 3, 0)
    assert written.log.dropped == {'corrupt image': [IssueEntry(0, None, '0.png')]}
    assert [entry.image_id for entry in written.log.repaired['box clipped']] == [2, 3]


def test_the_note_says_the_same(path: pathlib.Path) -> None:
    written = shards.write(make, shards.Job(path, [2, 0, 3]), lambda: None)
    assert shards.note_path(path) == path.with_name('00000.json')
    assert shards.read_note(path) == shards.read_complete(path) == written


@pytest.mark.parametrize('damage', [
    pytest.param(lambda shard, note: shard.unlink(), id='no shard'),
    pytest.param(lambda shard, note: note.unlink(), id='no note'),
    pytest.param(lambda shard, note: shard.write_bytes(shard.read_bytes()[:-1]), id='shard cut off'),
    pytest.param(lambda shard, note: shard.write_bytes(b'x' + shard.read_bytes()[1:]), id='shard changed'),
    pytest.param(lambda shard, note: note.write_text('{"shard"'), id='note cut off'),
    pytest.param(lambda shard, note: note.write_text('[]'), id='note is a list'),
    pytest.param(lambda shard, note: note.write_text('{}'), id='note is empty'),
    pytest.param(lambda shard, note: note.write_text(json.dumps({**json.loads(note.read_text()), 'log': 3})),
                 id='note of another form')])
def test_a_damaged_shard_is_not_complete(path: pathlib.Path, damage) -> None:
    shards.write(make, shards.Job(path, [2]), lambda: None)
    damage(path, shards.note_path(path))
    assert shards.read_complete(path) is None


def test_an_error_leaves_nothing(path: pathlib.Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write(make, shards.Job(path, [2]), stop)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(('error', 'message'), [
    pytest.param(OSError(errno.ENOSPC, 'x', 'a'), 'No space left on device', id='full disk'),
    pytest.param(OSError(errno.EFBIG, 'x'), 'File too large', id='file too large'),
    pytest.param(tf.errors.ResourceExhaustedError(None, None, '/o/a.tfrecord; No space left on device'),
                 'No space left on device', id='full disk in TensorFlow')])
def test_a_full_disk_says_how_to_continue(error: Exception, message: str) -> None:
    with pytest.raises(OSError) as caught, shards.disk_errors(pathlib.Path('/o')):
        raise error
    assert str(caught.value) == (f'/o: {message}; free some space there and run the same command again: it continues '
                                 'after the complete shards')


def test_other_errors_of_the_system_pass_unchanged() -> None:
    error = PermissionError(errno.EACCES, 'Permission denied', '/o/a')
    with pytest.raises(PermissionError) as caught, shards.disk_errors(pathlib.Path('/o')):
        raise error
    assert caught.value is error


def test_the_checksum_of_a_file(tmp_path: pathlib.Path) -> None:
    data = b'abc' * 10 ** 6
    (tmp_path / 'a').write_bytes(data)
    assert shards.sha256(tmp_path / 'a') == hashlib.sha256(data).hexdigest()
