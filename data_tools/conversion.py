"""From a set of images and annotations to records or to a report: what is alike for all kinds of annotations.

A kind (COCO, VOC, Cityscapes) gives a DataSet: its images, in order, and a Source that tells what is annotated on one.
"""
from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from rich.console import Console

from data_tools import images, remains
from data_tools.issues import ConversionError, Fault, Log, Unusable
from data_tools.remains import EMPTY
from data_tools.sharding import forkserver, writer
from mrcnn_tf.config import DataConfig
from mrcnn_tf.files.progress import track
from mrcnn_tf.files.text import one_line
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import EXIF_APPLIED, EXIF_IGNORED, Category, Counts, Incident, Manifest

EXIF = ('error', 'apply', 'ignore')
TURNED = 'EXIF orientation'
TRANSCODED = 'image transcoded to PNG'
ASKED_FOR = (EXIF_APPLIED, TRANSCODED, *remains.ASKED_FOR)     # what an option does
_LONGEST_NAME = 1000       # characters, of a category
_MOST_OBJECTS = 100_000    # of an image
ACTIONS = ('dropped', 'repaired', 'kept')


@dataclass(frozen=True)
class Rules:
    """What the user decides of images and annotations."""
    exif: str = EXIF[0]          # of photographs to be turned: stop, turn the pixels, leave them
    keep_empty: bool = True      # images without objects
    strict: bool = False         # stop where something would be dropped or repaired
    max_pixels: int = DataConfig.max_pixels      # larger images are dropped before they are decoded
    transcode: bool = False      # make PNGs of formats other than JPEG and PNG
    allow_loss: bool = False     # go on where more than half of the objects or images are lost

    def __post_init__(self) -> None:
        if self.exif not in EXIF:
            raise ConversionError(f'exif is {self.exif!r}, expected one of {", ".join(EXIF)}')


DEFAULTS = Rules()


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a set, before its files are read."""
    id: int | str        # the data set's
    number: int          # `image/id`
    file_name: str       # as the data set names it
    bytes: int           # of the record, roughly
    modified: int        # of its files, as `held` gives it: a set whose files have changed is another one
    told: Any = None     # what the Source knows of it
    split: str = ''
    city: str = ''


@dataclass(frozen=True)
class Told:
    """What is annotated on an image."""
    objects: Sequence[tuple[Any, Any]]         # id as the data set has it, and what Source.annotate takes
    file: str                                  # where it is said, for messages
    size: tuple[int, int] | None = None        # height, width; None: not stated
    channels: int | None = None
    odd: list[Fault] = field(default_factory=list)


class Source(Protocol):
    """A kind of annotations; can be pickled."""

    def path(self, item: Item) -> pathlib.Path:
        """The image's file."""

    def tell(self, item: Item) -> Told:
        """Reads what is annotated on an image; raises Unusable where that cannot be read."""

    def annotate(self, item: Item, value: Any, file: images.ImageFile,
                 ) -> tuple[records.ObjectAnnotation, list[Fault], list[Fault]]:
        """One object, what was repaired and what is odd about it; raises Unusable where it cannot be used."""


@dataclass(frozen=True)
class DataSet:
    """A set before any image is read; `head` has all of the manifest that is known so far, but its name."""
    head: Manifest
    items: Sequence[Item]
    source: Source


def convert(found: DataSet, output: str | os.PathLike[str], name: str, rules: Rules = DEFAULTS,
            options: writer.Options = writer.DEFAULTS) -> Manifest:
    """Writes `OUTPUT/NAME-00000-of-0000N.tfrecord` and the manifest `OUTPUT/NAME.json`.

    Raises:
        ConversionError: no image can be used, or most of the set is lost; `rules` say to stop where something did.
        OSError: the disk is full or would be, no permission; nothing of the new set is left.
    """
    fatal = None if rules.strict else (TURNED,)
    _check_names(found.head)
    _stop(Log(found.head.dropped, found.head.repaired), fatal)
    return writer.write(found.items, functools.partial(_make, found.source, rules, fatal),
                        replace(found.head, name=name, exif=rules.exif), output, options,
                        functools.partial(remains.check, allow_loss=rules.allow_loss))


def check(found: DataSet, rules: Rules = DEFAULTS, workers: int = 1, name: str = 'checked') -> Manifest:
    """What `convert` would write, without shards: a manifest of that name in which each problem is listed.

    Every image is decoded and every object made. Photographs to be turned, at which `convert` would stop, are listed
    too; `check_convertible` tells.

    Raises:
        ConversionError: an unusable name; with `rules.strict`, at the first problem.
    """
    writer.check_name(name)
    fatal = None if rules.strict else ()
    _check_names(found.head)
    log = Log()
    log.extend(Log(found.head.dropped, found.head.repaired, found.head.kept))
    _stop(log, fatal)
    counts, most = Counts(), 0
    job = functools.partial(_tally, functools.partial(_make, found.source, rules, fatal))
    for of_image, incidents in _each(job, found.items, workers):
        log.extend(incidents)
        counts, most = counts + of_image, max(most, of_image.objects)
    return replace(found.head, name=name, exif=rules.exif, counts=counts, max_objects_per_image=most,
                   dropped=log.dropped, repaired=log.repaired, kept=log.kept)


