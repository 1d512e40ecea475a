"""The staging directory in which a set is written before it gets its final names, and what a killed run leaves in it.

    .NAME.partial/
        journal.json      the fingerprint of input and options, the number of shards, and whether all are complete
        00000.tfrecord    a shard; it is here only if it is complete
        00000.json        its note, written after it
        manifest.json     written when all shards are complete
        old/              the older set of this name

Once the journal says "publishing", only renames are left, and the next run does those that a killed one did not: the
old manifest moves to old/, then the old shards, the new shards get their names, and the new manifest comes last.
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


def fingerprint(*values: Any, items: Iterable[Any] = ()) -> str:
    """Return the sha256 of the pickled arguments: equal for equal input, options and versions."""
    digest = hashlib.sha256()
    for each in (*values, *items):
        digest.update(pickle.dumps(each, protocol=5))
    return digest.hexdigest()


@contextlib.contextmanager
def claim(output: pathlib.Path, name: str) -> Iterator[Staging]:
    """Yield the staging directory of a set, locked for this process; it is removed if no complete shard is left in it.

    If a killed run completed a set and did not finish its renames, that set gets its names first.

    Raises:
        OSError: another run holds the lock, permission is denied.
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
        self.published: str | None = None      # fingerprint of the set that `finish` published
        self._trash = output / f'.{name}.gone'
        self._journal = self.directory / 'journal.json'
        self._manifest = self.directory / 'manifest.json'
        self._old = self.directory / 'old'

    def begin(self, fingerprint: str, count: int) -> None:
        """Keep the shards of an earlier run with the same fingerprint, and remove everything else."""
        journal = self._read()
        if (journal.get('fingerprint'), journal.get('shards')) != (fingerprint, count):
            self.clear()
            self._write(fingerprint, count, publishing=False)
        self._sweep()

    def clear(self) -> None:
        """Remove all shards."""
        for path in self.directory.iterdir():
            files.remove(path)

    def shard(self, index: int) -> pathlib.Path:
        """Return the path of a shard until it is published."""
        return self.directory / f'{index:05d}.tfrecord'

    def publish(self, manifest: Manifest) -> None:
        """Give the shards and the manifest their final names, in place of an older set of this name.

        Raises:
            OSError: the disk is full, permission is denied. The older set is unchanged, and the next run publishes.
        """
        journal = self._read()
        manifest.write(self._manifest)
        self._write(journal['fingerprint'], journal['shards'], publishing=True)
        self.finish()

    def finish(self) -> None:
        """Do the renames that are left of a complete set; nothing if the set is not complete."""
        files.remove(self._trash)
        journal = self._read()
        if not journal.get('publishing'):
            return
        finals = final_names(self.name, journal['shards'])
        try:
            if self._manifest.exists():     # else only the removal of this directory is left
                self._rename(finals)
        except BaseException:
            self._roll_back(finals)
            raise
        self.published = journal['fingerprint']
        self._remove()

    def tidy(self) -> None:
        """Remove incomplete files, and the directory if it holds no complete shard."""
        if self.directory.exists():
            self._sweep()
            if not any(self.directory.glob('*.tfrecord')):
                self._remove()

    def _sweep(self) -> None:
        kept = {self._journal, self._manifest, self._old}
        for path in self.directory.glob('*.tfrecord'):
            if shards.note_path(path).exists():
                kept |= {path, shards.note_path(path)}
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
        """Return the final names that shards of the new set already have."""
        return {final for index, final in enumerate(finals) if not self.shard(index).exists()}

    def _roll_back(self, finals: list[str]) -> None:
        """Restore the older set and move the new one back here, unless the new manifest is already published."""
        if not self._manifest.exists():
            return
        for index, final in enumerate(finals):
            if not self.shard(index).exists():
                os.replace(self.output / final, self.shard(index))
        for path in reversed(_of_set(self._old, self.name)):
            os.replace(path, self.output / path.name)

    def _remove(self) -> None:
        os.replace(self.directory, self._trash)      # atomic: a partly removed directory would mislead the next run
        files.remove(self._trash)


def final_names(name: str, count: int) -> list[str]:
    """Return the file names of the shards of a set."""
    return [f'{name}-{index:05d}-of-{count:05d}.tfrecord' for index in range(count)]


def _of_set(directory: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Return the manifest and shards of the set in a directory, the manifest first."""
    pattern = re.compile(re.escape(name) + r'-\d{5,}-of-\d{5,}\.tfrecord')
    paths = sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name)) if directory.exists() else []
    return [path for path in (directory / f'{name}.json', *paths) if path.exists()]


@contextlib.contextmanager
def _locked(staging: Staging) -> Iterator[None]:
    staging.directory.mkdir(exist_ok=True)
    descriptor = os.open(staging.directory, os.O_RDONLY)
    try:
        if not _lock(descriptor, staging.directory):
            raise BlockingIOError(f'{staging.output}: another run is writing the set {staging.name!r} there; '
                                  'wait until it ends or give another name')
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: pathlib.Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except (BlockingIOError, FileNotFoundError):     # not found: another run has just published
        return False
    except OSError:      # the file system has no locks
        return True
