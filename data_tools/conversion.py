"""Convert a data set of any format to a set of records, or check it without writing."""
from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from data_tools import set_checks
from data_tools.data_set import DataSet, Item, Source
from data_tools.examples import DEFAULTS, ROTATED, TRANSCODED, Rules, make_example
from data_tools.issues import ACTIONS, ConversionError, Issue, IssueLog, issue_line, list_issues
from data_tools.set_checks import EMPTY
from data_tools.sharding import forkserver, writer
from data_tools.totals import Totals, totals_of
from mrcnn_tf.files.progress import track
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import EXIF_APPLIED, Manifest

REQUESTED = (EXIF_APPLIED, TRANSCODED, *set_checks.REQUESTED)     # reasons that an option of the user causes
_MAX_NAME = 1000       # characters, of a category


def convert(data_set: DataSet, output: str | os.PathLike[str], name: str, rules: Rules = DEFAULTS,
            options: writer.Options = writer.DEFAULTS) -> Manifest:
    """Write `OUTPUT/NAME-00000-of-0000N.tfrecord` and the manifest `OUTPUT/NAME.json`.

    Args:
        data_set: from `find` of a format.
        output: directory, made if missing.
        name: of the set.
        rules: the user's choices about images and annotations.
        options: how shards are cut and written.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: no image can be used, or most of the set is lost; an issue at which `rules` say to stop.
        OSError: the disk is full or too small, permission is denied; nothing of the new set is left.
    """
    fatal = None if rules.strict else (ROTATED,)
    _check_names(data_set.head)
    _raise_fatal(IssueLog.of(data_set.head), fatal)
    return writer.write(data_set.items, functools.partial(_make, data_set.source, rules, fatal),
                        replace(data_set.head, name=name, exif=rules.exif), output, options,
                        functools.partial(set_checks.check, allow_loss=rules.allow_loss))


def check(data_set: DataSet, rules: Rules = DEFAULTS, workers: int = 1, name: str = 'checked') -> Manifest:
    """Return the manifest that `convert` would write, without shards, after converting everything.

    Photographs with an EXIF orientation, at which `convert` would stop, are listed too; see `check_convertible`.

    Raises:
        ConversionError: an unusable name; with `rules.strict`, the first issue.
    """
    writer.check_name(name)
    fatal = None if rules.strict else ()
    _check_names(data_set.head)
    log, totals = IssueLog.of(data_set.head), Totals()
    _raise_fatal(log, fatal)
    job = functools.partial(_check_one, functools.partial(_make, data_set.source, rules, fatal))
    for of_image, issues in _map(job, data_set.items, workers):
        log.extend(issues)
        totals.add(of_image)
    return replace(data_set.head, name=name, exif=rules.exif, counts=totals.counts,
                   max_objects_per_image=totals.max_objects, dropped=log.dropped, repaired=log.repaired, kept=log.kept)


def check_convertible(manifest: Manifest, rules: Rules = DEFAULTS) -> None:
    """Raise the ConversionError that `convert` would raise, given the manifest from `check`."""
    _raise_fatal(IssueLog.of(manifest), (ROTATED,))
    set_checks.check(manifest, rules.allow_loss)


def report(manifest: Manifest) -> str:
    """Return the issues of a set as JSON: warnings about the set, counts by action and reason, and each issue."""
    return json.dumps({
        'format': 'mrcnn_tf report', 'version': 1, 'source': asdict(manifest.source), 'counts': asdict(manifest.counts),
        'notes': set_checks.warnings(manifest),
        'problem_counts': {action: {reason: len(entries) for reason, entries in sorted(
            getattr(manifest, action).items())} for action in ACTIONS},
        'problems': [{'action': action, 'reason': reason, **asdict(entry)}
                     for action, reason, entry in list_issues(manifest)]}, indent=2)     # ASCII, for any terminal


def _check_names(head: Manifest) -> None:
    for category in head.categories:
        if len(category.name) > _MAX_NAME:
            raise ConversionError(f'{head.source.annotations}: category {category.id} has a name of '
                                  f'{len(category.name):,} characters, which is stored with each of its objects; give '
                                  f'it a name of at most {_MAX_NAME:,}')


def _make(source: Source, rules: Rules, fatal: Sequence[str] | None, item: Item,
          ) -> tuple[records.Annotated | None, IssueLog]:
    """Return the record of an item and its issues; raises ConversionError for a fatal one."""
    example, log = make_example(source, rules, item)
    _raise_fatal(log, fatal)
    if example is not None and not example.objects and not rules.keep_empty:
        log.drop(Issue(EMPTY, 'dropped by --drop-empty'), item.id, file=item.file_name)
        return None, log
    return example, log


def _raise_fatal(log: IssueLog, fatal: Sequence[str] | None) -> None:
    """Raise ConversionError for the first issue with a fatal reason; None: all reasons but the requested are fatal."""
    for action in ('dropped', 'repaired'):
        for reason, entries in getattr(log, action).items():
            if reason in fatal if fatal is not None else reason not in REQUESTED:
                line = issue_line(f'would be {action}' if fatal is None else 'stopped', reason, entries[0])
                raise ConversionError(f'{line}; fix it or convert without --strict' if fatal is None else line)


def _check_one(make: Callable[[Item], tuple[records.Annotated | None, IssueLog]], item: Item,
               ) -> tuple[Totals, IssueLog]:
    """Return the totals of an image, zero if it is dropped, and its issues: small enough to send between processes."""
    example, log = make(item)
    return (Totals() if example is None else totals_of(example)), log


def _map(job: Callable[[Item], Any], items: Sequence[Item], workers: int) -> Iterator[Any]:
    """Yield the result of each item in order, and show the progress on stderr: stdout is for the report."""
    console = Console(stderr=True)
    if workers == 1 or len(items) < 2:
        yield from track(map(job, items), len(items), 'checked', console=console)
        return
    with futures.ProcessPoolExecutor(workers, forkserver.context()) as pool:
        try:
            chunk = max(1, min(100, len(items) // (4 * workers)))
            yield from track(pool.map(job, items, chunksize=chunk), len(items), 'checked', console=console)
        finally:
            pool.shutdown(cancel_futures=True)