def check_convertible(manifest: Manifest, rules: Rules = DEFAULTS) -> None:
    """Raises what `convert` would, given what `check` has found: ConversionError where it stops, or too little is left.
    """
    _stop(Log(manifest.dropped, manifest.repaired), (TURNED,))
    remains.check(manifest, rules.allow_loss)


def problems(manifest: Manifest) -> Iterator[tuple[str, str, Incident]]:
    """Action (dropped, repaired, kept), reason and incident of each problem, in this order."""
    for action in ACTIONS:
        for reason, incidents in sorted(getattr(manifest, action).items()):
            for incident in incidents:
                yield action, reason, incident


def line(action: str, reason: str, incident: Incident) -> str:
    """'a.json: image 5, annotation 11: dropped, box without area: width is 0'."""
    ids = [f'{what} {value}' for what, value in
           (('image', incident.image_id), ('annotation', incident.annotation_id)) if value is not None]
    return one_line(': '.join(part for part in (
        incident.file, ', '.join(ids), f'{action}, {reason}', incident.detail) if part))


def report(manifest: Manifest) -> str:
    """The problems of a set as JSON: notes on the whole, counts by action and reason, and each with file and ids."""
    return json.dumps({
        'format': 'mrcnn_tf report', 'version': 1, 'source': asdict(manifest.source), 'counts': asdict(manifest.counts),
        'notes': remains.notes(manifest),
        'problem_counts': {action: {reason: len(found) for reason, found in sorted(getattr(manifest, action).items())}
                           for action in ACTIONS},
        'problems': [{'action': action, 'reason': reason, **asdict(incident)}
                     for action, reason, incident in problems(manifest)]}, indent=2)     # ASCII: it goes to a terminal


def example(source: Source, rules: Rules, item: Item) -> tuple[records.Annotated | None, Log]:
    """The record of one image, None where it cannot be used, and what was dropped, repaired or odd."""
    log, count = Log(), 0
    try:
        _check_utf_8(item)
        told = source.tell(item)
        check_count(len(told.objects))
        count = len(told.objects)
        file = _image(source.path(item), item, told, rules, log)
    except Unusable as unusable:
        log = Log()
        more = f' (and its {count} annotations)' if count else ''
        log.drop(Fault(unusable.fault.reason, unusable.fault.detail + more), item.id, file=item.file_name,
                 annotations=count or unusable.annotations)
        return None, log
    for fault in told.odd:
        log.keep(fault, item.id, file=told.file)
    objects = [_object(source, item, each, file, told.file, log) for each in told.objects]
    return records.Annotated(
        encoded=file.data, format=file.format, filename=item.file_name, source_id=str(item.id), image_id=item.number,
        height=file.height, width=file.width, objects=[each for each in objects if each is not None],
        channels=file.channels, dtype=file.dtype, split=item.split, city=item.city), log


def categories(names: Sequence[str]) -> list[Category]:
    """Labels and ids 1..K in the order given."""
    return [Category(label, label, name) for label, name in enumerate(names, 1)]


def numbers(ids: Sequence[str]) -> list[int]:
    """`image/id` of each text: the number that it is where all are different numbers, else the ordinal from 1."""
    values = [int(each) if each.isascii() and each.isdigit() and len(each) < 19 else None for each in ids]
    if None in values or len(set(values)) < len(values):
        return list(range(1, len(ids) + 1))
    return [value for value in values if value is not None]


