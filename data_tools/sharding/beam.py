"""Shards written by Apache Beam: on a cluster whose machines all see the output directory, or here, to try it.

Beam takes the place of `processes.py` and of nothing else: the plan, the function that writes a shard, the notes of
whole shards, resuming and publishing are the same, and so are the bytes. What a shard is made of is laid into the
staging directory, so that the pipeline itself holds only a path and a checksum a shard, however large the set. The
output directory may be one that others write to, and a pickle is a program: a worker unpickles only bytes that have the
checksum which the pipeline brought, and its error comes back as JSON.
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import pathlib
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_tools.issues import ConversionError
from data_tools.sharding import shards
from mrcnn_tf import files
from mrcnn_tf.files.text import error_line

EXTRA = "--runner beam needs Apache Beam: pip install 'mrcnn-tf[beam]'"
_RAISED: dict[str, type[Exception]] = {'ConversionError': ConversionError, 'OSError': OSError}     # by a worker
EVERY = 1.0     # seconds between looks at what is done


def run(make: shards.Make[Any], jobs: Sequence[shards.Job], options: Sequence[str],
        show: Callable[[int], None]) -> list[shards.Part]:
    """Writes the shards.

    Args:
        make: can be pickled.
        options: Beam's own, such as '--runner=FlinkRunner'; without a runner, Beam's local one.
        show: is told now and then the items of the shards that are whole.

    Raises:
        ConversionError: Beam is not installed; a worker has other versions of what makes the bytes.
        OSError: Beam failed, or the first that the disk raised.
        WorkerError: the first that `make` raised otherwise.
    """
    apache_beam = _apache_beam()
    parts = [(str(job.path), _lay(job)) for job in jobs]
    write = functools.partial(_write, pickle.dumps(make, protocol=5), shards.VERSIONS)
    with _shown(jobs, show), _failures(jobs):
        with apache_beam.Pipeline(argv=list(options)) as pipeline:
            (pipeline | apache_beam.Create(parts) | apache_beam.Reshuffle()
             | apache_beam.Map(write))
        return [shards.noted(job.path) for job in jobs]


def _apache_beam() -> Any:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)      # it warns of Google's libraries, which nobody has asked for
    try:
        import apache_beam
    except ImportError:
        raise ConversionError(EXTRA) from None
    finally:
        logging.root.setLevel(level)
    return apache_beam


class WorkerError(RuntimeError):
    """A defect that stopped a worker; the message names what it raised."""


def _lay(job: shards.Job) -> str:
    """Write the items of a job beside its shard and return their checksum."""
    data = pickle.dumps(job.items, protocol=5)
    with files.atomic_path(_beside(job, '.items')) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _write(make: bytes, versions: Mapping[str, str], part: tuple[str, str]) -> None:
    """Of a worker: writes a shard. An error is laid beside it, where Beam would make a long text of it."""
    path, checksum = part
    job = shards.Job(pathlib.Path(path), [])
    try:
        _check_versions(versions)
        data = files.read_bytes(_beside(job, '.items'))
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ConversionError(f'{_beside(job, ".items")}: it was changed while the set was converted; give an '
                                  'output directory that nobody else writes to')
        shards.write(pickle.loads(make), shards.Job(job.path, pickle.loads(data)), lambda: None)
    except Exception as error:
        kind = next((name for name, kind in _RAISED.items() if isinstance(error, kind)), '')
        message = str(error) if kind else f'{type(error).__name__}: {error}'
        files.write_json(_beside(job, '.error'), {'kind': kind, 'message': message})


def _check_versions(expected: Mapping[str, str]) -> None:
    for name, version in expected.items():
        if shards.VERSIONS[name] != version:
            raise ConversionError(f'a worker of Beam has {name} {shards.VERSIONS[name]}, the machine that started it '
                                  f'{version}; install the same there, for equal bytes')


def _beside(job: shards.Job, suffix: str) -> pathlib.Path:
    return job.path.with_suffix(suffix)


@contextlib.contextmanager
def _failures(jobs: Sequence[shards.Job]) -> Iterator[None]:
    """The first error of a worker, else Beam's own in one line."""
    try:
        yield
    except Exception as error:
        for job in jobs:
            if _beside(job, '.error').exists():
                told = files.read_json(_beside(job, '.error'))
                raise _RAISED.get(told['kind'], WorkerError)(told['message']) from None
        raise OSError(f'{jobs[0].path.parent.parent}: Beam failed: {error_line(error, 500)}') from error


@contextlib.contextmanager
def _shown(jobs: Sequence[shards.Job], show: Callable[[int], None]) -> Iterator[None]:
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(EVERY):
            show(sum(len(job.items) for job in jobs if shards.note_of(job.path).exists()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    show(sum(len(job.items) for job in jobs))
