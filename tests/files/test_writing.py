"""Writes are atomic: the final name appears only when all is written, and an error leaves no temporary file."""
from __future__ import annotations

import errno
import json
import os
import pathlib

import numpy as np
import pytest

from mrcnn_tf import files


@pytest.mark.parametrize('named', [False, True], ids=['without a name', 'with the temporary name'])
def test_an_os_error_names_the_final_path(named: bool, tmp_path: pathlib.Path) -> None:
    final = tmp_path / 'page.html'
    with pytest.raises(OSError) as caught, files.atomic_path(final) as temporary:
        temporary.write_text('half')
        raise OSError(errno.ENOSPC, 'No space left on device', *([str(temporary)] if named else []))
    assert caught.value.filename == str(final) and caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_atomic_path_writes_a_file_and_creates_its_directory(tmp_path: pathlib.Path) -> None:
    final = tmp_path / 'new' / 'picture.png'
    with files.atomic_path(final) as temporary:
        temporary.write_bytes(b'whole')
        assert temporary.parent == final.parent and temporary.name.endswith('.picture.png')
        assert not final.exists()
    assert final.read_bytes() == b'whole'
    assert list(final.parent.iterdir()) == [final]


def test_atomic_path_writes_a_directory(tmp_path: pathlib.Path) -> None:
    final = tmp_path / 'model'
    with files.atomic_path(final) as temporary:
        (temporary / 'variables').mkdir(parents=True)
        (temporary / 'variables' / 'index').write_text('1')
    assert (final / 'variables' / 'index').read_text() == '1'
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize('as_directory', [False, True])
def test_atomic_path_keeps_the_old_file_when_the_block_fails(
        tmp_path: pathlib.Path, as_directory: bool) -> None:
    final = tmp_path / 'metrics.json'
    final.write_text('old')
    with pytest.raises(OSError, match='No space left'), files.atomic_path(final) as temporary:
        if as_directory:
            temporary.mkdir()
            temporary = temporary / 'part'
        temporary.write_text('half')
        raise OSError(28, 'No space left on device')
    assert final.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [final]


def test_atomic_path_removes_the_directories_that_it_created(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match='No space left'), files.atomic_path(tmp_path / 'new' / 'deep' / 'a') as temporary:
        temporary.write_text('half')
        raise OSError(28, 'No space left on device')
    assert not list(tmp_path.iterdir())


def test_a_failed_block_keeps_directories_that_existed_or_hold_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'old').mkdir()
    for path in (tmp_path / 'old' / 'empty', tmp_path / 'new' / 'full'):
        with pytest.raises(KeyboardInterrupt), files.new_directory(path):
            assert path.is_dir()
            if path.name == 'full':
                (path / 'a').write_text('whole')
            raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['a', 'full', 'new', 'old']
    with files.new_directory(tmp_path / 'kept'):
        pass
    assert (tmp_path / 'kept').is_dir()


def test_atomic_path_cleans_up_on_interrupt(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / 'a') as temporary:
        temporary.write_text('half')
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_atomic_path_cleans_up_when_fsync_fails(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space left'), files.atomic_path(tmp_path / 'a') as temporary:
        temporary.write_text('all of it')
    assert not list(tmp_path.iterdir())


def test_atomic_path_reports_the_cause_where_nothing_can_be_removed(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, 'Read-only file system', 'temporary')

    monkeypatch.setattr('pathlib.Path.unlink', read_only)
    with pytest.raises(OSError, match='No space left') as caught, files.atomic_path(tmp_path / 'a'):
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert caught.value.filename == str(tmp_path / 'a')


def test_atomic_path_does_not_replace_a_directory(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'model').mkdir()
    with pytest.raises(FileExistsError, match='model: a directory of this name exists'), files.atomic_path(
            tmp_path / 'model'):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ['model']


def test_write_json_writes_numpy_values_as_numbers(tmp_path: pathlib.Path) -> None:
    files.write_json(tmp_path / 'a.json', {
        'AP': np.float32(0.5), 'n': np.int64(3), 'box': np.array([1, 2]), 'é': [True]})
    text = (tmp_path / 'a.json').read_text(encoding='utf-8')
    assert json.loads(text) == {'AP': 0.5, 'n': 3, 'box': [1, 2], 'é': [True]}
    assert 'é' in text and text.endswith('}\n')


def test_write_json_keeps_the_bytes_of_a_file_name_that_is_not_utf_8(tmp_path: pathlib.Path) -> None:
    files.write_json(tmp_path / 'a.json', {'image': os.fsdecode(b'caf\xe9 \xc3\xa9')})
    assert os.fsencode(json.loads((tmp_path / 'a.json').read_bytes())['image']) == b'caf\xe9 \xc3\xa9'


@pytest.mark.parametrize('value, error', [
    (float('nan'), ValueError), (float('inf'), ValueError), (object(), TypeError)])
def test_write_json_refuses_values_outside_json(
        tmp_path: pathlib.Path, value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        files.write_json(tmp_path / 'a.json', {'value': value})
    assert not list(tmp_path.iterdir())
