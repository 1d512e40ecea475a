"""Sharded TFRecord files and their manifest: the same bytes whatever the number of processes, all or nothing.

Shards are planned before any image is read, and each is written by one process from its own items, so a shard never
depends on another. All are written in a hidden directory beside their final place; only when the last is whole do
they get their names `NAME-00000-of-0000N.tfrecord`, in place of an older set of that name, and the manifest
`NAME.json` comes last: where it stands, all it names is there.
"""
from __future__ import annotations

import contextlib
import hashlib
import math
import multiprocessing
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from data_tools.incidents import ConversionError, Log, describe
from mrcnn_tf import files
from mrcnn_tf.input.records import Annotated, Counts, Incident, Manifest, Shard, encode

LINE_EVERY = 30.0    # seconds between lines of progress where there is no terminal


class Item(Protocol):
    """What becomes one record; can be pickled."""

    @property
    def bytes(self) -> int:
        """Size of the record, roughly."""


T = TypeVar('T', bound=Item)
Make = Callable[[T], tuple[Annotated | None, Log]]    # None: the image is dropped, and the log says why


@dataclass(frozen=True)
class Options:
    """How shards are cut and written."""
    images_per_shard: int = 1000
    bytes_per_shard: int = 256 * 2 ** 20
    workers: int = 1                          # processes; a shard is written by one


DEFAULTS = Options()


@dataclass
class Part:
    """One shard, and what was found on the way."""
    shard: Shard
    counts: Counts = field(default_factory=Counts)
    max_objects: int = 0
    max_proposals: int = 0
    log: Log = field(default_factory=Log)


def write(items: Sequence[T], make: Make[T], head: Manifest, output: str | os.PathLike[str],
          options: Options = DEFAULTS) -> Manifest:
    """Writes the records of `items`, in their order, and the manifest.

    Args:
        items: one for each image; deciding their shards takes only their sizes.
        make: gives the record of an item, and what was dropped or repaired; a function that can be pickled when
            `options.workers` is above 1.
        head: name, categories, source and has_masks of the manifest, and the incidents known beforehand.
        output: directory, made where missing. An older set of the same name there is replaced at the very end.

    Returns:
        The manifest written.

    Raises:
        ConversionError: no usable name, no image left.
        OSError: the disk is full or would be, no permission, a worker process died. No shard or manifest is left.
    """
    output = pathlib.Path(output)
    if not re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]*', head.name):
        raise ConversionError(f'name {head.name!r}: use letters, digits, _, - and . only')
    output.mkdir(parents=True, exist_ok=True)
    _check_space(items, output)
    staging = output / f'.{head.name}.partial'
    files.remove(staging)     # of a run that was killed
    try:
        staging.mkdir()
        parts = _write_parts(items, make, staging, head.name, options)
        manifest = _complete(head, parts)
        _publish(manifest, [staging / _staged(k) for k in range(len(parts))], output)
    finally:
        files.remove(staging)
    return manifest


