"""Verify a converted set: read all of its shards and compare them with the manifest.

Checksums, features, labels and boxes are compared for every record. Images and masks are decoded for a sample that is
spread evenly over the set, or for all records.
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
from data_tools.issues import InvalidDataError
from data_tools.sharding import frames, processes
from data_tools.totals import Totals
from mrcnn_tf import files
from mrcnn_tf.config import DataConfig
from mrcnn_tf.files.progress import progress_bar
from mrcnn_tf.files.text import error_line, one_line
from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.manifest import Manifest, Shard

SAMPLE = 200     # images to decode


@dataclass(frozen=True)
class Problem:
    """A difference from the manifest, or damage of a shard or record."""
    shard: str               # file name; '': the set as a whole
    record: int | None       # number in its shard, from 0; None: the shard as a whole
    byte: int | None         # where the record starts
    detail: str

    def line(self) -> str:
        """Return 'a-00000-of-00001.tfrecord: record 3 (at byte 1200): its checksum is wrong'."""
        place = '' if self.record is None else f'record {self.record} (at byte {self.byte})'
        return one_line(': '.join(part for part in (self.shard, place, self.detail) if part))


@dataclass
class Findings:
    """What was read of one or more shards, and the problems."""
    totals: Totals = field(default_factory=Totals)
    images_decoded: int = 0
    masks_decoded: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Add the findings of other shards."""
        self.totals.add(other.totals)
        self.images_decoded += other.images_decoded
        self.masks_decoded += other.masks_decoded
        self.problems += other.problems


@dataclass(frozen=True)
class Report:
    """The result for a set."""
    manifest: str
    shards: int
    findings: Findings

    def text(self) -> str:
        """Return a line for each problem and one that sums up what was read."""
        findings, counts = self.findings, self.findings.totals.counts
        result = (f'{len(findings.problems)} problems; copy or convert again what is named above' if findings.problems
                  else 'all is as the manifest says')
        read = (f'{self.shards} shards, {counts.images} records and {counts.objects} objects read, '
                f'{findings.images_decoded} images and {findings.masks_decoded} masks decoded')
        return '\n'.join([*(problem.line() for problem in findings.problems),
                          one_line(f'{self.manifest}: {read}: {result}')])

    def json(self) -> str:
        """Return the report as JSON, in ASCII for any terminal."""
        findings = dataclasses.asdict(self.findings)
        return json.dumps({'format': 'mrcnn_tf verification', 'version': 1, 'manifest': self.manifest,
                           'shards': self.shards, **findings.pop('totals'), **findings}, indent=2)


@dataclass(frozen=True)
class Job:
    """A shard to read."""
    path: pathlib.Path
    shard: Shard
    first: int               # number of its first record in the set


@dataclass(frozen=True)
class Expected:
    """What the manifest says about all shards of a set, and which images to decode."""
    names: list[str]         # of labels 1..K
    masks: bool
    proposals: bool
    sample: int              # images to decode
    images: int              # of the set

    def decodes(self, record: int) -> bool:
        """Return whether a record, by its number in the set from 0, is in the sample."""
        return (record + 1) * self.sample // self.images > record * self.sample // self.images


def verify(manifest: str | os.PathLike[str], sample: int = SAMPLE, workers: int = 1) -> Report:
    """Read all shards of a set and return a report.

    Args:
        manifest: of the set.
        sample: images to decode with their masks, evenly spread; 0: all.
        workers: processes, each with one shard at a time.

    Raises:
        ManifestError: the manifest itself cannot be used.
        ValueError: the sample is negative.
    """
    if sample < 0:
        raise ValueError(f'sample is {sample}, expected 0 or more')
    stated = Manifest.read(manifest, shards=False)
    total = max(1, sum(shard.records for shard in stated.shards))
    expected = Expected([category.name for category in stated.categories], stated.has_masks, stated.has_proposals,
                        min(sample or total, total), total)
    findings = Findings()
    with progress_bar(stated.name, total, unit='records') as update:
        for each in processes.run(functools.partial(_read_shard, expected), _jobs(stated, manifest), workers, update,
                                  f'{manifest}: a worker process died, perhaps out of memory; use fewer workers'):
            findings.add(each)
    findings.problems += _compare(stated, findings)
    return Report(str(manifest), len(stated.shards), findings)


def _jobs(manifest: Manifest, path: str | os.PathLike[str]) -> list[Job]:
    first, jobs = 0, []
    for shard, file in zip(manifest.shards, manifest.shard_paths(path), strict=True):
        jobs.append(Job(pathlib.Path(file), shard, first))
        first += shard.records
    return jobs