def held(*paths: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes of the files that are there, and the sum of their times of modification, ns: it changes where one does."""
    size = modified = 0
    for path in paths:
        with contextlib.suppress(OSError, ValueError):      # ValueError: a NUL in the name
            status = os.stat(path)
            size, modified = size + status.st_size, modified + status.st_mtime_ns
    return size, modified


def _check_names(head: Manifest) -> None:
    for category in head.categories:
        if len(category.name) > _LONGEST_NAME:
            raise ConversionError(f'{head.source.annotations}: category {category.id} has a name of '
                                  f'{len(category.name):,} characters, which each of its objects would repeat; give it '
                                  f'one of at most {_LONGEST_NAME:,}')


def check_count(annotations: int) -> None:
    """Raises Unusable where an image has more annotations than are converted."""
    if annotations > _MOST_OBJECTS:
        raise Unusable('too many annotations', f'{annotations:,} on one image, at most {_MOST_OBJECTS:,} are '
                                               'converted; cut the image into smaller ones', annotations)


def _check_utf_8(item: Item) -> None:
    """Raises Unusable where the name of a file holds bytes that no record can hold as text."""
    try:
        f'{item.id}{item.file_name}'.encode()
    except UnicodeEncodeError:
        raise Unusable('file name not in UTF-8', f'{item.file_name!r:.200}; rename the file') from None


def _image(path: pathlib.Path, item: Item, told: Told, rules: Rules, log: Log) -> images.ImageFile:
    file = images.read(path, rules.max_pixels, rules.transcode)
    if file.orientation != 1 and rules.exif == 'error':
        fits = {file.turned_size(): 'apply', (file.height, file.width): 'ignore'}.get(told.size or (0, 0))
        both = file.turned_size() == (file.height, file.width)
        hint = f'; the annotated size is that of exif {fits}' if fits and not both else ''
        raise Unusable(TURNED, f'its EXIF says to turn it ({file.orientation}): choose exif apply where annotations '
                               f'are of the turned picture, ignore where of the pixels as stored{hint}')
    stored = file
    if file.orientation != 1 and rules.exif == 'apply':
        file = images.turn(file, item.file_name)
    if told.size is not None and told.size != (file.height, file.width):
        turned = ', and its EXIF says to turn it' if file.orientation != 1 else ''
        exchanged = ': exchanged' if told.size == (file.width, file.height) else ''
        raise Unusable('size mismatch', f'{item.file_name}: height {file.height}, width {file.width}{turned}; the '
                                        f'annotations say height {told.size[0]}, width {told.size[1]}{exchanged}')
    _note(item, told, stored, rules, log)
    return file


def _note(item: Item, told: Told, file: images.ImageFile, rules: Rules, log: Log) -> None:
    """What is odd about an image and no reason to drop it."""
    if file.orientation != 1:
        detail = f'orientation {file.orientation}'
        if rules.exif == 'apply':
            log.repair(Fault(EXIF_APPLIED, detail), item.id, file=item.file_name)
        else:
            log.keep(Fault(EXIF_IGNORED, detail), item.id, file=item.file_name)
    if file.elsewhere != 1:
        log.keep(Fault('orientation outside of EXIF', f'XMP or a text says to turn it ({file.elsewhere}); it stays '
                                                      'as stored, as browsers show it'), item.id, file=item.file_name)
    if file.transcoded:
        log.repair(Fault(TRANSCODED, file.transcoded), item.id, file=item.file_name)
    if told.channels is not None and told.channels != file.channels:
        log.keep(Fault('channels differ', f'the file has {file.channels}, the annotations say {told.channels}'),
                 item.id, file=told.file)


def _object(source: Source, item: Item, annotation: tuple[Any, Any], file: images.ImageFile, name: str, log: Log,
            ) -> records.ObjectAnnotation | None:
    annotation_id, value = annotation
    try:
        made, repairs, odd = source.annotate(item, value, file)
    except Unusable as unusable:
        log.drop(unusable.fault, item.id, annotation_id, name)
        return None
    for repair in repairs:
        log.repair(repair, item.id, annotation_id, name)
    for fault in odd:
        log.keep(fault, item.id, annotation_id, name)
    return made


def _make(source: Source, rules: Rules, fatal: Sequence[str] | None, item: Item,
          ) -> tuple[records.Annotated | None, Log]:
    made, log = example(source, rules, item)
    _stop(log, fatal)
    if made is not None and not made.objects and not rules.keep_empty:
        log.drop(Fault(EMPTY, 'as was asked for'), item.id, file=item.file_name)
        return None, log
    return made, log


def _stop(log: Log, fatal: Sequence[str] | None) -> None:
    """Raises ConversionError at the first incident whose reason is fatal; None: all are but what was asked for."""
    for action in ('dropped', 'repaired'):
        for reason, incidents in getattr(log, action).items():
            if reason in fatal if fatal is not None else reason not in ASKED_FOR:
                where = line(f'would be {action}' if fatal is None else 'stopped', reason, incidents[0])
                raise ConversionError(f'{where}; mend it or convert without strict' if fatal is None else where)


def _tally(make: Callable[[Item], tuple[records.Annotated | None, Log]], item: Item) -> tuple[Counts, Log]:
    """Counts of an image, none of one that is dropped: small enough to send between processes."""
    made, log = make(item)
    return (Counts() if made is None else records.count(made)), log


def _each(job: Callable[[Item], Any], items: Sequence[Item], workers: int) -> Iterator[Any]:
    console = Console(stderr=True)
    if workers == 1 or len(items) < 2:
        yield from track(map(job, items), len(items), 'checked', console=console)
        return
    with futures.ProcessPoolExecutor(workers, forkserver.context()) as pool:
        try:
            results: Iterable[Any] = pool.map(job, items, chunksize=max(1, min(100, len(items) // (4 * workers))))
            yield from track(results, len(items), 'checked', console=console)
        finally:
            pool.shutdown(cancel_futures=True)
