"""Reading of regular files only, and file names that stay inside a directory.

Every file whose name comes from a user or from data is opened here. A FIFO would block the reader, and a device such as
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

LARGEST = 2 ** 31      # bytes of a file that is read at once; TensorFlow's TFRecords are no larger


class OutsideError(ValueError):
    """A file name leads out of its directory; the message is one line with the remedy."""


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file, or a symlink to one, for reading bytes.

    Raises:
        OSError: there is no such file, permission is missing, or it is a directory, a FIFO, a device or a socket.
    """
    try:
        return open(path, 'rb', opener=_open_descriptor)
    except ValueError:
        raise OSError(errno.EINVAL, 'NUL in the file name', os.fspath(path)) from None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular file of at most `LARGEST` bytes.

    Raises:
        OSError: as for `open_regular`, or the file is too large.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > LARGEST:
            raise OSError(errno.EFBIG, f'larger than {LARGEST:,} bytes', os.fspath(path))
        return stream.read()


def read_text(path: str | os.PathLike[str], encoding: str = 'utf-8') -> str:
    """Return the text of a regular file.

    Raises:
        OSError: as for `read_bytes`.
        UnicodeDecodeError: the file has another encoding.
    """
    return read_bytes(path).decode(encoding)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the value of a JSON file.

    Raises:
        OSError: as for `read_bytes`.
        ValueError: the file is not JSON in UTF-8, or nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('nested too deeply') from None


def inside(directory: str | os.PathLike[str], name: str, follow: bool = False) -> pathlib.Path:
    """Return the path of `name` in `directory`, after checking that it does not lead out of it.

    Args:
        directory: chosen by the user; it may be a symlink.
        name: from data; `..`, an absolute name or a symlink may lead out of the directory.
        follow: skip the check.

    Raises:
        OutsideError: the path is outside the directory and `follow` is False.
    """
    path = pathlib.Path(directory) / name
    if follow:
        return path
    try:
        target, base = path.resolve(), pathlib.Path(directory).resolve()
    except (OSError, RuntimeError, ValueError) as error:      # a loop of symlinks, a NUL
        raise OutsideError(f'{path}: cannot be resolved ({error}); correct the name') from None
    if not target.is_relative_to(base):
        raise OutsideError(f'{path}: leads out of {directory}, to {target}; give --follow to read it')
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
