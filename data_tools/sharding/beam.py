"""Shards written by Apache Beam: on a cluster whose machines all see the output directory, or on this machine.

Beam replaces `processes.py` only. The plan, the function that writes a shard, the notes, resuming and publishing are
the same, and so are the bytes. The items of each shard are written to the staging directory, so the pipeline itself
holds a path and a checksum per shard, however large the set is. Others may be able to write to the output directory,
and a pickle can run code: a worker unpickles only bytes with the checksum from the pipeline, and it returns errors as
JSON.
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import pathlib
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_tools.issues import ConversionError
from data_tools.sharding import shards
from mrcnn_tf import files
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.progress import Update
from mrcnn_tf.files.text import error_line

EXTRA = f'--runner beam needs Apache Beam: {install("beam")}'
_ERRORS: dict[str, type[Exception]] = {'ConversionError': ConversionError, 'OSError': OSError}     # of a worker
EVERY = 1.0     # seconds between counts of the complete shards


def run(make: shards.Make[Any], jobs: Sequence[shards.Job], options: Sequence[str],
        update: Update) -> list[shards.WrittenShard]:
    """Write the shards.

    Args:
        make: returns the record of an item; can be pickled.
        jobs: the shards to write.
        options: of Beam, such as '--runner=FlinkRunner'; without a runner, Beam's local one runs.
        update: called now and then with the number of items in complete shards.

    Raises:
        ConversionError: Beam is not installed; a worker has other versions of the libraries that write the bytes.
        OSError: Beam failed, or the first disk error of a worker.
        WorkerError: the first other error of `make`.
    """
    apache_beam = _apache_beam()
    parts = [(str(job.path), _write_items(job)) for job in jobs]
    write = functools.partial(_write, pickle.dumps(make, protocol=5), shards.VERSIONS)
    with _progress(jobs, update), _first_error(jobs):
        with apache_beam.Pipeline(argv=list(options)) as pipeline:
            (pipeline | apache_beam.Create(parts) | apache_beam.Reshuffle()
             | apache_beam.Map(write))
        return [shards.read_note(job.path) for job in jobs]


def _apache_beam() -> Any:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)      # it warns that libraries of Google Cloud are missing
    try:
        import apache_beam
    except ImportError:
        raise ConversionError(EXTRA) from None
    finally:
        logging.root.setLevel(level)
    return apache_beam


class WorkerError(RuntimeError):
    """A defect that stopped a worker; the message names what it raised."""


def _write_items(job: shards.Job) -> str:
    """Write the pickled items of a job beside its shard and return their sha256."""
    data = pickle.dumps(job.items, protocol=5)
    with files.atomic_path(_beside(job, '.items')) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _write(make: bytes, versions: Mapping[str, str], part: tuple[str, str]) -> None:
    """Write a shard in a worker. An error is written to a file beside it: Beam would wrap it in pages of text."""
    path, checksum = part
    job = shards.Job(pathlib.Path(path), [])
    try:
        _check_versions(versions)
        data = files.read_bytes(_beside(job, '.items'))
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ConversionError(f'{_beside(job, ".items")}: it was changed during the conversion; give an output '
                                  'directory that nobody else writes to')
        shards.write(pickle.loads(make), shards.Job(job.path, pickle.loads(data)), lambda: None)
    except Exception as error:
        kind = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), '')
        message = str(error) if kind else f'{type(error).__name__}: {error}'
        files.write_json(_beside(job, '.error'), {'kind': kind, 'message': message})


def _check_versions(expected: Mapping[str, str]) -> None:
    for name, version in expected.items():
        if shards.VERSIONS[name] != version:
            raise ConversionError(f'a worker of Beam has {name} {shards.VERSIONS[name]}, this machine has {version}; '
                                  'install the same version there, so that the bytes are equal')


def _beside(job: shards.Job, suffix: str) -> pathlib.Path:
    return job.path.with_suffix(suffix)


@contextlib.contextmanager
def _first_error(jobs: Sequence[shards.Job]) -> Iterator[None]:
    """Raise the first error of a worker; if there is none, Beam's own error as one line."""
    try:
        yield
    except Exception as error:
        for job in jobs:
            if _beside(job, '.error').exists():
                raised = files.read_json(_beside(job, '.error'))
                raise _ERRORS.get(raised['kind'], WorkerError)(raised['message']) from None
        raise OSError(f'{jobs[0].path.parent.parent}: Beam failed: {error_line(error, 500)}') from error


@contextlib.contextmanager
def _progress(jobs: Sequence[shards.Job], update: Update) -> Iterator[None]:
    ended = threading.Event()

    def count() -> None:
        while not ended.wait(EVERY):
            update(sum(len(job.items) for job in jobs if shards.note_path(job.path).exists()))

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    update(sum(len(job.items) for job in jobs))
