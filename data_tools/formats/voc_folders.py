"""Where a set in PASCAL VOC's form keeps its files, as VOC lays them out and as annotation tools do.

    ROOT/ImageSets/Main/SPLIT.txt          the ids of the images
    ROOT/JPEGImages/ID.jpg                 or images/, any suffix
    ROOT/Annotations/ID.xml
    ROOT/SegmentationObject/ID.png         where there are masks

Names of folders are found in any letter case. Without ImageSets the set is every xml file of Annotations; without
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
from data_tools.issues import ConversionError, Fault, Log
from mrcnn_tf import files

XMLS, PICTURES, SEGMENTS, LISTS = 'Annotations', 'JPEGImages', 'SegmentationObject', 'ImageSets'
_PICTURES = (PICTURES, 'images')
_XML = ('.xml',)
_FLAGGED = re.compile(r'(.*\S)\s+(-1|0|1)')      # of a list for one class: the id and whether it shows the class


@dataclass(frozen=True)
class Folders:
    """The directories of one root."""
    root: pathlib.Path
    xmls: pathlib.Path
    pictures: pathlib.Path
    segments: pathlib.Path
    lists: dict[str, pathlib.Path]      # by what --split calls them: 'Main/train'


class Entry(NamedTuple):
    """An image of a set."""
    id: str
    xml: str      # file below Folders.xmls


@dataclass(frozen=True)
class Listed:
    """The images of a set, and the list or the directory that names them."""
    source: pathlib.Path
    entries: list[Entry]


def folders(roots: Sequence[str | os.PathLike[str]], years: Sequence[str] = ()) -> list[Folders]:
    """Return the directories of each root; with `years`, of the VOC<year> of each for every year.

    Raises:
        ConversionError: a root holds neither the folders of VOC nor xml files.
    """
    return [_folders(folder) for root in roots for folder in (
        [pathlib.Path(root) / f'VOC{year}' for year in years] or [pathlib.Path(root)])]


def listed(place: Folders, split: str | None, log: Log) -> Listed:
    """Return the images that a list names, or where there are no lists those of all xml files.

    Args:
        place: the directories of one root.
        split: name of a list in ImageSets/Main, or a path in ImageSets: 'Segmentation/train'. None: the only list, or
            without lists all xml files.
        log: receives what is repaired and dropped.

    Raises:
        ConversionError: no such list, several to choose from, no usable line in it.
    """
    if not place.lists:
        return Listed(place.xmls, _all_entries(place, split))
    path, dropped = _list_path(place, split), Log()
    found = Listed(path, _once(_read_list(path, place, log, dropped), path, log))
    if not found.entries:
        lost = next(iter(dropped.dropped.values()), [])
        raise ConversionError(f'{path}: ' + (f'none of its images has an annotation file: {lost[0].detail}'
                                             if lost else 'no image is listed; choose another split'))
    log.extend(dropped)
    return found


def check_ids(lists: Sequence[Listed]) -> None:
    """Raise ConversionError where two lists name the same image."""
    image_id, count = Counter(entry.id for each in lists for entry in each.entries).most_common(1)[0]
    if count > 1:
        raise ConversionError(f'{" and ".join(str(each.source) for each in lists)}: image {image_id} is listed {count} '
                              'times; join sets of different images')


def pictures_without_xml(place: Folders, named: set[str]) -> list[str]:
    """Return the images of a set without lists that have no xml file.

    Args:
        place: of one root.
        named: the images that the xml files are of; without a suffix those that were not found.
    """
    return [name for name in _files(place.pictures, SUFFIXES) if not named & {name, os.path.splitext(name)[0]}]


def read_text(path: pathlib.Path) -> str:
    """Return the text of a UTF-8 file; raises ConversionError where it is none."""
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
        raise ConversionError(f'{root}: no directory {XMLS}{_instead(root)}; give the directory of {XMLS}, {LISTS} and '
                              f'{PICTURES}, or one with an xml file beside each image')
    if pictures is None and _files(xmls, SUFFIXES):
        pictures = xmls
    if pictures is None:
        raise ConversionError(f'{root}: no directory {" or ".join(_PICTURES)}; give the directory of {XMLS} and '
                              f'{PICTURES}, or one with an xml file beside each image')
    return Folders(root, xmls, pictures, _child(root, SEGMENTS) or root / SEGMENTS,
                   _lists(_child(root, LISTS)))


def _child(folder: pathlib.Path, *names: str) -> pathlib.Path | None:
    """The directory of one of these names, the first that there is, in the same letter case if possible."""
    lower = [name.lower() for name in names]
    found = [each for each in _directories(folder) if each.name.lower() in lower]
    return min(found, key=lambda each: (lower.index(each.name.lower()), each.name not in names), default=None)


def _directories(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _files(folder: pathlib.Path, suffixes: Sequence[str]) -> list[str]:
    """Names of the files that have such a suffix, in order."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if _has(each.name, suffixes) and each.is_file())


