"""Reads a converted set again from end to end and compares it with its manifest: every byte, and what it means.

Of every record: checksums, features, labels, boxes. Of a sample spread evenly over the set, or of all: the image and
the masks are decoded.
"""
from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from PIL import Image

from data_tools import images
from data_tools.issues import Unusable
from data_tools.sharding import frames, processes
from mrcnn_tf import files
from mrcnn_tf.config import DataConfig
from mrcnn_tf.files.progress import progress_bar
from mrcnn_tf.files.text import error_line, one_line
from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.manifest import Counts, Manifest, Shard

SAMPLE = 200     # images that are decoded


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be."""
    shard: str               # file name; '' for the set as a whole
    record: int | None       # in its shard, from 0; None for the shard as a whole
    byte: int | None         # where the record begins
    detail: str

    def line(self) -> str:
        """'a-00000-of-00001.tfrecord: record 3 (at byte 1200): its checksum is wrong'."""
        place = '' if self.record is None else f'record {self.record} (at byte {self.byte})'
        return one_line(': '.join(part for part in (self.shard, place, self.detail) if part))


@dataclass
class Tally:
    """What was read."""
    counts: Counts = field(default_factory=Counts)
    max_objects: int = 0
    max_proposals: int = 0
    images_decoded: int = 0
    masks_decoded: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Joins what was read elsewhere."""
        self.counts += other.counts
        self.max_objects = max(self.max_objects, other.max_objects)
        self.max_proposals = max(self.max_proposals, other.max_proposals)
        self.images_decoded += other.images_decoded
        self.masks_decoded += other.masks_decoded
        self.problems += other.problems


@dataclass(frozen=True)
class Report:
    """What came out for a set."""
    manifest: str
    shards: int
    tally: Tally

    def text(self) -> str:
        """One line for each problem, then one of what was read."""
        tally, counts = self.tally, self.tally.counts
        ends = (f'{len(tally.problems)} problems; copy or convert again what is named above' if tally.problems
                else 'all is as the manifest says')
        read = (f'{self.shards} shards, {counts.images} records and {counts.objects} objects read, '
                f'{tally.images_decoded} images and {tally.masks_decoded} masks decoded')
        return '\n'.join([*(problem.line() for problem in tally.problems),
                          one_line(f'{self.manifest}: {read}: {ends}')])

    def json(self) -> str:
        """The same for programs, in ASCII: it goes to a terminal too."""
        return json.dumps({'format': 'mrcnn_tf verification', 'version': 1, 'manifest': self.manifest,
                           'shards': self.shards, **dataclasses.asdict(self.tally)}, indent=2)


@dataclass(frozen=True)
class Job:
    """A shard to read."""
    path: pathlib.Path
    shard: Shard
    first: int               # record of the set


@dataclass(frozen=True)
class Expected:
    """What is the same for all shards of a set."""
    names: list[str]         # of labels 1..K
    masks: bool
    proposals: bool
    sample: int              # of `images`
    images: int

    def decodes(self, record: int) -> bool:
        """Whether a record of the set, counted from 0, is in the sample."""
        return (record + 1) * self.sample // self.images > record * self.sample // self.images


def verify(manifest: str | os.PathLike[str], sample: int = SAMPLE, workers: int = 1) -> Report:
    """Reads all shards.

    Args:
        sample: images that are decoded with their masks, spread evenly; 0: all.
        workers: processes, each with a shard at a time.

    Raises:
        ManifestError: the manifest itself cannot be used.
        ValueError: a negative sample.
    """
    if sample < 0:
        raise ValueError(f'cannot decode {sample} images')
    stated = Manifest.read(manifest, shards=False)
    total = max(1, sum(shard.records for shard in stated.shards))
    expected = Expected([category.name for category in stated.categories], stated.has_masks, stated.has_proposals,
                        min(sample or total, total), total)
    tally = Tally()
    with progress_bar(stated.name, total, unit='records') as update:
        for each in processes.run(functools.partial(_read_shard, expected), _jobs(stated, manifest), workers, update,
                                  f'{manifest}: a worker process died, perhaps for want of memory; use fewer workers'):
            tally.add(each)
    tally.problems += _compare(stated, tally)
    return Report(str(manifest), len(stated.shards), tally)


def _jobs(manifest: Manifest, path: str | os.PathLike[str]) -> list[Job]:
    first, jobs = 0, []
    for shard, file in zip(manifest.shards, manifest.shard_paths(path), strict=True):
        jobs.append(Job(pathlib.Path(file), shard, first))
        first += shard.records
    return jobs


def _compare(manifest: Manifest, tally: Tally) -> list[Problem]:
    """The sums, unless what was found already explains why they differ."""
    if tally.problems:
        return []
    found = {**dataclasses.asdict(tally.counts), 'max_objects_per_image': tally.max_objects,
             'max_proposals_per_image': tally.max_proposals}
    stated = {**dataclasses.asdict(manifest.counts), 'max_objects_per_image': manifest.max_objects_per_image,
              'max_proposals_per_image': manifest.max_proposals_per_image}
    return [Problem('', None, None, f'the manifest says {name} {stated[name]}, the records hold {value}')
            for name, value in found.items() if value != stated[name]]


