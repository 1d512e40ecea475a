"""Only regular files are read, names stay inside, writes are whole or not at all."""
from __future__ import annotations

import ast
import errno
import json
import os
import pathlib
import socket

import numpy as np
import pytest

from mrcnn_tf import files
from tests.paths import ROOT


def test_regular_files_are_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.json').write_bytes('{"é": [1]}'.encode())
    (tmp_path / 'link').symlink_to(tmp_path / 'a.json')
    for path in (tmp_path / 'a.json', str(tmp_path / 'link')):
        assert files.read_bytes(path) == '{"é": [1]}'.encode() and files.read_text(path) == '{"é": [1]}'
        assert files.read_json(path) == {'é': [1]}
        with files.open_regular(path) as stream:
            assert stream.read(2) == b'{"' and stream.tell() == 2


@pytest.mark.parametrize('kind', ['fifo', 'socket', '/dev/zero', '/dev/full', 'link to /dev/zero'])
def test_nothing_else_is_opened(kind: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'a'
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'socket':
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to(kind.removeprefix('link to '))
    with pytest.raises(OSError) as caught:
        files.read_bytes(path)
    assert caught.value.filename == str(path) and caught.value.strerror in (
        'not a regular file', os.strerror(errno.ENXIO))      # the latter of a socket


@pytest.mark.parametrize(('name', 'error'), [
    ('none', FileNotFoundError), ('.', IsADirectoryError), ('a/b', NotADirectoryError), ('x\0y', OSError),
    ('large', OSError), ('n' * 300, OSError), ('loop', OSError)])
def test_a_file_that_cannot_be_read_is_named(name: str, error: type[OSError], tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a').touch()
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    with (tmp_path / 'large').open('wb') as stream:
        stream.truncate(files.LARGEST + 1)      # a hole: it takes no room
    with pytest.raises(error) as caught:
        files.read_bytes(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name) and caught.value.strerror


def test_json_that_is_nested_too_deeply(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.json').write_text('[' * 1_000_000)
    with pytest.raises(ValueError, match='nested too deeply'):
        files.read_json(tmp_path / 'a.json')


def test_a_name_inside_of_its_directory(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'images' / 'sub').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'images')
    (tmp_path / 'images' / 'of.png').symlink_to(tmp_path / 'images' / 'sub' / 'a.png')
    for name in ('a.png', 'sub/a.png', 'sub/../a.png', './a.png', '..a.png', 'of.png', str(tmp_path / 'images/a.png')):
        for directory in (tmp_path / 'images', tmp_path / 'link'):
            assert files.inside(directory, name) == directory / name


@pytest.mark.parametrize('name', ['../b.png', 'sub/../../b.png', '/etc/passwd', 'out.png', 'out/b.png', '../images2/a'])
def test_a_name_that_leads_out(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'out.png').symlink_to('../b.png')
    (tmp_path / 'images' / 'out').symlink_to(tmp_path)
    with pytest.raises(files.OutsideError, match='leads out of .*; give --follow'):
        files.inside(tmp_path / 'images', name)
    assert files.inside(tmp_path / 'images', name, follow=True) == tmp_path / 'images' / name


@pytest.mark.parametrize('name', ['x\0y', 'loop'])
def test_a_name_that_leads_nowhere(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    try:
        assert files.inside(tmp_path, name) == tmp_path / name      # of a loop later Pythons say nothing here
    except files.OutsideError as error:
        assert 'cannot be resolved' in str(error)


def test_every_file_is_opened_by_this_module() -> None:
    """A FIFO or a device would hang or fill whatever else opens a file by a name that data hold."""
    opened = []
    for path in sorted((*ROOT.glob('mrcnn_tf/**/*.py'), *ROOT.glob('data_tools/**/*.py'))):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ''
            if called == 'open' or called.endswith(('.open', '.read_bytes', '.read_text', '.fromfile', '.loadtxt')):
                opened.append(f'{name}: {ast.unparse(node)}')
    ours = ('mrcnn_tf/files/reading.py: ', 'mrcnn_tf/serving/alone.py: ')      # the latter works without this package
    known = ('files.read_bytes(', 'files.read_text(', 'voc_folders.read_text(', 'Image.open(io.BytesIO(', 'os.open(')
    assert [each for each in opened if not each.startswith(ours) and not each.split(': ', 1)[1].startswith(known)] == []


@pytest.mark.parametrize('named', [False, True], ids=['without a name', 'with the temporary name'])
def test_an_error_of_the_disk_names_the_final_path(named: bool, tmp_path: pathlib.Path) -> None:
    final = tmp_path / 'page.html'
    with pytest.raises(OSError) as caught, files.atomic_path(final) as temporary:
        temporary.write_text('half')
        raise OSError(errno.ENOSPC, 'No space left on device', *([str(temporary)] if named else []))
    assert caught.value.filename == str(final) and caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_atomic_path_writes_a_file_and_makes_its_directory(tmp_path: pathlib.Path) -> None:
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
def test_atomic_path_leaves_nothing_and_keeps_the_old_when_the_block_fails(
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


def test_atomic_path_cleans_up_on_interrupt(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / 'a') as temporary:
        temporary.write_text('half')
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_atomic_path_cleans_up_when_the_disk_fails_at_the_end(
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


def test_write_json_writes_numpy_numbers_plainly(tmp_path: pathlib.Path) -> None:
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
def test_write_json_refuses_what_json_does_not_know(
        tmp_path: pathlib.Path, value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        files.write_json(tmp_path / 'a.json', {'value': value})
    assert not list(tmp_path.iterdir())