def plan(sizes: Sequence[int], options: Options) -> list[range]:
    """Cuts items into consecutive shards of nearly equal count: as few as keep to both limits on average."""
    if not sizes:
        return []
    count = max(math.ceil(len(sizes) / options.images_per_shard), math.ceil(sum(sizes) / options.bytes_per_shard))
    count = min(max(count, 1), len(sizes))
    edges = [len(sizes) * k // count for k in range(count + 1)]
    return [range(first, last) for first, last in zip(edges, edges[1:], strict=False)]


def summarize(manifest: Manifest, console: Console | None = None) -> None:
    """Prints what was written, and a table of what was dropped, repaired, or odd and kept."""
    console = console or Console()
    counts = manifest.counts
    size = sum(shard.bytes for shard in manifest.shards) / 2 ** 20
    proposed = f'at most {manifest.max_proposals_per_image} proposals an image, ' if manifest.has_proposals else ''
    console.print(
        f'{manifest.name}: {counts.images} images ({counts.images_without_objects} without objects), {counts.objects} '
        f'objects ({counts.crowds} crowds), at most {manifest.max_objects_per_image} an image, '
        f'{proposed}{len(manifest.categories)} categories; {len(manifest.shards)} shards, {size:.1f} MiB',
        soft_wrap=True, highlight=False)
    if manifest.dropped or manifest.repaired or manifest.kept:
        console.print(_table(manifest))


def _table(manifest: Manifest) -> Table:
    table = Table('', 'reason', 'count', 'the first')
    for what, incidents in (('dropped', manifest.dropped), ('repaired', manifest.repaired), ('kept', manifest.kept)):
        for reason, found in incidents.items():
            table.add_row(what, reason, str(len(found)), Text(_name(found[0])))
    return table


def _name(incident: Incident) -> str:
    annotation = '' if incident.annotation_id is None else f', annotation {incident.annotation_id}'
    return f'image {incident.image_id}{annotation}: {incident.detail}'


def _check_space(items: Sequence[Item], output: pathlib.Path) -> None:
    needed, free = sum(item.bytes for item in items), shutil.disk_usage(output).free
    if needed > free:
        raise OSError(f'{output}: about {needed / 2 ** 20:.0f} MiB are needed and {free / 2 ** 20:.0f} are free; '
                      'free some or choose another directory')


def _write_parts(items: Sequence[T], make: Make[T], staging: pathlib.Path, name: str, options: Options) -> list[Part]:
    groups = [[items[i] for i in group] for group in plan([item.bytes for item in items], options)]
    paths = [staging / _staged(k) for k in range(len(groups))]
    with _progress(name, len(items)) as show:
        if options.workers > 1 and len(groups) > 1:
            return _in_processes(groups, make, paths, min(options.workers, len(groups)), show)
        done = iter(range(1, len(items) + 1))
        return [_write_part(group, make, path, lambda: show(next(done)))
                for group, path in zip(groups, paths, strict=True)]


def _in_processes(groups: list[list[T]], make: Make[T], paths: list[pathlib.Path], workers: int,
                  show: Callable[[int], None]) -> list[Part]:
    # Not forked: TensorFlow's threads do not survive it.
    context = multiprocessing.get_context('spawn')
    done = context.Value('q', 0)
    with futures.ProcessPoolExecutor(workers, context, _count_in, (done,)) as pool:
        jobs = [pool.submit(_in_process, group, make, path) for group, path in zip(groups, paths, strict=True)]
        try:
            while futures.wait(jobs, timeout=0.2, return_when=futures.FIRST_EXCEPTION).not_done:
                show(done.value)
                _raise_first(jobs)
            show(done.value)
            return [job.result() for job in jobs]
        except BrokenProcessPool:
            raise ChildProcessError(f'{paths[0].parent.parent}: a worker process died, perhaps for want of memory; '
                                    'convert with fewer workers') from None
        finally:
            pool.shutdown(cancel_futures=True)


def _raise_first(jobs: Sequence[futures.Future[Part]]) -> None:
    for job in jobs:
        if job.done():
            job.result()


_done: Any = None     # of a worker process: images done, shared by all


def _count_in(done: Any) -> None:
    global _done
    _done = done


def _count() -> None:
    with _done.get_lock():
        _done.value += 1


def _in_process(group: list[T], make: Make[T], path: pathlib.Path) -> Part:
    return _write_part(group, make, path, _count)


def _write_part(group: Sequence[T], make: Make[T], path: pathlib.Path, advance: Callable[[], None]) -> Part:
    part = Part(Shard('', 0, 0, ''))
    with files.atomic_path(path) as temporary:
        with _tensorflow_errors(path), tf.io.TFRecordWriter(str(temporary)) as stream:
            for item in group:
                example, log = make(item)
                part.log.extend(log)
                if example is not None:
                    stream.write(encode(example))
                    _count_example(part, example)
                advance()
        part.shard = Shard('', part.counts.images, temporary.stat().st_size, _sha256(temporary))
    return part


def _count_example(part: Part, example: Annotated) -> None:
    objects = len(example.objects)
    part.counts.images += 1
    part.counts.images_without_objects += objects == 0
    part.counts.objects += objects
    part.counts.crowds += sum(each.crowd for each in example.objects)
    part.max_objects = max(part.max_objects, objects)
    if example.proposals is not None:
        part.max_proposals = max(part.max_proposals, len(example.proposals.scores))


@contextlib.contextmanager
def _tensorflow_errors(path: pathlib.Path) -> Iterator[None]:
    """TensorFlow's own errors of writing as OSError, with the directory that the user gave."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.rsplit('; ', 1)[-1]
        raise OSError(f'{path.parent.parent}: {reason}; make room there or choose another directory') from None


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as stream:
        while block := stream.read(2 ** 20):
            digest.update(block)
    return digest.hexdigest()


def _staged(index: int) -> str:
    return f'{index:05d}.tfrecord'


def _complete(head: Manifest, parts: Sequence[Part]) -> Manifest:
    log = Log()
    log.extend(Log(head.dropped, head.repaired, head.kept))
    for part in parts:
        log.extend(part.log)
    counts = Counts(*(sum(getattr(part.counts, name) for part in parts)
                      for name in ('images', 'images_without_objects', 'objects', 'crowds')))
    if not counts.images:
        raise ConversionError(f'{head.source.annotations}: no image is left to write '
                              f'({describe(log.dropped) or "it lists none"}); is {head.source.images} its directory?')
    return replace(
        head, counts=counts, max_objects_per_image=max(part.max_objects for part in parts),
        max_proposals_per_image=max(part.max_proposals for part in parts),
        dropped=dict(sorted(log.dropped.items())), repaired=dict(sorted(log.repaired.items())),
        kept=dict(sorted(log.kept.items())),
        shards=[replace(part.shard, file=f'{head.name}-{k:05d}-of-{len(parts):05d}.tfrecord')
                for k, part in enumerate(parts)])


def _publish(manifest: Manifest, staged: Sequence[pathlib.Path], output: pathlib.Path) -> None:
    final = output / f'{manifest.name}.json'
    final.unlink(missing_ok=True)     # first: no manifest may name shards of another run
    for path in output.iterdir():
        if re.fullmatch(re.escape(manifest.name) + r'-\d{5,}-of-\d{5,}\.tfrecord', path.name):
            path.unlink()
    shards = [pathlib.Path(path) for path in manifest.shard_paths(final)]
    try:
        for source, shard in zip(staged, shards, strict=True):
            os.replace(source, shard)
        manifest.write(final)
    except BaseException:
        for shard in shards:
            files.remove(shard)
        raise


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed) if task.speed else '')


def _rate(images_per_second: float) -> str:
    return f'{images_per_second:.{0 if images_per_second >= 10 else 1}f} images/s'


@contextlib.contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told the images done so far: a bar with rate and ETA, or a line now and then in a log."""
    console = Console()
    if not console.is_terminal:
        yield _lines(console, name, total)
        return
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total)
        yield lambda done: progress.update(task, completed=done)


def _lines(console: Console, name: str, total: int) -> Callable[[int], None]:
    start = last = time.monotonic()
    shown = 0

    def show(done: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if done > shown and (done == total or now - last >= LINE_EVERY):
            last, shown = now, done
            rate = done / max(now - start, 1e-9)
            left = f', {(total - done) / rate:.0f} s left' if 0 < done < total else ''
            line = f'{name}: {done} of {total} images, {_rate(rate)}{left}'
            console.print(line, soft_wrap=True, highlight=False)

    return show
