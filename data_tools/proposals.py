"""Add precomputed proposals to the records of a set, matched to its images by id; the result is a new set.

N images, m proposals of an image, T the largest number kept per image. Boxes are float32 [y1, x1, y2, x2] in px of the
image with continuous edges; `proposal_files` converts other conventions. The manifest counts what is dropped or
clipped.
"""
from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools import proposal_files, selective_search
from data_tools.issues import ConversionError, InvalidDataError, Issue, IssueLog
from data_tools.selective_search import SelectiveSearch
from data_tools.sharding import writer
from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.records import Proposals

_PER_BOX = 20      # bytes of a record: four floats and a score


@dataclass(frozen=True)
class Item:
    """A record of the new set: the old record and its proposals."""
    place: record_reader.Place
    shard: str                    # sha256 of the old shard: a changed shard makes another item
    image: str                    # source id, for messages
    given: Proposals | None       # as in the file; None: it has none, or they are computed
    bytes: int                    # approximate size of the record


@dataclass(frozen=True)
class Context:
    """Settings for all images of a set."""
    top: int                      # T
    search: SelectiveSearch | None    # None: a file has the proposals


def attach(manifest: str | os.PathLike[str], proposals: str | os.PathLike[str] | SelectiveSearch,
           output: str | os.PathLike[str], name: str, top: int = 2000,
           options: writer.Options = writer.DEFAULTS) -> Manifest:
    """Write a new set with the records of a set and their proposals, and print a summary.

    Args:
        manifest: of the set without proposals; it is not changed.
        proposals: file of proposals (see `proposal_files.read`), or the search that computes them.
        output: directory of the new set.
        name: of the new set.
        top: T; the proposals of the highest scores are kept.
        options: how shards are cut and written.

    Returns:
        The manifest that was written. An image without proposals is kept with none, and counted.

    Raises:
        ConversionError: `proposals` cannot be used or fits no image, the set would replace itself.
        ManifestError, RecordError: the old set cannot be used.
        OSError: the disk is full or too small, permission is denied; nothing of the new set is left.
    """
    old = Manifest.read(manifest)
    _check_place(pathlib.Path(manifest), pathlib.Path(output), name)
    log = IssueLog.of(old)
    if isinstance(proposals, SelectiveSearch):
        items, context = [item for _, item in _items(manifest, top)], Context(top, proposals)
    else:
        items, context = _matched(manifest, pathlib.Path(proposals), top, log), Context(top, None)
    head = dataclasses.replace(old, name=name, dropped=log.dropped, repaired=log.repaired, kept=log.kept, shards=[],
                               has_proposals=True, proposals_from=str(proposals))
    written = writer.write(items, functools.partial(_example, context), head, output, options)
    writer.summarize(written)
    return written


def _check_place(manifest: pathlib.Path, output: pathlib.Path, name: str) -> None:
    if (output / f'{name}.json').resolve() == manifest.resolve():
        raise ConversionError(f'{manifest}: the new set would replace it; give another name or output')


def _items(manifest: str | os.PathLike[str], top: int) -> Iterator[tuple[tuple[str, str], Item]]:
    """Yield each record as an item without proposals, with the two names that a file may use for its image."""
    described = Manifest.read(manifest)
    sums = dict(zip(described.shard_paths(manifest), (shard.sha256 for shard in described.shards), strict=True))
    for place, serialized in record_reader.places(manifest):
        source_id, filename = record_reader.names(serialized, f'{place.file}: record {place.number}')
        yield (source_id, pathlib.PurePosixPath(filename).stem), Item(
            place, sums[place.file], source_id, None, place.length + _PER_BOX * top)


def _matched(manifest: str | os.PathLike[str], path: pathlib.Path, top: int, log: IssueLog) -> list[Item]:
    given = proposal_files.read(path)
    items, used = [], set()
    for names, item in _items(manifest, top):
        key = next((each for each in names if each in given), None)
        if key is None:
            log.keep(Issue('no proposals for the image', 'kept with none'), item.image)
            items.append(dataclasses.replace(item, bytes=item.place.length))
            continue
        used.add(key)
        kept = min(top, len(given[key].scores))
        items.append(dataclasses.replace(item, given=given[key], bytes=item.place.length + _PER_BOX * kept))
    if not used:
        raise ConversionError(f'{path}: its image ids ({_some(list(given))}) are not ids of images of {manifest} '
                              f'({_some([item.image for item in items])}); give the proposals for this set')
    for key in given:
        if key not in used:
            log.drop(Issue('proposals for a missing image', f'{len(given[key].scores)} boxes'), key)
    return items


def _some(names: Sequence[str]) -> str:
    return f'{", ".join(f"{name:.40}" for name in names[:3])}{", ..." if len(names) > 3 else ""}' if names else 'none'


def _example(context: Context, item: Item) -> tuple[records.Annotated | None, IssueLog]:
    """Return the record with its proposals, and what was dropped or clipped."""
    log = IssueLog()
    example = record_reader.decode(record_reader.read(item.place), f'{item.place.file}: record {item.place.number}')
    given = item.given
    if context.search is not None:
        try:
            given = selective_search.propose(example.encoded, context.search.mode)
        except InvalidDataError as error:
            log.keep(Issue('no proposals for the image', error.issue.detail), item.image)
    if given is None:
        given = Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    example.proposals = _best(given, (example.height, example.width), context.top, item.image, log)
    return example, log


def _best(given: Proposals, size: tuple[int, int], top: int, image: str, log: IssueLog) -> Proposals:
    """Return the T best proposals clipped to the image, best first; the first in the file among equal scores."""
    finite = np.isfinite(given.boxes).all(axis=1) & np.isfinite(given.scores)
    _log_some(log.drop, 'non-finite proposals', ~finite, image)
    given = Proposals(given.boxes[finite], given.scores[finite])
    clipped = np.clip(given.boxes, 0, np.array(size * 2, np.float32))
    usable = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    _log_some(log.drop, 'proposals without area in the image', ~usable, image)
    beyond = usable & (np.abs(given.boxes - clipped) > 1e-3).any(axis=1)
    _log_some(log.repair, 'proposals clipped', beyond, image)
    order = np.argsort(-given.scores[usable], kind='stable')[:top]
    return Proposals(clipped[usable][order], given.scores[usable][order])


def _log_some(note: Callable[[Issue, Any], None], reason: str, some: np.ndarray, image: str) -> None:
    if count := np.count_nonzero(some):
        note(Issue(reason, f'{count} of {len(some)}'), image)
