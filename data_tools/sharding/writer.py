"""Write a set: sharded TFRecord files and their manifest, with the same bytes for any number of processes.

Shards are planned from the sizes of the items before any image is read, and one process writes each, so no shard
depends on another. All are written to a staging directory. When the last is complete, the shards are renamed to
`NAME-00000-of-0000N.tfrecord`, in place of an older set of that name, and the manifest `NAME.json` comes last: if it
exists, so do all its shards. The next run with the same input and options resumes a stopped one, to the same bytes.
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

from data_tools import set_checks
from data_tools.images import TRANSCODABLE
from data_tools.issues import ACTIONS, ConversionError, IssueLog, describe
from data_tools.sharding import beam, processes, shards
from data_tools.sharding import staging as stages
from data_tools.sharding.shards import Job, Make, T, WrittenShard
from data_tools.totals import Totals
from mrcnn_tf import files
from mrcnn_tf.files.progress import Update, print_line, progress_bar
from mrcnn_tf.input.manifest import Manifest


@dataclass(frozen=True)
class Options:
    """How shards are cut and written."""
    images_per_shard: int = 1000
    bytes_per_shard: int = 256 * 2 ** 20
    workers: int = 1                          # processes; each writes whole shards
    beam: tuple[str, ...] | None = None       # options of Apache Beam, which writes the shards; None: `workers` do

    def __post_init__(self) -> None:
        if self.beam is not None and self.workers > 1:
            raise ConversionError('--workers has no effect with Beam; for its local runner give '
                                  '--beam-option=--direct_running_mode=multi_processing '
                                  f'--beam-option=--direct_num_workers={self.workers}')


DEFAULTS = Options()
_DIED = ('a worker process died, perhaps out of memory; run the same command with fewer workers: it continues '
         'after the complete shards')


def write(items: Sequence[T], make: Make[T], head: Manifest, output: str | os.PathLike[str],
          options: Options = DEFAULTS, check: Callable[[Manifest], None] = set_checks.check_not_empty) -> Manifest:
    """Write the records of the items, in order, and the manifest; resume an interrupted run of the same input.

    Args:
        items: one for each image. Only their sizes decide the shards. Together with `make` they determine the records,
            except for the bytes of files; their size and modification time stand for those.
        make: returns the record of an item and its issues; can be pickled.
        head: name, categories, source and has_masks of the manifest, and the issues known beforehand.
        output: directory, made if missing. An older set of the same name is replaced at the very end.
        options: how shards are cut and written.
        check: raises ConversionError if too little is left for a set.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: an unusable name or directory; what `check` raises, by default if nothing is left.
        OSError: the disk is full or too small, permission is denied, a worker process died, another run writes the same
            set. No shard or manifest of the new set is left under its final name, and an older set is unchanged.
    """
    output = pathlib.Path(output)
    check_name(head.name)
    if output.exists() and not output.is_dir():
        raise ConversionError(f'{output} is a file; give a directory as output')
    groups = [items[group.start:group.stop] for group in plan([item.bytes for item in items], options)]
    limits = options.images_per_shard, options.bytes_per_shard
    mark = stages.fingerprint(shards.VERSIONS, make, head, limits, items=items)
    with shards.disk_errors(output), files.new_directory(output), stages.claim(output, head.name) as staging:
        if staging.published == mark:
            print_line(f'{head.name}: resumes: all {len(groups)} shards are complete and now have their final names')
            return Manifest.read(output / f'{head.name}.json')
        if staging.published:
            print_line(f'{head.name}: published the complete set of an earlier run; this run replaces it at its end')
        staging.begin(mark, len(groups))
        written = _write_shards(groups, make, staging, options)
        try:
            manifest = _complete(head, written)
            check(manifest)
        except ConversionError:
            staging.clear()
            raise
        staging.publish(manifest)
    return manifest


def check_name(name: str) -> None:
    """Raise ConversionError for a name that some file system does not allow or that contains a directory."""
    if not re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]*', name):
        raise ConversionError(f'name {name!r}: use letters, digits, _, - and . only, with no - or . at the beginning')


def plan(sizes: Sequence[int], options: Options) -> list[range]:
    """Return the fewest ranges of nearly equal length that keep to both limits on average.

    Args:
        sizes: approximate bytes of each item.
        options: the limits.
    """
    if not sizes:
        return []
    count = max(math.ceil(len(sizes) / options.images_per_shard), math.ceil(sum(sizes) / options.bytes_per_shard))
    count = min(max(count, 1), len(sizes))
    edges = [len(sizes) * k // count for k in range(count + 1)]
    return [range(first, last) for first, last in zip(edges, edges[1:], strict=False)]


def summarize(manifest: Manifest, console: Console | None = None) -> None:
    """Print the counts of a set, a table of its issues, and warnings about the set as a whole."""
    console = console or Console()
    counts = manifest.counts
    size = sum(shard.bytes for shard in manifest.shards) / 2 ** 20
    proposed = f'at most {manifest.max_proposals_per_image} proposals per image, ' if manifest.has_proposals else ''
    console.print(
        f'{manifest.name}: {counts.images} images ({counts.images_without_objects} without objects), {counts.objects} '
        f'objects ({counts.crowds} crowds), at most {manifest.max_objects_per_image} per image, '
        f'{proposed}{len(manifest.categories)} categories; {len(manifest.shards)} shards, {size:.1f} MiB',
        soft_wrap=True, highlight=False)
    if counts.objects_without_mask:
        console.print(
            f'{counts.objects_without_mask} of {counts.objects} objects have a box and no mask: they have box '
            'losses and no mask loss in training, and segm metrics ignore them; --boxes leaves out all masks',
            soft_wrap=True, highlight=False)
    if manifest.dropped or manifest.repaired or manifest.kept:
        console.print(_table(manifest))
    if transcodable := len(manifest.dropped.get(TRANSCODABLE, ())):
        console.print(f'{transcodable} of the dropped images would be kept with --transcode', highlight=False)
    for warning in set_checks.warnings(manifest):
        console.print(f'{manifest.name}: {warning}', soft_wrap=True, highlight=False)


def _table(manifest: Manifest) -> Table:
    table = Table('', 'reason', 'count', 'the first')
    for action in ACTIONS:
        for reason, entries in getattr(manifest, action).items():
            table.add_row(action, reason, str(len(entries)), Text(describe(entries[0]), overflow='fold'))
    return table


def _write_shards(groups: Sequence[Sequence[T]], make: Make[T], staging: stages.Staging, options: Options,
                  ) -> list[WrittenShard]:
    """Write the shards that an earlier run has not completed, and return all."""
    jobs = [Job(staging.shard(k), group) for k, group in enumerate(groups)]
    complete = {job.path: shards.read_complete(job.path) for job in jobs}
    left = [job for job in jobs if complete[job.path] is None]
    _check_space(left, staging.output)
    if len(left) < len(jobs):
        print_line(f'{staging.name}: resumes: {len(jobs) - len(left)} of {len(jobs)} shards are complete')
    total = sum(len(job.items) for job in jobs)
    before = total - sum(len(job.items) for job in left)
    with progress_bar(staging.name, total, before) as update:
        written = _run(left, make, options, lambda done: update(before + done))
    complete.update({job.path: shard for job, shard in zip(left, written, strict=True)})
    return [shard for shard in complete.values() if shard]


def _run(jobs: Sequence[Job], make: Make[T], options: Options, update: Update,
         ) -> list[WrittenShard]:
    if options.beam is not None and jobs:
        return beam.run(make, jobs, options.beam, update)
    died = f'{jobs[0].path.parent.parent}: {_DIED}' if jobs else _DIED
    return processes.run(functools.partial(shards.write, make), jobs, options.workers, update, died)


def _check_space(jobs: Sequence[Job], output: pathlib.Path) -> None:
    needed, free = sum(item.bytes for job in jobs for item in job.items), shutil.disk_usage(output).free
    if needed > free:
        raise OSError(f'{output}: about {needed / 2 ** 20:.3g} MiB are needed and {free / 2 ** 20:.3g} are free; '
                      'free some space or choose another directory')


def _complete(head: Manifest, written: Sequence[WrittenShard]) -> Manifest:
    """Return the manifest with the issues, totals and final names of all shards."""
    log, totals = IssueLog.of(head), Totals()
    for part in written:
        log.extend(part.log)
        totals.add(part.totals)
    return replace(
        head, counts=totals.counts, max_objects_per_image=totals.max_objects,
        max_proposals_per_image=totals.max_proposals, dropped=dict(sorted(log.dropped.items())),
        repaired=dict(sorted(log.repaired.items())), kept=dict(sorted(log.kept.items())), shards=[replace(part.shard,
        file=file)
                for part, file in zip(written, stages.final_names(head.name, len(written)), strict=True)])
