"""Find the files of a data set in PASCAL VOC's form, in the directories of VOC and in those that annotation tools
write.

    ROOT/ImageSets/Main/SPLIT.txt          the ids of the images
    ROOT/JPEGImages/ID.jpg                 or images/, any suffix
    ROOT/Annotations/ID.xml
    ROOT/SegmentationObject/ID.png         where there are masks

Directories are found in any letter case. Without ImageSets, the set is every xml file of Annotations; without
Annotations too, as labelImg and Roboflow write it, every xml file of ROOT, beside the images.
"""
from __future__ import annotations

import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data_tools.file_names import SUFFIXES, FileNames
from data_tools.issues import ConversionError, Issue, IssueLog
from mrcnn_tf import files

XMLS, PICTURES, SEGMENTS, LISTS = 'Annotations', 'JPEGImages', 'SegmentationObject', 'ImageSets'
_PICTURES = (PICTURES, 'images')
_XML = ('.xml',)
# A line of a list for one class: the id, and whether the image shows the class.
_FLAGGED = re.compile(r'(.*\S)\s+(-1|0|1)')


@dataclass(frozen=True)
class Folders:
    """The directories of one root."""
    root: pathlib.Path
    xmls: pathlib.Path
    pictures: pathlib.Path
    segments: pathlib.Path
    lists: dict[str, pathlib.Path]      # by their names for --split, such as 'Main/train'


class Entry(NamedTuple):
    """An image of a data set."""
    id: str
    xml: str      # file below Folders.xmls


@dataclass(frozen=True)
class Listed:
    """The images of a data set, and the list or the directory that names them."""
    source: pathlib.Path
    entries: list[Entry]


def folders(roots: Sequence[str | os.PathLike[str]], years: Sequence[str] = ()) -> list[Folders]:
    """Return the directories of each root; with `years`, those of the VOC<year> of each root and year.

    Raises:
        ConversionError: a root holds neither the directories of VOC nor xml files.
    """
    return [_folders(folder) for root in roots for folder in (
        [pathlib.Path(root) / f'VOC{year}' for year in years] or [pathlib.Path(root)])]


def listed(place: Folders, split: str | None, log: IssueLog) -> Listed:
    """Return the images that a list names, or without lists those of all xml files.

    Args:
        place: the directories of one root.
        split: name of a list in ImageSets/Main, or a path in ImageSets: 'Segmentation/train'. None: the only list, or
            without lists all xml files.
        log: receives the repaired and dropped images.

    Raises:
        ConversionError: there is no such list, or no usable line in it; several lists and no split.
    """
    if not place.lists:
        return Listed(place.xmls, _all_entries(place, split))
    path, dropped = _list_path(place, split), IssueLog()
    images = Listed(path, _once(_read_list(path, place, log, dropped), path, log))
    if not images.entries:
        missing = next(iter(dropped.dropped.values()), [])
        raise ConversionError(f'{path}: ' + (f'none of its images has an annotation file: {missing[0].detail}'
                                             if missing else 'it lists no image; give another split'))
    log.extend(dropped)
    return images


def check_ids(lists: Sequence[Listed]) -> None:
    """Raise ConversionError if two lists name the same image."""
    image_id, count = Counter(entry.id for each in lists for entry in each.entries).most_common(1)[0]
    if count > 1:
        raise ConversionError(f'{" and ".join(str(each.source) for each in lists)}: image {image_id} is listed {count} '
                              'times; give roots with different images')


def pictures_without_xml(place: Folders, named: set[str]) -> list[str]:
    """Return the images without an xml file, of a data set without lists.

    Args:
        place: the directories of one root.
        named: the images of the xml files; names without a suffix stand for images that were not found.
    """
    return [name for name in _files(place.pictures, SUFFIXES) if not named & {name, os.path.splitext(name)[0]}]


def read_text(path: pathlib.Path) -> str:
    """Return the text of a UTF-8 file; raises ConversionError if it cannot be read."""
    try:
        return files.read_text(path, 'utf-8-sig')
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}; give a text file') from None
    except UnicodeDecodeError as error:
        raise ConversionError(f'{path}: not UTF-8 at byte {error.start}; store it as UTF-8') from None


def _folders(root: pathlib.Path) -> Folders:
    if not root.is_dir():
        raise ConversionError(f'{root}: no such directory; give the directory of {XMLS} and {PICTURES}')
    xmls = _child(root, XMLS) or (root if _files(root, _XML) else None)
    pictures = _child(root, *_PICTURES)
    if xmls is None:
        raise ConversionError(f'{root}: no directory {XMLS}{_other_root(root)}; give the directory of {XMLS}, '
                              f'{LISTS} and {PICTURES}, or one with an xml file beside each image')
    if pictures is None and _files(xmls, SUFFIXES):
        pictures = xmls
    if pictures is None:
        raise ConversionError(f'{root}: no directory {" or ".join(_PICTURES)}; give the directory of {XMLS} and '
                              f'{PICTURES}, or one with an xml file beside each image')
    return Folders(root, xmls, pictures, _child(root, SEGMENTS) or root / SEGMENTS,
                   _lists(_child(root, LISTS)))