class _Hashed:
    """Passes the bytes of a file on and keeps their checksum."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest, self.bytes = stream, hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        self.bytes += len(data)
        return data

    def sha256(self) -> str:
        """Of the whole file."""
        while self.read(2 ** 20):
            pass
        return self._digest.hexdigest()


def _read_shard(expected: Expected, job: Job, advance: Callable[[], None]) -> Tally:
    tally = Tally()
    try:
        with files.open_regular(job.path) as file:
            stream, held = _Hashed(file), 0
            for frame in frames.frames(stream):
                held += 1
                details = [frame.fault] if frame.fault else _read_record(expected, job, frame, tally)
                tally.problems += [Problem(job.shard.file, frame.number, frame.start, each) for each in details]
                advance()
            digest = stream.sha256()
    except OSError as error:
        tally.problems.append(Problem(job.shard.file, None, None, str(error.strerror)))
        return tally
    if not tally.problems:
        tally.problems += [Problem(job.shard.file, None, None, f'it has {what} {found}, the manifest says {stated}')
                           for what, found, stated in (('bytes:', stream.bytes, job.shard.bytes),
                                                       ('records:', held, job.shard.records),
                                                       ('sha256', digest, job.shard.sha256)) if found != stated]
    return tally


def _read_record(expected: Expected, job: Job, frame: frames.Frame, tally: Tally) -> list[str]:
    """What is wrong with a record."""
    origin = f'{job.shard.file}: record {frame.number}'
    try:
        example = record_reader.decode(frame.data, origin)
    except record_reader.RecordError as error:
        return [str(error).removeprefix(f'{origin}: ')]
    _count(tally, example)
    found = [*_of_objects(expected, example), *_of_proposals(expected, example)]
    if expected.decodes(job.first + frame.number):
        tally.images_decoded += 1
        tally.masks_decoded += sum(each.mask is not None and each.has_mask for each in example.objects)
        found += [*_of_image(example), *_of_masks(example)]
    return [f'image {example.source_id}: {each}' for each in found]


def _count(tally: Tally, example: records.Annotated) -> None:
    proposals = 0 if example.proposals is None else len(example.proposals.scores)
    tally.add(Tally(records.count(example), len(example.objects), proposals))


def _of_objects(expected: Expected, example: records.Annotated) -> Iterator[str]:
    for each in example.objects:
        name = f'annotation {each.annotation_id}'
        if not 1 <= each.label <= len(expected.names):
            yield f'{name} has label {each.label}, expected 1 to {len(expected.names)}'
        elif each.name not in ('', expected.names[each.label - 1]):      # others' records may have none
            yield f'{name} is a {each.name!r}, its label {each.label} a {expected.names[each.label - 1]!r}'
        if fault := _of_box(each.box, example):
            yield f'{name} has the box {list(each.box)}, {fault}'
        if not 0 <= each.area < math.inf:
            yield f'{name} has the area {each.area}'
        if (each.mask is not None) != expected.masks:
            yield f'{name} has {"a" if each.mask is not None else "no"} mask, the manifest says otherwise'


def _of_box(box: Iterable[float], example: records.Annotated) -> str:
    y1, x1, y2, x2 = box
    if not all(map(math.isfinite, (y1, x1, y2, x2))):
        return 'which is not finite'
    if not (0 <= y1 < y2 <= example.height and 0 <= x1 < x2 <= example.width):
        return f'which is not within {example.height} x {example.width} px'
    return ''


def _of_proposals(expected: Expected, example: records.Annotated) -> Iterator[str]:
    if (example.proposals is not None) != expected.proposals:
        yield f'it has {"" if example.proposals is not None else "no "}proposals, the manifest says otherwise'
    if example.proposals is None:
        return
    for i, box in enumerate(example.proposals.boxes.tolist()):
        if fault := _of_box(box, example):
            yield f'proposal {i} is {box}, {fault}'
    if not np.isfinite(example.proposals.scores).all():
        yield 'a score of its proposals is not finite'


def _of_image(example: records.Annotated) -> Iterator[str]:
    try:
        # As large as the record says, or as any image may be: not what takes all memory.
        limit = max(DataConfig.max_pixels, example.height * example.width)
        file = images.check(example.encoded, example.filename, limit)
    except Unusable as unusable:
        yield str(unusable)
        return
    stated = {'format': example.format, 'height': example.height, 'width': example.width, 'channels': example.channels,
              'dtype': example.dtype}
    for name, value in stated.items():
        if value not in (None, '', getattr(file, name)):
            yield f'{name} of the picture is {getattr(file, name)}, the record says {value}'


def _of_masks(example: records.Annotated) -> Iterator[str]:
    for each in example.objects:
        if each.mask is not None and (fault := _of_mask(each.mask, (example.height, example.width), each.has_mask)):
            yield f'the mask of annotation {each.annotation_id} {fault}'


def _of_mask(png: bytes, size: tuple[int, int], has_mask: bool) -> str:
    try:
        with Image.open(io.BytesIO(png)) as image:
            mask = np.asarray(image)
    except Exception as error:      # Pillow's decoders raise almost anything
        return f'cannot be decoded: {error_line(error)}'
    if mask.dtype != np.uint8 or mask.shape != size:
        return f'is {mask.dtype} {list(mask.shape)}, expected uint8 {list(size)}'
    if mask.max() > 1:
        return 'holds other values than 0 and 1'
    if mask.any() != has_mask:
        return 'covers no pixel' if has_mask else 'covers pixels, though the record says that the object has no mask'
    return ''
