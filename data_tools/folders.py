"""Recognise the data set in a folder: files of COCO, PASCAL VOC, YOLO or labelme, and their splits.

Names decide the split of a file: `train`, `val`, `valid`, `validation` or `test` in its own name or that of its folder.
The folder of the images of a json is the one that holds most of the files that it names.
"""
from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import mmap
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from data_tools.data_set import DataSet, file_stamp
from data_tools.file_names import SUFFIXES
from data_tools.formats import coco, labelme, voc, voc_folders, voc_xml, yolo
from data_tools.issues import ConversionError, InvalidDataError
from mrcnn_tf import files

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_DEPTH = 4                # folders below the given one that are searched
_SAMPLE = 50              # file names of a json, and xml files, that are read
_SPLIT = re.compile(r'(?<![a-z])(train|val|valid|validation|test)(?![a-z])')
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_LONGEST = 5000           # bytes of a file name
_NAMES = {'valid': 'val', 'validation': 'val'}
_CLASS_FILES = ('labelmap.txt', 'classes.txt', 'labels.txt')
_TOOLS = 'docs/annotation_tools.md lists the exports of annotation tools'


@dataclass(frozen=True)
class Part:
    """A part of a data set.

    Attributes:
        split: 'train', 'val', 'test', or '' for one that is not split yet.
        kind: 'coco', 'voc', 'yolo' or 'labelme'.
        annotations: the json, the root of VOC's folders, data.yaml, or the folder of labelme's files.
        images: the folder of the images.
        listed: VOC's list of the part in ImageSets; None: all xml files.
    """
    split: str
    kind: str
    annotations: pathlib.Path
    images: pathlib.Path
    listed: str | None = None

    def __str__(self) -> str:
        origin = f'{self.annotations}, list {self.listed}' if self.listed else str(self.annotations)
        return f'{self.split or "all images"}: {self.kind.upper()}, {origin}, images in {self.images}'


def recognise(folder: str | os.PathLike[str]) -> list[Part]:
    """Return the parts of the data set in a folder: one without a split, or several with different ones.

    Raises:
        ConversionError: no annotations, or several that do not belong together.
    """
    root = pathlib.Path(folder)
    below = sorted(_below(root))
    parts = list(_coco(root, below)) or list(_voc(root, below)) or list(_yolo(below)) or list(
        _labelme(root, below))
    if not parts:
        raise ConversionError(f'{root}: {_missing(below)}')
    if len(parts) == 1:
        return [replace(parts[0], split='')]
    splits = [part.split for part in parts]
    if len(set(splits)) == len(splits) and 'train' in splits:
        return [part for part in parts if part.split]
    several = ', '.join(str(part.annotations) for part in parts[:4])
    raise ConversionError(f'{root}: several annotations, of which it is not clear which to train on: {several}; name '
                          'them train and val, give a folder with one of them, or convert each by `mrcnn convert`')


def find(parts: Sequence[Part], part: Part, scratch: pathlib.Path) -> DataSet:
    """Return the data set of a part, whose classes are those of all parts.

    Args:
        parts: of the folder.
        part: one of them.
        scratch: a directory for a list of the classes of VOC, or for the labels of YOLO and labelme as a COCO json.

    Raises:
        ConversionError: as `find` of the format.
    """
    if part.kind == 'coco':
        return coco.find(part.annotations, part.images)
    if part.kind == 'yolo':
        path = _write_coco(yolo.to_coco(part.annotations, part.images), scratch, part)
        return coco.find(path, part.images, coco.Options(box_format=yolo.BOX_FORMAT))
    if part.kind == 'labelme':
        return coco.find(_write_coco(labelme.to_coco(part.annotations), scratch, part), part.images)
    classes = _class_file([each.annotations for each in parts]) or _write_classes(parts, scratch)
    return voc.find([part.annotations], part.listed, options=voc.Options(classes, first_pixel=first_pixel(parts)))


