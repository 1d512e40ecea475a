"""One shard: written whole, with a note beside it of what it holds, by which a later run knows it again."""
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

from data_tools.issues import Log
from mrcnn_tf import __version__, files
from mrcnn_tf.input.manifest import Counts, Incident, Shard
from mrcnn_tf.input.records import Annotated, count, encode


class Item(Protocol):
    """What becomes one record; can be pickled, and equal input gives equal pickles."""

    @property
    def bytes(self) -> int:
        """Size of the record, roughly."""


T = TypeVar('T', bound=Item)
# Of what makes the bytes; others may make other bytes.
VERSIONS = {'mrcnn-tf': __version__, 'TensorFlow': tf.__version__, 'Pillow': PIL.__version__,
            'protobuf': _protobuf}
Make = Callable[[T], tuple[Annotated | None, Log]]    # None: the image is dropped, and the log says why


@dataclass
class Part:
    """One shard, and what was found on the way."""
    shard: Shard
    counts: Counts = field(default_factory=Counts)
    max_objects: int = 0
    max_proposals: int = 0
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class Job:
    """A shard to write."""
    path: pathlib.Path
    items: Sequence[Any]


def write(make: Make[Any], job: Job, advance: Callable[[], None]) -> Part:
    """Writes the shard and, when it is whole and on the disk, its note.

    Args:
        make: gives the record of an item, and what was dropped or repaired.
        advance: is called after each item; what it raises stops the work.

    Raises:
        OSError: the disk is full, no permission. Nothing of the shard is left.
    """
    part = Part(Shard('', 0, 0, ''))
    with disk_errors(job.path.parent.parent):
        with files.atomic_path(job.path) as temporary:
            with tf.io.TFRecordWriter(str(temporary)) as stream:
                for item in job.items:
                    _write_one(stream, part, *make(item))
                    advance()
            part.shard = Shard('', part.counts.images, temporary.stat().st_size, sha256(temporary))
        files.write_json(note_of(job.path), dataclasses.asdict(part), indent=None)
    return part


def whole(path: pathlib.Path) -> Part | None:
    """What the shard holds if it is there, byte for byte as it was written; else None."""
    try:
        part = noted(path)
        same = path.stat().st_size == part.shard.bytes and sha256(path) == part.shard.sha256
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return part if same else None


def noted(path: pathlib.Path) -> Part:
    """What the note beside a shard says.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: there is none, or it is not such a note.
    """
    note = files.read_json(note_of(path))
    log = Log(**{action: {reason: [Incident(**each) for each in found] for reason, found in reasons.items()}
                 for action, reasons in note['log'].items()})
    return Part(Shard(**note['shard']), Counts(**note['counts']), note['max_objects'], note['max_proposals'], log)


def note_of(path: pathlib.Path) -> pathlib.Path:
    """Where the note of a shard lies."""
    return path.with_suffix('.json')


def sha256(path: str | os.PathLike[str]) -> str:
    """The checksum of a file of any size, as hexadecimal text."""
    digest = hashlib.sha256()
    with files.open_regular(path) as stream:
        while block := stream.read(2 ** 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def disk_errors(output: pathlib.Path) -> Iterator[None]:
    """What the disk refuses as one line with the directory that the user gave and how to go on."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(_refused(output, error.message.rsplit('; ', 1)[-1])) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(_refused(output, os.strerror(error.errno))) from None


def _refused(output: pathlib.Path, reason: str) -> str:
    return (f'{output}: {reason}; make room there and give the same command again: '
            'it goes on from the shards that are whole')


def _write_one(stream: tf.io.TFRecordWriter, part: Part, example: Annotated | None, log: Log) -> None:
    part.log.extend(log)
    if example is None:
        return
    stream.write(encode(example))
    part.counts += count(example)
    part.max_objects = max(part.max_objects, len(example.objects))
    if example.proposals is not None:
        part.max_proposals = max(part.max_proposals, len(example.proposals.scores))
