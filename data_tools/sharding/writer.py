"""Sharded TFRecord files and their manifest: the same bytes whatever the number of processes, all or nothing.

Shards are planned before any image is read, and each is written by one process from its own items, so a shard never
depends on another. All are written in a hidden directory beside their final place; only when the last is whole do
they get their names `NAME-00000-of-0000N.tfrecord`, in place of an older set of that name, and the manifest
`NAME.json` comes last: where it stands, all it names is there. A run that was stopped, however, is gone on with by the
next one of the same input and options, to the same bytes.
"""
from __future__ import annotations

import functools
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools import remains
from data_tools.images import TRANSCODABLE
from data_tools.issues import ConversionError, Log
from data_tools.sharding import beam, processes, shards
from data_tools.sharding import staging as stages
from data_tools.sharding.shards import Job, Make, Part, T
from mrcnn_tf.files.progress import Update, print_line, progress_bar
from mrcnn_tf.input.manifest import Counts, Manifest


@dataclass(frozen=True)
class Options:
    """How shards are cut and written."""
    images_per_shard: int = 1000
    bytes_per_shard: int = 256 * 2 ** 20
    workers: int = 1                          # processes; a shard is written by one
    beam: tuple[str, ...] | None = None       # options of Apache Beam, which then writes the shards; None: `workers` do

    def __post_init__(self) -> None:
        if self.beam is not None and self.workers > 1:
            raise ConversionError('Beam decides itself how many workers it has, not --workers; for its local runner: '
                                  '--beam-option=--direct_running_mode=multi_processing '
                                  f'--beam-option=--direct_num_workers={self.workers}')


DEFAULTS = Options()
_DIED = ('a worker process died, perhaps for want of memory; convert with fewer workers: '
         'it goes on from the shards that are whole')


def write(items: Sequence[T], make: Make[T], head: Manifest, output: str | os.PathLike[str],
          options: Options = DEFAULTS, check: Callable[[Manifest], None] = remains.check_left) -> Manifest:
    """Writes the records of `items`, in their order, and the manifest; goes on where an equal run was stopped.

    Args:
        items: one for each image; deciding their shards takes only their sizes. With `make` they hold all that decides
            the records but the bytes of files; what they hold of those (size, time of change) tells a changed file.
        make: gives the record of an item, and what was dropped or repaired; a function that can be pickled.
        head: name, categories, source and has_masks of the manifest, and the incidents known beforehand.
        output: directory, made where missing. An older set of the same name there is replaced at the very end.
        check: raises ConversionError where too little is left for a set.

    Returns:
        The manifest written.

    Raises:
        ConversionError: no usable name or directory, and what `check` raises: by default where nothing is left.
        OSError: the disk is full or would be, no permission, a worker process died, another run writes the same set.
            No shard or manifest of the new set is left under its name, and an older set is as it was.
    """
    output = pathlib.Path(output)
    check_name(head.name)
    if output.exists() and not output.is_dir():
        raise ConversionError(f'{output} is a file; give a directory')
    output.mkdir(parents=True, exist_ok=True)
    groups = [items[group.start:group.stop] for group in plan([item.bytes for item in items], options)]
    limits = options.images_per_shard, options.bytes_per_shard
    mark = stages.fingerprint(shards.VERSIONS, make, head, limits, items=items)
    with shards.disk_errors(output), stages.claim(output, head.name) as staging:
        if staging.published == mark:
            print_line(f'{head.name}: resumes: all {len(groups)} shards are whole and have their names now')
            return Manifest.read(output / f'{head.name}.json')
        if staging.published:
            print_line(f'{head.name}: the set of an earlier run, which was whole, has its names now; it is replaced '
                         'when this one is')
        staging.begin(mark, len(groups))
        parts = _write_parts(groups, make, staging, options)
        try:
            manifest = _complete(head, parts)
            check(manifest)
        except ConversionError:
            staging.clear()
            raise
        staging.publish(manifest)
    return manifest


def check_name(name: str) -> None:
    """Raises ConversionError for the name of a set that files cannot have everywhere, or that leads elsewhere."""
    if not re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]*', name):
        raise ConversionError(f'name {name!r}: use letters, digits, _, - and . only')