def _has(name: str, suffixes: Sequence[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith('.')


def _instead(root: pathlib.Path) -> str:
    """What to give in place of a root without annotations that holds directories with them."""
    below = _directories(root)
    years = [each.name[3:] for each in below if each.name.startswith('VOC')]
    if years:
        return f'; choose the year {" or ".join(years)}'
    named = [each.name for each in below if _files(each, _XML) or _child(each, XMLS)]
    return f', but annotations in {", ".join(named)}: give --root {root / named[0]}' if named else ''


def _lists(folder: pathlib.Path | None) -> dict[str, pathlib.Path]:
    paths = sorted(folder.rglob('*.txt')) if folder else []
    return {path.relative_to(folder).with_suffix('').as_posix(): path for path in paths if folder}


def _all_entries(place: Folders, split: str | None) -> list[Entry]:
    names = _files(place.xmls, _XML)
    if not names:
        raise ConversionError(f'{place.xmls}: it holds no xml file; put those of the images directly into it')
    if split is not None:
        raise ConversionError(
            f'{place.root}: no list {split!r}, as there is no directory {LISTS} with lists; leave --split out to read '
            f'all {len(names)} xml files of {place.xmls} as one set, or write the ids of some to '
            f'{LISTS}/Main/{split}.txt, one a line')
    return [Entry(os.path.splitext(name)[0], name) for name in names]


def _once(entries: Iterable[Entry], path: pathlib.Path, log: Log) -> list[Entry]:
    """Each image as often as it can be in a set."""
    counts = Counter(entries)
    for entry, count in counts.items():
        if count > 1:
            log.repair(Fault('image listed more than once', f'{count} times, and taken once'), entry.id, file=path.name)
    return list(counts)


def _list_path(place: Folders, split: str | None) -> pathlib.Path:
    choices = [name for name in place.lists if '_' not in name.rpartition('/')[2]]      # not those of one class
    if split is None:
        main = [name for name in choices if name.lower().startswith('main/')] or choices
        if len(main) != 1:
            raise ConversionError(f'{place.root / LISTS}: give --split, one of {", ".join(choices or place.lists)}')
        return place.lists[main[0]]
    name = split.removesuffix('.txt')
    wanted = [name] if '/' in name else [f'Main/{name}', name]
    for key in (str, str.lower):
        found = {key(each): path for each, path in place.lists.items()}
        for each in wanted:
            if key(each) in found:
                return found[key(each)]
    raise ConversionError(f'{place.root / LISTS / wanted[0]}.txt: no such list of images; there are '
                          f'{", ".join(choices or place.lists)}')


def _read_list(path: pathlib.Path, place: Folders, log: Log, dropped: Log) -> Iterator[Entry]:
    """The images of a list; of one for a class, with 1, 0 or -1 behind each id, those that show the class."""
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
            yield from _other(flagged[1] if flagged else line, names, path, log, dropped)


def _other(text: str, names: FileNames, path: pathlib.Path, log: Log, dropped: Log) -> Iterator[Entry]:
    """The image of a line that is no id: a path or a file name, of an image or an xml, or several of them."""
    for stated in dict.fromkeys((text.split()[0], text)):      # what is said of a miss is said of all of the line
        found = names.find(_without_suffix(stated))
        if not found.missing:
            image_id = os.path.splitext(found.name)[0]
            log.repair(Fault('list names a file in place of an id', f'{stated!r} is read as {image_id!r}'), image_id,
                       file=path.name)
            yield Entry(image_id, found.name)
            return
    if found.missing:
        dropped.drop(Fault('missing annotation file', found.missing.detail), stated, file=path.name)


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0] if _has(name, (*SUFFIXES, *_XML)) else name
