"""The file that a stated name means, in a folder of images: names change on their way through other systems.

A name that is there as it is stated is taken as it is. Of any other, what has one certain meaning is read: Windows
separators, percent-encoding, a URL, another letter case or Unicode form, folders too many or too few, another suffix or
none. Where several files fit, or none does, no file is taken, and the message names those that come near.
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

from data_tools.issues import Fault, Unusable
from mrcnn_tf import files

MISSING = 'missing image file'
AMBIGUOUS = 'ambiguous file name'
OUTSIDE = 'file outside of its directory'
RENAMED = 'file found under another name'
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif')
_FEW = 50              # files, of which all are compared with a name that is missing
_NEIGHBOURS = 4        # of more: those that sort next to it, forwards and backwards
_LONGEST = 255         # characters that are compared


class Found(NamedTuple):
    """The file that a name means."""
    name: str                         # path below the folder; as stated where no file is taken
    repair: Fault | None = None       # the file's name is not the one stated
    missing: Fault | None = None      # no file is taken, and why


class FileNames:
    """Looks up files of one folder, images or what else `suffixes` are of.

    The folder is listed once, when the first name misses.
    """

    def __init__(self, directory: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES,
                 follow: bool = False) -> None:
        """follow: take what `..`, an absolute name or a symlink leads to outside of the folder."""
        self.directory = pathlib.Path(directory)
        self.suffixes, self._follow = suffixes, follow

    def find(self, stated: str) -> Found:
        """Return the file that a name means, or why there is none.

        Args:
            stated: as annotations give it: a path below the folder, or on another machine, with any separators; a URL.
        """
        if self._holds(stated):
            return Found(stated)
        readings = _readings(stated)
        for fitting in self._fitting(readings):
            paths = sorted(fitting)
            if len(paths) == 1 and self._holds(paths[0]):
                return Found(paths[0], Fault(RENAMED, f'{_quoted(stated)} is {_quoted(paths[0])}: '
                                                      f'{_change(fitting[paths[0]], paths[0])}'))
            if len(paths) > 1:
                several = ', '.join(map(_quoted, paths[:3])) + (f' and {len(paths) - 3} more' if paths[3:] else '')
                return Found(stated, missing=Fault(AMBIGUOUS, f'{_quoted(stated)} may be {several}; '
                                                              'give the folder of the right one'))
        if os.path.exists(self.directory / stated):
            outside = self._leads_out(stated)
            return Found(stated, missing=Fault(OUTSIDE, outside) if outside else Fault(
                MISSING, f'{_quoted(stated)} in {self.directory} is not a regular file'))
        nearest = self.nearest(readings[0].parts[-1])
        what = 'image' if self.suffixes == SUFFIXES else ' or '.join(self.suffixes)
        empty = f'it holds no {what}' if self.directory.is_dir() else 'there is no such directory'
        hint = f'the nearest name is {_quoted(nearest)}' if nearest else empty
        return Found(stated, missing=Fault(MISSING, f'{_quoted(stated)} is not in {self.directory}; {hint}'))

    def nearest(self, name: str) -> str:
        """Return the path of the image whose name is most like another; '' where the folder holds no image."""
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
        """Whether this is a file of the folder: the one place that decides what may be read."""
        return os.path.isfile(self.directory / name) and not self._leads_out(name)

    def _leads_out(self, name: str) -> str:
        """Why a file does not lie in the folder and is not read; '' where it may be."""
        try:
            inside(self.directory, name, self._follow)
        except Unusable as unusable:
            return unusable.fault.detail
        return ''

    def _fitting(self, readings: Sequence[_Reading]) -> Iterator[dict[str, _Reading]]:
        """The files that fit a name, and how it is read: by name, then but for letter case, then but for the suffix."""
        listing = self._listing
        for key, paths_of in ((_same, listing.by_name), (_key, listing.by_name), (self._stem_key, listing.by_stem)):
            fits: dict[str, tuple[int, _Reading]] = {}
            for reading in readings:
                name = reading.parts[-1]
                asked = {_key(name), self._stem_key(name)} if paths_of is listing.by_stem else {_key(name)}
                for path in itertools.chain.from_iterable(paths_of.get(each, ()) for each in sorted(asked)):
                    common = _common_folders(reading, path)
                    same = paths_of is listing.by_stem or key(path.rpartition('/')[2]) == key(name)
                    if same and common > fits.get(path, (-1,))[0]:
                        fits[path] = common, reading
            most = max((common for common, _ in fits.values()), default=0)
            yield {path: reading for path, (common, reading) in fits.items() if common == most}


def inside(directory: pathlib.Path, name: str, follow: bool) -> pathlib.Path:
    """Return the path of a file that data name; raises Unusable where it does not lie in the directory."""
    try:
        return files.inside(directory, name, follow)
    except files.OutsideError as error:
        raise Unusable(OUTSIDE, str(error)) from None


class _Reading(NamedTuple):
    """One way to read a stated name."""
    parts: tuple[str, ...]     # folders and the name
    foreign: bool              # its folders are those of another machine
    ways: tuple[str, ...]      # what it takes, for messages


class _Listing:
    """The files of a folder by what names are compared by."""

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
        """Keys of images that may be the nearest: all of a few, else those with the same beginning or end."""
        if len(self._forwards) <= _FEW:
            return set(self._forwards)
        return {*_around(self._forwards, key), *(each[::-1] for each in _around(self._backwards, key[::-1]))}


def _walk(directory: pathlib.Path) -> Iterator[str]:
    """Paths of the files below a directory, in order; neither hidden ones nor through links to other directories."""
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
    """The ways to read a name, the plain one first: as a path, as part of a URL, percent-encoded."""
    text = stated.strip()
    texts = {text: ['it has spaces around it'] if text != stated else []}
    if '://' in text:
        text = text.partition('://')[2].partition('/')[2].partition('#')[0]
        texts = {text: ['it is a URL']}
    if '?' in text:      # of a server: NAME?version=2, /data/local-files/?d=NAME
        texts.setdefault(text.partition('?')[0], ['it is a URL'])
        texts.setdefault(text.rpartition('=')[2], ['it is a URL'])
    for each, ways in list(texts.items()):
        texts.setdefault(urllib.parse.unquote(each), [*ways, 'it is percent-encoded'])
    foreign = '://' in stated or '..' in stated or re.match(r'\s*([\\/]|[A-Za-z]:[\\/])', stated) is not None
    windows = ['it has Windows separators'] if '\\' in text else []
    return [_Reading(_parts(each) or (each,), foreign, (*ways, *windows)) for each, ways in texts.items()]


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r'[\\/]+', text) if part not in ('', '.'))


def _common_folders(reading: _Reading, path: str) -> int:
    """How many folders, from the name upwards, a name and a file share; -1 where the file's are others."""
    stated, there = reading.parts[-2::-1], path.split('/')[-2::-1]
    pairs = list(zip(map(_key, stated), map(_key, there), strict=False))
    common = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
    return common if common == len(pairs) or reading.foreign else -1


def _change(reading: _Reading, found: str) -> str:
    """In what way a stated name is another than that of the file."""
    name, file = reading.parts[-1], found.rpartition('/')[2]
    ways = list(reading.ways)
    if _key(name) != _key(file):
        ways.append('it has another suffix')
    elif _same(name) != _same(file):
        ways.append('it has other letter case')
    elif name != file:
        ways.append('it has another Unicode form')
    if not ways:
        ways.append('it is in another folder')
    return ', '.join(ways)


def _quoted(name: str) -> str:
    """A name for messages: in one line, and not longer than a file's can be."""
    shown = ''.join(each if each.isprintable() else repr(each)[1:-1] for each in name[:_LONGEST])
    return f"'{shown}{'...' if len(name) > _LONGEST else ''}'"


def _stem(name: str, suffixes: Sequence[str]) -> str:
    """A name without its suffix, if it is one of these."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in suffixes else name


def _same(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def _key(name: str) -> str:
    """What names that differ in letter case or Unicode form have in common."""
    return unicodedata.normalize('NFC', name.casefold())
