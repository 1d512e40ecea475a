"""Find the file in a directory that a name in annotations means; other systems change names.

A name that exists is used as it is. Any other name is matched if exactly one file fits it: with Windows separators,
percent-encoding, a URL, another letter case or Unicode form, additional or missing folders, another suffix or none. If
several files or none fit, no file is used, and the message names the nearest ones.
"""
from __future__ import annotations

import bisect
import difflib
import functools
import itertools
import os
import pathlib
import re
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from data_tools.issues import InvalidDataError, Issue
from mrcnn_tf import files

MISSING = 'missing image file'
AMBIGUOUS = 'ambiguous file name'
OUTSIDE = 'file outside of its directory'
RENAMED = 'file found under another name'
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif')
_FEW = 50              # files: up to this number, a missing name is compared with all of them
_NEIGHBOURS = 4        # of more files, these are compared: the next in order, forwards and backwards
_LONGEST = 255         # characters that are compared


class FileMatch(NamedTuple):
    """The file that a name means."""
    name: str                         # path below the directory; the stated name if no file fits
    repair: Issue | None = None       # the file has another name than the stated one
    missing: Issue | None = None      # why no file fits


class FileNames:
    """Finds the files of one directory by name: images, or files with other suffixes.

    The directory is listed once, when the first name is not found.
    """

    def __init__(self, directory: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES,
                 follow: bool = False) -> None:
        """follow: also use files outside the directory that `..`, an absolute name or a symlink leads to."""
        self.directory = pathlib.Path(directory)
        self.suffixes, self._follow = suffixes, follow

    def find(self, stated: str) -> FileMatch:
        """Return the file that a name means, or why there is none.

        Args:
            stated: name in the annotations: a path below the directory or of another machine, or a URL.
        """
        if self._holds(stated):
            return FileMatch(stated)
        readings = _readings(stated)
        for fitting in self._fitting(readings):
            paths = sorted(fitting)
            if len(paths) == 1 and self._holds(paths[0]):
                return FileMatch(paths[0], Issue(RENAMED, f'{_quoted(stated)} is {_quoted(paths[0])}: '
                                                          f'{_difference(fitting[paths[0]], paths[0])}'))
            if len(paths) > 1:
                several = ', '.join(map(_quoted, paths[:3])) + (f' and {len(paths) - 3} more' if paths[3:] else '')
                return FileMatch(stated, missing=Issue(AMBIGUOUS, f'{_quoted(stated)} may be {several}; '
                                                                  'add the folder of the right one to the name'))
        if os.path.exists(self.directory / stated):
            outside = self._leads_out(stated)
            return FileMatch(stated, missing=Issue(OUTSIDE, outside) if outside else Issue(
                MISSING, f'{_quoted(stated)} in {self.directory} is not a regular file'))
        nearest = self.nearest(readings[0].parts[-1])
        kind = 'image' if self.suffixes == SUFFIXES else ' or '.join(self.suffixes)
        empty = f'it holds no {kind}' if self.directory.is_dir() else 'there is no such directory'
        hint = f'the nearest name is {_quoted(nearest)}' if nearest else empty
        return FileMatch(stated, missing=Issue(MISSING, f'{_quoted(stated)} is not in {self.directory}; {hint}'))

    def nearest(self, name: str) -> str:
        """Return the path of the image with the most similar name; '' if the directory holds no image."""
        key = _key(name[-_LONGEST:])
        matcher = difflib.SequenceMatcher(b=key, autojunk=False)

        def ratio(other: str) -> float:
            matcher.set_seq1(other[-_LONGEST:])
            return matcher.ratio()

        near = self._listing.near(key)
        return self._listing.by_name[max(sorted(near), key=ratio)][0] if near else ''

    def _stem_key(self, name: str) -> str:
        return _key(_stem(name, self.suffixes))

    @functools.cached_property
    def _listing(self) -> _Listing:
        return _Listing(_walk(self.directory), self.suffixes)

    def _holds(self, name: str) -> bool:
        """Return whether this is a file of the directory: the one place that decides what may be read."""
        return os.path.isfile(self.directory / name) and not self._leads_out(name)

    def _leads_out(self, name: str) -> str:
        """Return why a file is outside the directory and may not be read; '' if it may be."""
        try:
            inside(self.directory, name, self._follow)
        except InvalidDataError as error:
            return error.issue.detail
        return ''

    def _fitting(self, readings: Sequence[_Reading]) -> Iterator[dict[str, _Reading]]:
        """Yield the files that fit a name: first by equal name, then without letter case, then without suffix."""
        listing = self._listing
        for key, paths_of in ((_same, listing.by_name), (_key, listing.by_name), (self._stem_key, listing.by_stem)):
            fits: dict[str, tuple[int, _Reading]] = {}
            for reading in readings:
                name = reading.parts[-1]
                keys = {_key(name), self._stem_key(name)} if paths_of is listing.by_stem else {_key(name)}
                for path in itertools.chain.from_iterable(paths_of.get(each, ()) for each in sorted(keys)):
                    common = _common_folders(reading, path)
                    same = paths_of is listing.by_stem or key(path.rpartition('/')[2]) == key(name)
                    if same and common > fits.get(path, (-1,))[0]:
                        fits[path] = common, reading
            highest = max((common for common, _ in fits.values()), default=0)
            yield {path: reading for path, (common, reading) in fits.items() if common == highest}