def _child(folder: pathlib.Path, *names: str) -> pathlib.Path | None:
    """Return the directory with the first of these names that exists, with equal letter case if possible."""
    lower = [name.lower() for name in names]
    matches = [each for each in _directories(folder) if each.name.lower() in lower]
    return min(matches, key=lambda each: (lower.index(each.name.lower()), each.name not in names), default=None)


def _directories(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _files(folder: pathlib.Path, suffixes: Sequence[str]) -> list[str]:
    """Return the names of the files with one of these suffixes, in order."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if _has(each.name, suffixes) and each.is_file())


def _has(name: str, suffixes: Sequence[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith('.')


def _other_root(root: pathlib.Path) -> str:
    """Return a hint which directory below a root without annotations to give as the root; '' if there is none."""
    below = _directories(root)
    years = [each.name[3:] for each in below if each.name.startswith('VOC')]
    if years:
        return f'; give --year {" or ".join(years)}'
    named = [each.name for each in below if _files(each, _XML) or _child(each, XMLS)]
    return f', but annotations in {", ".join(named)}: give --root {root / named[0]}' if named else ''


def _lists(folder: pathlib.Path | None) -> dict[str, pathlib.Path]:
    paths = sorted(folder.rglob('*.txt')) if folder else []
    return {path.relative_to(folder).with_suffix('').as_posix(): path for path in paths if folder}


def _all_entries(place: Folders, split: str | None) -> list[Entry]:
    names = _files(place.xmls, _XML)
    if not names:
        raise ConversionError(f'{place.xmls}: it holds no xml file; put the xml files of the images into it')
    if split is not None:
        raise ConversionError(
            f'{place.root}: no list {split!r}, as there is no directory {LISTS} with lists; leave --split out to read '
            f'all {len(names)} xml files of {place.xmls} as one set, or write the ids of some to '
            f'{LISTS}/Main/{split}.txt, one per line')
    return [Entry(os.path.splitext(name)[0], name) for name in names]


def _once(entries: Iterable[Entry], path: pathlib.Path, log: IssueLog) -> list[Entry]:
    """Return each image once; repeated ones are logged as repaired."""
    counts = Counter(entries)
    for entry, count in counts.items():
        if count > 1:
            log.repair(Issue('image listed more than once', f'{count} times, used once'), entry.id, file=path.name)
    return list(counts)


def _list_path(place: Folders, split: str | None) -> pathlib.Path:
    choices = [name for name in place.lists if '_' not in name.rpartition('/')[2]]      # without the lists of one class
    if split is None:
        main = [name for name in choices if name.lower().startswith('main/')] or choices
        if len(main) != 1:
            raise ConversionError(f'{place.root / LISTS}: give --split, one of {", ".join(choices or place.lists)}')
        return place.lists[main[0]]
    name = split.removesuffix('.txt')
    wanted = [name] if '/' in name else [f'Main/{name}', name]
    for key in (str, str.lower):
        paths = {key(each): path for each, path in place.lists.items()}
        for each in wanted:
            if key(each) in paths:
                return paths[key(each)]
    raise ConversionError(f'{place.root / LISTS / wanted[0]}.txt: no such list of images; there are '
                          f'{", ".join(choices or place.lists)}')


def _read_list(path: pathlib.Path, place: Folders, log: IssueLog, dropped: IssueLog) -> Iterator[Entry]:
    """Yield the images of a list; of a list for one class, with 1, 0 or -1 behind each id, those that show it."""
    names = FileNames(place.xmls, _XML)
    xmls = [each.relative_to(place.xmls).as_posix() for each in place.xmls.rglob('*') if _has(each.name, _XML)]
    known = {os.path.splitext(name)[0]: name for name in xmls}
    for line in map(str.strip, read_text(path).splitlines()):
        flagged = _FLAGGED.fullmatch(line)
        if line in known:
            yield Entry(line, known[line])
        elif flagged and flagged[1] in known and flagged[2] != '-1':
            yield Entry(flagged[1], known[flagged[1]])
        elif line and not line.startswith('#') and not (flagged and flagged[2] == '-1'):
            yield from _named_by_path(flagged[1] if flagged else line, names, path, log, dropped)


def _named_by_path(text: str, names: FileNames, path: pathlib.Path, log: IssueLog, dropped: IssueLog,
                   ) -> Iterator[Entry]:
    """Yield the image of a line that is no id: the path or name of an image or xml file, or several of them."""
    for stated in dict.fromkeys((text.split()[0], text)):      # an issue names the whole line
        match = names.find(_without_suffix(stated))
        if not match.missing:
            image_id = os.path.splitext(match.name)[0]
            log.repair(Issue('list names a file in place of an id', f'{stated!r} is read as {image_id!r}'), image_id,
                       file=path.name)
            yield Entry(image_id, match.name)
            return
    if match.missing:
        dropped.drop(Issue('missing annotation file', match.missing.detail), stated, file=path.name)


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0] if _has(name, (*SUFFIXES, *_XML)) else name
