"""Where a set is made before it gets its names, and what a run that was killed leaves to the next.

    .NAME.partial/
        journal.json      the fingerprint of input and options, the number of shards, and whether all are whole
        00000.tfrecord    a shard, here only when it is whole
        00000.json        what it holds, written after it
        manifest.json     written when all shards are whole
        old/              the set that had the name before

From the moment that the journal says "publishing" the new set only has to be renamed, and whoever comes next does it:
the manifest there was goes aside, then its shards, the new shards get their names, the new manifest comes last.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import pickle
import re
from collections.abc import Iterable, Iterator
from typing import Any

from data_tools.sharding import shards
from mrcnn_tf import files
from mrcnn_tf.input.manifest import Manifest

_VERSION = 1      # of the journal


def fingerprint(*what: Any, items: Iterable[Any] = ()) -> str:
    """sha256 of the pickles: the same for equal input, options and versions of what writes."""
    digest = hashlib.sha256()
    for each in (*what, *items):
        digest.update(pickle.dumps(each, protocol=5))
    return digest.hexdigest()


@contextlib.contextmanager
def claim(output: pathlib.Path, name: str) -> Iterator[Staging]:
    """The staging directory of a set, for this process alone, and nothing of it once no whole shard is in it.

    A set that a killed run had made and not wholly renamed gets its names first.

    Raises:
        OSError: another run has it, no permission.
    """
    staging = Staging(output, name)
    with _locked(staging):
        staging.finish()
    with _locked(staging):
        try:
            yield staging
        finally:
            staging.tidy()


class Staging:
    """The staging directory of the set `name` in `output`."""

    def __init__(self, output: pathlib.Path, name: str) -> None:
        self.output, self.name = output, name
        self.directory = output / f'.{name}.partial'
        self.published: str | None = None      # the fingerprint of a set that `finish` gave its names
        self._gone = output / f'.{name}.gone'
        self._journal = self.directory / 'journal.json'
        self._manifest = self.directory / 'manifest.json'
        self._old = self.directory / 'old'

    def begin(self, fingerprint: str, count: int) -> None:
        """Keeps the shards of an earlier run of the same fingerprint, and nothing else."""
        journal = self._read()
        if (journal.get('fingerprint'), journal.get('shards')) != (fingerprint, count):
            self.clear()
            self._write(fingerprint, count, publishing=False)
        self._sweep()

    def clear(self) -> None:
        """Forgets all shards."""
        for path in self.directory.iterdir():
            files.remove(path)

    def shard(self, index: int) -> pathlib.Path:
        """Where a shard is written."""
        return self.directory / f'{index:05d}.tfrecord'

    def publish(self, manifest: Manifest) -> None:
        """Gives all shards and the manifest their names, in place of an older set of this name.

        Raises:
            OSError: the disk is full, no permission. The older set is there as it was; the next run goes on from here.
        """
        journal = self._read()
        manifest.write(self._manifest)
        self._write(journal['fingerprint'], journal['shards'], publishing=True)
        self.finish()

    def finish(self) -> None:
        """Renames what is left to be renamed of a set that is whole; nothing where none is."""
        files.remove(self._gone)
        journal = self._read()
        if not journal.get('publishing'):
            return
        finals = final_names(self.name, journal['shards'])
        try:
            if self._manifest.exists():     # else all is done but the removal of this directory
                self._rename(finals)
        except BaseException:
            self._withdraw(finals)
            raise
        self.published = journal['fingerprint']
        self._remove()

    def tidy(self) -> None:
        """Removes what is half written, and the directory when no shard in it is whole."""
        if self.directory.exists():
            self._sweep()
            if not any(self.directory.glob('*.tfrecord')):
                self._remove()

    def _sweep(self) -> None:
        kept = {self._journal, self._manifest, self._old}
        for path in self.directory.glob('*.tfrecord'):
            if shards.note_of(path).exists():
                kept |= {path, shards.note_of(path)}
        for path in self.directory.iterdir():
            if path not in kept:
                files.remove(path)

    def _read(self) -> dict[str, Any]:
        try:
            journal = files.read_json(self._journal)
        except (OSError, ValueError):
            return {}
        return journal if isinstance(journal, dict) and journal.get('version') == _VERSION else {}

    def _write(self, fingerprint: str, count: int, publishing: bool) -> None:
        files.write_json(self._journal, {
            'version': _VERSION, 'fingerprint': fingerprint, 'shards': count, 'publishing': publishing})

    def _rename(self, finals: list[str]) -> None:
        self._old.mkdir(exist_ok=True)
        new = self._new(finals)
        for path in _of_set(self.output, self.name):
            if path.name not in new:
                os.replace(path, self._old / path.name)
        for index, final in enumerate(finals):
            if final not in new:
                os.replace(self.shard(index), self.output / final)
        os.replace(self._manifest, self.output / f'{self.name}.json')

    def _new(self, finals: list[str]) -> set[str]:
        """Names that shards of the new set have already."""
        return {final for index, final in enumerate(finals) if not self.shard(index).exists()}

    def _withdraw(self, finals: list[str]) -> None:
        """The older set as it was, and the new one back here, unless that has its manifest already."""
        if not self._manifest.exists():
            return
        for index, final in enumerate(finals):
            if not self.shard(index).exists():
                os.replace(self.output / final, self.shard(index))
        for path in reversed(_of_set(self._old, self.name)):
            os.replace(path, self.output / path.name)

    def _remove(self) -> None:
        os.replace(self.directory, self._gone)      # at once: a half removed journal would mislead the next run
        files.remove(self._gone)


def final_names(name: str, count: int) -> list[str]:
    """The file names of the shards of a set."""
    return [f'{name}-{index:05d}-of-{count:05d}.tfrecord' for index in range(count)]


def _of_set(directory: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The manifest and shards in a directory that bear the name of the set, the manifest first."""
    manifest = [directory / f'{name}.json']
    pattern = re.compile(re.escape(name) + r'-\d{5,}-of-\d{5,}\.tfrecord')
    found = sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name)) if directory.exists() else []
    return [path for path in (*manifest, *found) if path.exists()]


@contextlib.contextmanager
def _locked(staging: Staging) -> Iterator[None]:
    staging.directory.mkdir(exist_ok=True)
    descriptor = os.open(staging.directory, os.O_RDONLY)
    try:
        if not _lock(descriptor, staging.directory):
            raise BlockingIOError(f'{staging.output}: another run is writing the set {staging.name!r} there; '
                                  'wait for it or give another name')
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: pathlib.Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except (BlockingIOError, FileNotFoundError):     # not found: the other run has just published
        return False
    except OSError:      # a file system without locks
        return True
