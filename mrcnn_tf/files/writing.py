"""Atomic writes: a file or directory gets its final name only when it is complete and on the disk."""
from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[None]:
    """Create a directory and its parents. If the block fails, remove those that did not exist and are empty.

    Raises:
        OSError: the disk is full, permission is missing, or `path` is a file.
    """
    path = pathlib.Path(path)
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):      # it is not empty, or was never created
                each.rmdir()
        raise


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `final`. The file or directory that the block writes there is renamed to `final`.

    The temporary name has the same suffix, from which libraries choose the format. Missing parent directories are
    created. An existing file is replaced, an existing directory is not. If the block or the renaming fails, the
    temporary file and the created directories are removed and `final` is unchanged.

    Raises:
        OSError: the disk is full, permission is missing, or `final` is an existing directory. It names `final`.
    """
    final = pathlib.Path(final)
    if final.is_dir():
        raise FileExistsError(f'{final}: a directory of this name exists; remove it or choose another name')
    temporary = final.parent / f'.{uuid.uuid4().hex[:8]}.{final.name}'
    with new_directory(final.parent):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, final)
            _sync_one(final.parent)
        except BaseException as error:
            with contextlib.suppress(OSError):      # removal fails on a read-only disk; `error` is the cause
                remove(temporary)
            if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
                raise type(error)(error.errno, os.strerror(error.errno), str(final)) from None
            raise


def write_json(path: str | os.PathLike[str], obj: Any, indent: int | None = 2) -> None:
    """Write `obj` as UTF-8 JSON, atomically. Numpy scalars and arrays become numbers and lists.

    Bytes of a file name that are not UTF-8 are written as Python represents them, such as \\udcff, and read back so.

    Raises:
        ValueError: a number is not in JSON: NaN or infinity.
        TypeError: a value has no JSON type.
        OSError: as for `atomic_path`.
    """
    text = json.dumps(obj, indent=indent, allow_nan=False, ensure_ascii=False, default=_plain)
    with atomic_path(path) as temporary:
        temporary.write_text(text + '\n', encoding='utf-8', errors='backslashreplace')


def sync(path: pathlib.Path) -> None:
    """Flush a file, or a directory and all its files, to the disk."""
    for below in sorted(path.rglob('*')) if path.is_dir() else ():
        _sync_one(below)
    _sync_one(path)


def remove(path: pathlib.Path) -> None:
    """Remove a file, or a directory with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
