"""Reads of regular files only, and names that stay inside a directory.

Every file whose name comes from a user or from data is opened here: a FIFO would block the reader, a device such as
/dev/zero would fill the memory.
"""
from __future__ import annotations

import errno
import io
import json
import os
import pathlib
import stat
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


def _open_descriptor(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)      # without it a FIFO waits for a writer
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, 'not a regular file', path)
    return descriptor