def inside(directory: pathlib.Path, name: str, follow: bool) -> pathlib.Path:
    """Return the path of a file named by annotations; raises InvalidDataError if it is outside the directory."""
    try:
        return files.inside(directory, name, follow)
    except files.OutsideError as error:
        raise InvalidDataError(OUTSIDE, str(error)) from None


class _Reading(NamedTuple):
    """One way to read a stated name."""
    parts: tuple[str, ...]     # folders and the name
    foreign: bool              # its folders may be those of another machine
    changes: tuple[str, ...]   # how the name was changed to read it, for messages


class _Listing:
    """The files of a directory by the keys that names are compared by."""

    def __init__(self, paths: Iterable[str], suffixes: Sequence[str]) -> None:
        self.by_name, self.by_stem = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        images = set()
        for path in paths:
            name = path.rpartition('/')[2]
            self.by_name[_key(name)].append(path)
            if _stem(name, suffixes) != name:
                self.by_stem[_key(_stem(name, suffixes))].append(path)
                images.add(_key(name))
        self._forwards = sorted(images)
        self._backwards = sorted(key[::-1] for key in images)

    def near(self, key: str) -> set[str]:
        """Return keys of images that may be the nearest: all of a few, else those with the same beginning or end."""
        if len(self._forwards) <= _FEW:
            return set(self._forwards)
        return {*_around(self._forwards, key), *(each[::-1] for each in _around(self._backwards, key[::-1]))}


def _walk(directory: pathlib.Path) -> Iterator[str]:
    """Yield the paths of the files below a directory, in order, without hidden files and linked directories."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(each for each in folders if not each.startswith('.'))
        below = os.path.relpath(folder, directory).replace(os.sep, '/')
        for name in sorted(names):
            if not name.startswith('.'):
                yield name if below == '.' else f'{below}/{name}'


def _around(ordered: Sequence[str], key: str) -> Sequence[str]:
    place = bisect.bisect_left(ordered, key)
    return ordered[max(place - _NEIGHBOURS, 0):place + _NEIGHBOURS]


def _readings(stated: str) -> list[_Reading]:
    """Return the ways to read a name, as it is first: as a path, as part of a URL, percent-encoded."""
    text = stated.strip()
    texts = {text: ['it has spaces around it'] if text != stated else []}
    if '://' in text:
        text = text.partition('://')[2].partition('/')[2].partition('#')[0]
        texts = {text: ['it is a URL']}
    if '?' in text:      # of a server: NAME?version=2, /data/local-files/?d=NAME
        texts.setdefault(text.partition('?')[0], ['it is a URL'])
        texts.setdefault(text.rpartition('=')[2], ['it is a URL'])
    for each, changes in list(texts.items()):
        texts.setdefault(urllib.parse.unquote(each), [*changes, 'it is percent-encoded'])
    foreign = '://' in stated or '..' in stated or re.match(r'\s*([\\/]|[A-Za-z]:[\\/])', stated) is not None
    windows = ['it has Windows separators'] if '\\' in text else []
    return [_Reading(_parts(each) or (each,), foreign, (*changes, *windows)) for each, changes in texts.items()]


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r'[\\/]+', text) if part not in ('', '.'))


def _common_folders(reading: _Reading, path: str) -> int:
    """Return how many folders, from the name upwards, a name and a file share; -1 if the file is in another folder."""
    stated, there = reading.parts[-2::-1], path.split('/')[-2::-1]
    pairs = list(zip(map(_key, stated), map(_key, there), strict=False))
    common = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
    return common if common == len(pairs) or reading.foreign else -1


def _difference(reading: _Reading, path: str) -> str:
    """Return how a stated name differs from that of the file."""
    name, file = reading.parts[-1], path.rpartition('/')[2]
    differences = list(reading.changes)
    if _key(name) != _key(file):
        differences.append('it has another suffix')
    elif _same(name) != _same(file):
        differences.append('it has other letter case')
    elif name != file:
        differences.append('it has another Unicode form')
    if not differences:
        differences.append('it is in another folder')
    return ', '.join(differences)


def _quoted(name: str) -> str:
    """Return a name for messages: on one line, and not longer than a file name can be."""
    shown = ''.join(each if each.isprintable() else repr(each)[1:-1] for each in name[:_LONGEST])
    return f"'{shown}{'...' if len(name) > _LONGEST else ''}'"


def _stem(name: str, suffixes: Sequence[str]) -> str:
    """Return a name without its suffix if that is one of these."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in suffixes else name


def _same(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def _key(name: str) -> str:
    """Return a key that is equal for names that differ in letter case or Unicode form."""
    return unicodedata.normalize('NFC', name.casefold())