def plan(sizes: Sequence[int], options: Options) -> list[range]:
    """Cuts items into consecutive shards of nearly equal count: as few as keep to both limits on average."""
    if not sizes:
        return []
    count = max(math.ceil(len(sizes) / options.images_per_shard), math.ceil(sum(sizes) / options.bytes_per_shard))
    count = min(max(count, 1), len(sizes))
    edges = [len(sizes) * k // count for k in range(count + 1)]
    return [range(first, last) for first, last in zip(edges, edges[1:], strict=False)]


def summarize(manifest: Manifest, console: Console | None = None) -> None:
    """Prints what was written, a table of what was dropped, repaired, or odd and kept, and notes on the whole."""
    console = console or Console()
    counts = manifest.counts
    size = sum(shard.bytes for shard in manifest.shards) / 2 ** 20
    proposed = f'at most {manifest.max_proposals_per_image} proposals an image, ' if manifest.has_proposals else ''
    console.print(
        f'{manifest.name}: {counts.images} images ({counts.images_without_objects} without objects), {counts.objects} '
        f'objects ({counts.crowds} crowds), at most {manifest.max_objects_per_image} an image, '
        f'{proposed}{len(manifest.categories)} categories; {len(manifest.shards)} shards, {size:.1f} MiB',
        soft_wrap=True, highlight=False)
    if counts.objects_without_mask:
        console.print(
            f'{counts.objects_without_mask} of {counts.objects} objects have a box and no mask: training gives them '
            'box losses and no mask loss, evaluation ignores them in segm numbers; --boxes leaves out all masks',
            soft_wrap=True, highlight=False)
    if manifest.dropped or manifest.repaired or manifest.kept:
        console.print(_table(manifest))
    if savable := len(manifest.dropped.get(TRANSCODABLE, ())):
        console.print(f'{savable} of the dropped images would be kept with --transcode', highlight=False)
    for note in remains.notes(manifest):
        console.print(f'{manifest.name}: {note}', soft_wrap=True, highlight=False)


def _table(manifest: Manifest) -> Table:
    table = Table('', 'reason', 'count', 'the first')
    for what, incidents in (('dropped', manifest.dropped), ('repaired', manifest.repaired), ('kept', manifest.kept)):
        for reason, found in incidents.items():
            table.add_row(what, reason, str(len(found)), Text(remains.name(found[0]), overflow='fold'))
    return table


def _write_parts(groups: Sequence[Sequence[T]], make: Make[T], staging: stages.Staging, options: Options) -> list[Part]:
    """The shards of the groups: those that an earlier run has left, and the others written."""
    jobs = [Job(staging.shard(k), group) for k, group in enumerate(groups)]
    parts = {job.path: shards.whole(job.path) for job in jobs}
    left = [job for job in jobs if parts[job.path] is None]
    _check_space(left, staging.output)
    if len(left) < len(jobs):
        print_line(f'{staging.name}: resumes: {len(jobs) - len(left)} of {len(jobs)} shards are whole')
    total = sum(len(job.items) for job in jobs)
    before = total - sum(len(job.items) for job in left)
    with progress_bar(staging.name, total, before) as update:
        made = _run(left, make, options, lambda done: update(before + done))
    parts.update({job.path: part for job, part in zip(left, made, strict=True)})
    return [part for part in parts.values() if part]


def _run(jobs: Sequence[Job], make: Make[T], options: Options, show: Update) -> list[Part]:
    if options.beam is not None and jobs:
        return beam.run(make, jobs, options.beam, show)
    died = f'{jobs[0].path.parent.parent}: {_DIED}' if jobs else _DIED
    return processes.run(functools.partial(shards.write, make), jobs, options.workers, show, died)


def _check_space(jobs: Sequence[Job], output: pathlib.Path) -> None:
    needed, free = sum(item.bytes for job in jobs for item in job.items), shutil.disk_usage(output).free
    if needed > free:
        raise OSError(f'{output}: about {needed / 2 ** 20:.3g} MiB are needed and {free / 2 ** 20:.3g} are free; '
                      'free some or choose another directory')


def _complete(head: Manifest, parts: Sequence[Part]) -> Manifest:
    log = Log()
    log.extend(Log(head.dropped, head.repaired, head.kept))
    for part in parts:
        log.extend(part.log)
    counts = sum((part.counts for part in parts), Counts())
    return replace(
        head, counts=counts, max_objects_per_image=max((part.max_objects for part in parts), default=0),
        max_proposals_per_image=max((part.max_proposals for part in parts), default=0),
        dropped=dict(sorted(log.dropped.items())), repaired=dict(sorted(log.repaired.items())),
        kept=dict(sorted(log.kept.items())),
        shards=[replace(part.shard, file=file)
                for part, file in zip(parts, stages.final_names(head.name, len(parts)), strict=True)])
