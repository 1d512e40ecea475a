"""Only regular files are read, and names from data stay inside their directory."""
from __future__ import annotations

import ast
import errno
import os
import pathlib
import socket

import pytest

from mrcnn_tf import files
from tests.paths import ROOT


def test_regular_files_and_symlinks_are_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.json').write_bytes('{"é": [1]}'.encode())
    (tmp_path / 'link').symlink_to(tmp_path / 'a.json')
    for path in (tmp_path / 'a.json', str(tmp_path / 'link')):
        assert files.read_bytes(path) == '{"é": [1]}'.encode() and files.read_text(path) == '{"é": [1]}'
        assert files.read_json(path) == {'é': [1]}
        with files.open_regular(path) as stream:
            assert stream.read(2) == b'{"' and stream.tell() == 2


@pytest.mark.parametrize('kind', ['fifo', 'socket', '/dev/zero', '/dev/full', 'link to /dev/zero'])
def test_devices_fifos_and_sockets_are_refused(kind: str, tmp_path: pathlib.Path) -> None:
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
        'not a regular file', os.strerror(errno.ENXIO))      # ENXIO: a socket


@pytest.mark.parametrize(('name', 'error'), [
    ('none', FileNotFoundError), ('.', IsADirectoryError), ('a/b', NotADirectoryError), ('x\0y', OSError),
    ('large', OSError), ('n' * 300, OSError), ('loop', OSError)])
def test_an_error_names_the_file(name: str, error: type[OSError], tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a').touch()
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    with (tmp_path / 'large').open('wb') as stream:
        stream.truncate(files.LARGEST + 1)      # sparse: takes no space on the disk
    with pytest.raises(error) as caught:
        files.read_bytes(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name) and caught.value.strerror


def test_deeply_nested_json_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.json').write_text('[' * 1_000_000)
    with pytest.raises(ValueError, match='nested too deeply'):
        files.read_json(tmp_path / 'a.json')


def test_inside_accepts_names_within_the_directory(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'images' / 'sub').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'images')
    (tmp_path / 'images' / 'of.png').symlink_to(tmp_path / 'images' / 'sub' / 'a.png')
    for name in ('a.png', 'sub/a.png', 'sub/../a.png', './a.png', '..a.png', 'of.png', str(tmp_path / 'images/a.png')):
        for directory in (tmp_path / 'images', tmp_path / 'link'):
            assert files.inside(directory, name) == directory / name


@pytest.mark.parametrize('name', ['../b.png', 'sub/../../b.png', '/etc/passwd', 'out.png', 'out/b.png', '../images2/a'])
def test_inside_refuses_names_outside_the_directory(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'out.png').symlink_to('../b.png')
    (tmp_path / 'images' / 'out').symlink_to(tmp_path)
    with pytest.raises(files.OutsideError, match='leads out of .*; give --follow'):
        files.inside(tmp_path / 'images', name)
    assert files.inside(tmp_path / 'images', name, follow=True) == tmp_path / 'images' / name


@pytest.mark.parametrize('name', ['x\0y', 'loop'])
def test_inside_refuses_names_that_cannot_be_resolved(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    try:
        assert files.inside(tmp_path, name) == tmp_path / name      # Python 3.13 accepts a loop of symlinks
    except files.OutsideError as error:
        assert 'cannot be resolved' in str(error)


def test_all_code_opens_files_through_this_module() -> None:
    """Any other way to read a file whose name comes from data could hang at a FIFO or fill the memory from a device."""
    opened = []
    for path in sorted((*ROOT.glob('mrcnn_tf/**/*.py'), *ROOT.glob('data_tools/**/*.py'))):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ''
            if called == 'open' or called.endswith(('.open', '.read_bytes', '.read_text', '.fromfile', '.loadtxt')):
                modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
                written = any(mode in ('a', 'ab', 'w', 'wb') for mode in modes)
                opened += [] if written else [f'{name}: {ast.unparse(node)}']
    # The others are scripts that do not import this package.
    ours = 'mrcnn_tf/files/reading.py: ', *(
        f'mrcnn_tf/serving/{script}.py: ' for script in ('run_saved_model', 'light_client'))
    known = ('files.read_bytes(', 'files.read_text(', 'voc_folders.read_text(', 'Image.open(io.BytesIO(', 'os.open(')
    assert [each for each in opened if not each.startswith(ours) and not each.split(': ', 1)[1].startswith(known)] == []
