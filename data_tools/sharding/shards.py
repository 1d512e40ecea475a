"""Write one shard, with a note beside it of what it holds, so that a resumed run can verify and keep it."""
from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import PIL
import tensorflow as tf
from google.protobuf import __version__ as _protobuf

from data_tools.issues import IssueLog
from data_tools.totals import Totals
from mrcnn_tf import __version__, files
from mrcnn_tf.files.text import write_error
from mrcnn_tf.input.manifest import Counts, IssueEntry, Shard
from mrcnn_tf.input.records import Annotated, encode


class Item(Protocol):
    """What becomes one record; can be pickled, and equal items give equal pickles."""

    @property
    def bytes(self) -> int:
        """Approximate size of the record."""


T = TypeVar('T', bound=Item)
# Versions of the libraries that write the bytes: other versions may write other bytes.
VERSIONS = {'mrcnn-tf': __version__, 'TensorFlow': tf.__version__, 'Pillow': PIL.__version__,
            'protobuf': _protobuf}
Make = Callable[[T], tuple[Annotated | None, IssueLog]]    # None: the image is dropped, and the log says why


@dataclass
class WrittenShard:
    """A shard that was written: its entry of the manifest, the totals of its records, and the issues of its items."""
    shard: Shard
    totals: Totals = field(default_factory=Totals)
    log: IssueLog = field(default_factory=IssueLog)


@dataclass(frozen=True)
class Job:
    """A shard to write."""
    path: pathlib.Path
    items: Sequence[Any]


def write(make: Make[Any], job: Job, advance: Callable[[], None]) -> WrittenShard:
    """Write a shard and, when it is complete and on the disk, its note.

    Args:
        make: returns the record of an item and its issues.
        job: the shard to write.
        advance: called after each item; an exception that it raises stops the work.

    Raises:
        OSError: the disk is full, permission is denied. Nothing of the shard is left.
    """
    written = WrittenShard(Shard('', 0, 0, ''))
    with disk_errors(job.path.parent.parent):
        with files.atomic_path(job.path) as temporary:
            with tf.io.TFRecordWriter(str(temporary)) as stream:
                for item in job.items:
                    _write_record(stream, written, *make(item))
                    advance()
            written.shard = Shard('', written.totals.counts.images, temporary.stat().st_size, sha256(temporary))
        files.write_json(note_path(job.path), dataclasses.asdict(written), indent=None)
    return written


def read_complete(path: pathlib.Path) -> WrittenShard | None:
    """Return what a shard holds if its bytes are those that were written; else None."""
    try:
        written = read_note(path)
        same = path.stat().st_size == written.shard.bytes and sha256(path) == written.shard.sha256
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return written if same else None


def read_note(path: pathlib.Path) -> WrittenShard:
    """Return what the note of a shard says.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: there is no note, or the file is not one.
    """
    note = files.read_json(note_path(path))
    log = IssueLog(**{
        action: {reason: [IssueEntry(**entry) for entry in entries] for reason, entries in reasons.items()}
        for action, reasons in note['log'].items()})
    totals = {**note['totals'], 'counts': Counts(**note['totals']['counts'])}
    return WrittenShard(Shard(**note['shard']), Totals(**totals), log)


def note_path(path: pathlib.Path) -> pathlib.Path:
    """Return the path of a shard's note."""
    return path.with_suffix('.json')


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file of any size as hexadecimal text."""
    digest = hashlib.sha256()
    with files.open_regular(path) as stream:
        while block := stream.read(2 ** 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def disk_errors(output: pathlib.Path) -> Iterator[None]:
    """Turn errors of a full disk into one line that names the user's directory and how to continue."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(_disk_full(output, write_error(error))) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(_disk_full(output, os.strerror(error.errno))) from None


def _disk_full(output: pathlib.Path, reason: str) -> str:
    return (f'{output}: {reason}; free some space there and run the same command again: it continues after the '
            'complete shards')


def _write_record(stream: tf.io.TFRecordWriter, written: WrittenShard, example: Annotated | None, log: IssueLog,
                  ) -> None:
    written.log.extend(log)
    if example is not None:
        stream.write(encode(example))
        written.totals.add_record(example)
