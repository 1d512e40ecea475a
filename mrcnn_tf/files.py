"""Reads of regular files only, names that stay inside a directory, and atomic writes.

Every file whose name comes from a user or from data is opened here: a FIFO would block the reader, a device such as
/dev/zero would fill the memory. A written file or directory gets its final name only when it is whole and on the disk.
"""
from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import Any

LARGEST = 2 ** 31      # bytes of a file that is read as a whole; a TFRecord of TensorFlow holds no more


class OutsideError(ValueError):
    """A file name that leads out of its directory; the message is one line with the remedy."""


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file, or a symlink to one, for reading bytes.

    Raises:
        OSError: no such file, no permission, a directory, or not a regular file (a FIFO, a device, a socket).
    """
    try:
        return open(path, 'rb', opener=_open_descriptor)
    except ValueError:
        raise OSError(errno.EINVAL, 'NUL in the file name', os.fspath(path)) from None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular file of at most `LARGEST` bytes.

    Raises:
        OSError: as `open_regular`, or the file is too large.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > LARGEST:
            raise OSError(errno.EFBIG, f'larger than {LARGEST:,} bytes', os.fspath(path))
        return stream.read()


def read_text(path: str | os.PathLike[str], encoding: str = 'utf-8') -> str:
    """Return the text of a regular file.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: another encoding.
    """
    return read_bytes(path).decode(encoding)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the value that a JSON file holds.

    Raises:
        OSError: as `read_bytes`.
        ValueError: not JSON in UTF-8, or nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('nested too deeply') from None


def inside(directory: str | os.PathLike[str], name: str, follow: bool = False) -> pathlib.Path:
    """Return the path of the file that data call `name`, after checking that it lies inside `directory`.

    Args:
        directory: chosen by the user; it may be a symlink itself.
        name: relative to it; `..`, an absolute name and symlinks may lead out of it.
        follow: take the file wherever it lies.

    Raises:
        OutsideError: it lies elsewhere and `follow` is False.
    """
    path = pathlib.Path(directory) / name
    if follow:
        return path
    try:
        target, base = path.resolve(), pathlib.Path(directory).resolve()
    except (OSError, RuntimeError, ValueError) as error:      # a loop of symlinks, a NUL
        raise OutsideError(f'{path}: cannot be resolved ({error}); correct the name') from None
    if not target.is_relative_to(base):
        raise OutsideError(f'{path}: leads out of {directory}, to {target}; give --follow to read it there')
    return path


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `final`; what the block makes there, a file or a directory, becomes `final`.

    The name ends as `final` does, so that libraries which go by the suffix write the same format. Missing parent
    directories are made. An existing file is replaced; an existing directory is not. When the block or the
    renaming fails, the temporary is removed and `final` stays as it was.

    Raises:
        OSError: the disk is full, no permission, `final` is a directory that exists. It names `final`.
    """
    final = pathlib.Path(final)
    if final.is_dir():
        raise FileExistsError(f'{final}: a directory of this name exists; remove it or choose another name')
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f'.{uuid.uuid4().hex[:8]}.{final.name}'
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, final)
        _sync_one(final.parent)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise type(error)(error.errno, os.strerror(error.errno), str(final)) from None
        raise


def write_json(path: str | os.PathLike[str], obj: Any, indent: int | None = 2) -> None:
    """Writes `obj` as UTF-8 JSON, atomically; numpy scalars and arrays are written as plain numbers.

    Raises:
        ValueError: a number that JSON does not know (NaN, infinity).
        TypeError: a value that JSON does not know.
        OSError: as `atomic_path`.
    """
    text = json.dumps(obj, indent=indent, allow_nan=False, ensure_ascii=False, default=_plain)
    with atomic_path(path) as temporary:
        temporary.write_text(text + '\n', encoding='utf-8')


def sync(path: pathlib.Path) -> None:
    """Returns when the file, or all that the directory holds, is on the disk."""
    for below in sorted(path.rglob('*')) if path.is_dir() else ():
        _sync_one(below)
    _sync_one(path)


def remove(path: pathlib.Path) -> None:
    """Removes a file or a directory with all it holds; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_descriptor(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)      # without it a FIFO waits for a writer
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, 'not a regular file', path)
    return descriptor


def _sync_one(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    if hasattr(value, 'tolist'):
        return value.tolist()
    raise TypeError(f'{type(value).__name__} cannot be written as JSON')