def first_pixel(parts: Sequence[Part]) -> int:
    """Return the number of the first pixel in VOC's boxes: 0 if a box of the sampled files begins there, else 1."""
    for root in _sampled(parts):
        for box in root.iterfind('object/bndbox'):
            if any(_is_zero(box.findtext(edge)) for edge in ('xmin', 'ymin')):
                return 0
    return 1


def fingerprint(folder: str | os.PathLike[str], skipped: Sequence[pathlib.Path], *settings: object) -> str:
    """Return a hash of the names, sizes and modification times of all files of a folder, and of settings.

    Args:
        folder: its hidden folders are left out.
        skipped: folders that are left out, such as that of the converted data.
        settings: values whose change counts as a change of the folder.
    """
    digest, left_out = hashlib.sha256(repr(settings).encode()), {path.resolve() for path in skipped}
    for directory in sorted(_below(pathlib.Path(folder), depth=None)):
        if not left_out & {directory.resolve(), *directory.resolve().parents}:
            for path in sorted(directory.iterdir()):
                if path.is_file():
                    digest.update(repr((str(path.relative_to(folder)), file_stamp(path))).encode())
    return digest.hexdigest()


def _below(root: pathlib.Path, depth: int | None = _DEPTH) -> Iterator[pathlib.Path]:
    """Yield a folder and those below it, without hidden ones; depth: how far below, None: all."""
    if not root.is_dir():
        raise ConversionError(f'{root}: no such folder')
    for directory, folders, _ in os.walk(root):
        path = pathlib.Path(directory)
        folders[:] = [name for name in folders if not name.startswith('.')]
        if depth is not None and len(path.relative_to(root).parts) >= depth:
            folders.clear()
        yield path


def _split_of(path: pathlib.Path, root: pathlib.Path) -> str:
    """Return the split that the name of a file, or of a folder above it, says; ''."""
    for name in reversed(path.relative_to(root).parts):
        if found := _SPLIT.search(name.lower()):
            return _NAMES.get(found[1], found[1])
    return ''


def _coco(root: pathlib.Path, below: Sequence[pathlib.Path]) -> Iterator[Part]:
    every = [path for folder in below for path in sorted(folder.glob('*.json')) if _is_coco(path)]
    instances = [path for path in every if path.name.startswith('instances')]
    with_images = [folder for folder in below if _holds(folder, SUFFIXES)]
    for path in instances or every:
        yield Part(_split_of(path, root), 'coco', path, _folder_of_images(path, [root, *below], with_images))


