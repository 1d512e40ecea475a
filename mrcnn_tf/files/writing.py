"""Atomic writes: a file or directory gets its final name only when it is whole and on the disk."""
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
        with contextlib.suppress(OSError):      # on a read-only disk nothing can be removed; `error` is the cause
            remove(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise type(error)(error.errno, os.strerror(error.errno), str(final)) from None
        raise


def write_json(path: str | os.PathLike[str], obj: Any, indent: int | None = 2) -> None:
    """Writes `obj` as UTF-8 JSON, atomically; numpy scalars and arrays are written as plain numbers.

    Bytes of a file name that are not UTF-8 are written as Python holds them, such as \\udcff, and are read back so.

    Raises:
        ValueError: a number that JSON does not know (NaN, infinity).
        TypeError: a value that JSON does not know.
        OSError: as `atomic_path`.
    """
    text = json.dumps(obj, indent=indent, allow_nan=False, ensure_ascii=False, default=_plain)
    with atomic_path(path) as temporary:
        temporary.write_text(text + '\n', encoding='utf-8', errors='backslashreplace')


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