def _compare(manifest: Manifest, findings: Findings) -> list[Problem]:
    """Return differences of the totals; none if there are problems already, which explain them."""
    if findings.problems:
        return []
    totals = findings.totals
    read = {**dataclasses.asdict(totals.counts), 'max_objects_per_image': totals.max_objects,
            'max_proposals_per_image': totals.max_proposals}
    stated = {**dataclasses.asdict(manifest.counts), 'max_objects_per_image': manifest.max_objects_per_image,
              'max_proposals_per_image': manifest.max_proposals_per_image}
    return [Problem('', None, None, f'the manifest says {name} {stated[name]}, the records hold {value}')
            for name, value in read.items() if value != stated[name]]


class _Hashed:
    """Passes on the bytes of a file and computes their checksum."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest, self.bytes = stream, hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        self.bytes += len(data)
        return data

    def sha256(self) -> str:
        """Read the rest of the file and return the checksum of all of it."""
        while self.read(2 ** 20):
            pass
        return self._digest.hexdigest()


def _read_shard(expected: Expected, job: Job, advance: Callable[[], None]) -> Findings:
    findings = Findings()
    try:
        with files.open_regular(job.path) as file:
            stream, count = _Hashed(file), 0
            for frame in frames.frames(stream):
                count += 1
                details = [frame.error] if frame.error else _read_record(expected, job, frame, findings)
                findings.problems += [Problem(job.shard.file, frame.number, frame.start, each) for each in details]
                advance()
            digest = stream.sha256()
    except OSError as error:
        findings.problems.append(Problem(job.shard.file, None, None, str(error.strerror)))
        return findings
    if not findings.problems:
        findings.problems += [Problem(job.shard.file, None, None, f'it has {name} {value}, the manifest says {stated}')
                              for name, value, stated in (('bytes:', stream.bytes, job.shard.bytes),
                                                       ('records:', count, job.shard.records),
                                                       ('sha256', digest, job.shard.sha256)) if value != stated]
    return findings


def _read_record(expected: Expected, job: Job, frame: frames.Frame, findings: Findings) -> list[str]:
    """Return what is wrong with a record, and add it to the findings."""
    origin = f'{job.shard.file}: record {frame.number}'
    try:
        example = record_reader.decode(frame.data, origin)
    except record_reader.RecordError as error:
        return [str(error).removeprefix(f'{origin}: ')]
    findings.totals.add_record(example)
    details = [*_of_objects(expected, example), *_of_proposals(expected, example)]
    if expected.decodes(job.first + frame.number):
        findings.images_decoded += 1
        findings.masks_decoded += sum(each.mask is not None and each.has_mask for each in example.objects)
        details += [*_of_image(example), *_of_masks(example)]
    return [f'image {example.source_id}: {each}' for each in details]


def _of_objects(expected: Expected, example: records.Annotated) -> Iterator[str]:
    for each in example.objects:
        name = f'annotation {each.annotation_id}'
        if not 1 <= each.label <= len(expected.names):
            yield f'{name} has label {each.label}, expected 1 to {len(expected.names)}'
        elif each.name not in ('', expected.names[each.label - 1]):      # records of other converters may have no name
            yield f'{name} is a {each.name!r}, its label {each.label} a {expected.names[each.label - 1]!r}'
        if error := _of_box(each.box, example):
            yield f'{name} has the box {list(each.box)}, {error}'
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
        if error := _of_box(box, example):
            yield f'proposal {i} is {box}, {error}'
    if not np.isfinite(example.proposals.scores).all():
        yield 'a score of its proposals is not finite'


def _of_image(example: records.Annotated) -> Iterator[str]:
    try:
        # The stated size, if it is larger than images usually may be; not more, or one image could take all memory.
        limit = max(DataConfig.max_pixels, example.height * example.width)
        file = images.check(example.encoded, example.filename, limit)
    except InvalidDataError as error:
        yield str(error)
        return
    stated = {'format': example.format, 'height': example.height, 'width': example.width, 'channels': example.channels,
              'dtype': example.dtype}
    for name, value in stated.items():
        if value not in (None, '', getattr(file, name)):
            yield f'{name} of the image is {getattr(file, name)}, the record says {value}'


def _of_masks(example: records.Annotated) -> Iterator[str]:
    for each in example.objects:
        if each.mask is not None and (error := _of_mask(each.mask, (example.height, example.width), each.has_mask)):
            yield f'the mask of annotation {each.annotation_id} {error}'


def _of_mask(png: bytes, size: tuple[int, int], has_mask: bool) -> str:
    try:
        with Image.open(io.BytesIO(png)) as image:
            mask = np.asarray(image)
    except Exception as error:      # Pillow's decoders raise many types
        return f'cannot be decoded: {error_line(error)}'
    if mask.dtype != np.uint8 or mask.shape != size:
        return f'is {mask.dtype} {list(mask.shape)}, expected uint8 {list(size)}'
    if mask.max() > 1:
        return 'has other values than 0 and 1'
    if mask.any() != has_mask:
        return 'has no pixel' if has_mask else 'has pixels, although the record says that the object has no mask'
    return ''