def _is_coco(path: pathlib.Path) -> bool:
    """Return whether a json has the lists of an instances json; it may be too large to read at once."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with files.open_regular(path) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(b'"%s"' % key) >= 0 for key in (b'images', b'annotations', b'categories', b'file_name'))


def _folder_of_images(path: pathlib.Path, bases: Sequence[pathlib.Path], fallback: Sequence[pathlib.Path],
                      ) -> pathlib.Path:
    """Return the folder below which most of the sampled file names of a json exist, the one beside it if several."""
    names = list(itertools.islice(_file_names(path), _SAMPLE))
    hits = {base: sum((base / name).is_file() for name in names) for base in (path.parent, *bases)}
    best = max(hits, key=lambda base: hits[base])
    return best if hits[best] or not fallback else pathlib.Path(os.path.commonpath(fallback))


def _file_names(path: pathlib.Path) -> Iterator[str]:
    """Yield the file names in a json."""
    with files.open_regular(path) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = -1
        while (place := content.find(b'"file_name"', place + 1)) >= 0:
            if match := _FILE_NAME.match(content[place:place + _LONGEST]):
                with contextlib.suppress(ValueError):
                    yield json.loads(match[1])


def _voc(root: pathlib.Path, below: Sequence[pathlib.Path]) -> Iterator[Part]:
    roots = [folder for folder in below if (folder / voc_folders.XMLS).is_dir()] or [
        folder for folder in below if _holds(folder, ('.xml',))]
    for each in roots:
        place, = voc_folders.folders([each])
        lists = {name: _NAMES.get(name.rpartition('/')[2], name.rpartition('/')[2]) for name in place.lists
                 if name.rpartition('/')[2] in ('train', 'val', 'valid', 'test') and name.startswith('Main/')}
        for name, split in lists.items():
            yield Part(split, 'voc', each, place.pictures, name)
        if 'train' not in lists.values():
            whole = next((name for name in place.lists if name in ('Main/trainval', 'Main/default')), None)
            yield Part(_split_of(each, root) if each != root else '', 'voc', each, place.pictures, whole)


def _yolo(below: Sequence[pathlib.Path]) -> Iterator[Part]:
    described = [path for folder in below for path in sorted(folder.glob('*.y*ml')) if yolo.describes(path)]
    for path in described[:1]:
        for split, images in yolo.folders(path).items():
            yield Part(split, 'yolo', path, images)


def _labelme(root: pathlib.Path, below: Sequence[pathlib.Path]) -> Iterator[Part]:
    labelled = [folder for folder in below if any(map(labelme.describes, sorted(folder.glob('*.json'))))]
    splits = [_split_of(folder, root) for folder in labelled]
    if 'train' in splits and len(set(splits)) == len(splits):
        yield from (Part(split, 'labelme', folder, folder) for split, folder in zip(splits, labelled, strict=True))
    elif labelled:
        yield Part('', 'labelme', root, root)


def _write_coco(content: dict[str, Any], scratch: pathlib.Path, part: Part) -> pathlib.Path:
    path = scratch / f'{part.kind}_{part.split or "all"}.json'
    files.write_json(path, content, indent=None)
    return path


def _holds(folder: pathlib.Path, suffixes: Sequence[str]) -> bool:
    return any(name.lower().endswith(tuple(suffixes)) for name in os.listdir(folder))


def _missing(below: Sequence[pathlib.Path]) -> str:
    """Return what a folder without annotations holds instead, and what to do."""
    if any(folder.name == 'labels' for folder in below):
        return ('it has labels as of YOLO, and no data.yaml with `names` and `train`; write one, or export the data '
                f'set as COCO. {_TOOLS}')
    if any(_holds(folder, ('.json',)) for folder in below):
        return f'none of its json files is an instances json of COCO or a file of labelme. {_TOOLS}'
    return f'it has no annotations of COCO, VOC, YOLO or labelme; annotate the images and export COCO. {_TOOLS}'


def _class_file(roots: Sequence[pathlib.Path]) -> pathlib.Path | None:
    places = [place for root in roots for place in (root, root.parent)]
    return next((place / name for place in places for name in _CLASS_FILES if (place / name).is_file()), None)


def _write_classes(parts: Sequence[Part], scratch: pathlib.Path) -> pathlib.Path:
    """Write the names of all classes of the xml files, in alphabetical order, and return the file."""
    names = {name.strip() for root in _sampled(parts, None) for each in root.iterfind('object')
             if (name := each.findtext('name') or '').strip()}
    path = scratch / 'classes.txt'
    with files.atomic_path(path) as temporary:
        temporary.write_text(''.join(f'{name}\n' for name in sorted(names)), encoding='utf-8')
    return path


def _sampled(parts: Sequence[Part], most: int | None = 4 * _SAMPLE) -> Iterator[Element]:
    """Yield the roots of xml files, evenly spread over those of all parts."""
    paths = sorted({path for part in parts if part.kind == 'voc' for place in voc_folders.folders([part.annotations])
                    for path in place.xmls.glob('*.xml')})
    for path in paths[::1 if most is None else -(-len(paths) // most) or 1]:
        try:
            yield voc_xml.parse(path)
        except InvalidDataError:
            continue          # the conversion reports it


def _is_zero(text: str | None) -> bool:
    try:
        return text is not None and float(text) == 0
    except ValueError:
        return False
