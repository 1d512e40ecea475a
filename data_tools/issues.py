"""Issues of images and annotations: what a converter dropped, repaired, or kept with a warning, counted by reason.

A format describes what is wrong as an `Issue`. The `IssueLog` stores it with the ids of the image and annotation as an
`IssueEntry` of the manifest.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mrcnn_tf.files.text import one_line
from mrcnn_tf.input.manifest import IssueEntry, Manifest

ACTIONS = ('dropped', 'repaired', 'kept')


class ConversionError(ValueError):
    """A data set that cannot be converted; the message is one line that names the file and the remedy."""


class Issue(NamedTuple):
    """What is wrong with an image or an annotation."""
    reason: str      # a few words, the same for all issues of a kind
    detail: str      # names and values of this one


class InvalidDataError(Exception):
    """An image or annotation cannot be used and has to be dropped. Never leaves a converter."""

    def __init__(self, reason: str, detail: str, annotations: int = 0) -> None:
        """annotations: number of annotations of an image, if they were counted and not read."""
        super().__init__(f'{reason}: {detail}')
        self.issue, self.annotations = Issue(reason, detail), annotations


@dataclass
class IssueLog:
    """Entries of the manifest by reason. `file` is the image or annotation file with the issue, as the data set names
    it.
    """
    dropped: dict[str, list[IssueEntry]] = field(default_factory=dict)
    repaired: dict[str, list[IssueEntry]] = field(default_factory=dict)
    kept: dict[str, list[IssueEntry]] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> IssueLog:
        """Return a log with the issues of a manifest; adding to it does not change the manifest."""
        log = cls()
        log.extend(cls(manifest.dropped, manifest.repaired, manifest.kept))
        return log

    def drop(self, issue: Issue, image_id: Any, annotation_id: Any = None, file: str = '', annotations: int = 0,
             ) -> None:
        """Add an image that is left out with its annotations, or one annotation that is left out."""
        self.dropped.setdefault(issue.reason, []).append(
            replace(_entry(issue, image_id, annotation_id, file), annotations=annotations))

    def repair(self, issue: Issue, image_id: Any, annotation_id: Any = None, file: str = '') -> None:
        """Add an image or annotation that is used in a corrected form."""
        self.repaired.setdefault(issue.reason, []).append(_entry(issue, image_id, annotation_id, file))

    def keep(self, issue: Issue, image_id: Any, annotation_id: Any = None, file: str = '') -> None:
        """Add a warning: an image or annotation looks wrong and is used as it is."""
        self.kept.setdefault(issue.reason, []).append(_entry(issue, image_id, annotation_id, file))

    def extend(self, other: IssueLog) -> None:
        """Append the entries of another log."""
        for action in ACTIONS:
            for reason, entries in getattr(other, action).items():
                getattr(self, action).setdefault(reason, []).extend(entries)


def describe_counts(entries: Mapping[str, list[IssueEntry]]) -> str:
    """Return '3 corrupt image, 1 size mismatch': the count of each reason, the most frequent first."""
    by_count = sorted(entries.items(), key=lambda item: (-len(item[1]), item[0]))
    return ', '.join(f'{len(of_reason)} {reason}' for reason, of_reason in by_count)


def describe(entry: IssueEntry) -> str:
    """Return 'image 5, annotation 11: width is 0', with the file in place of the ids if there are none."""
    return one_line(': '.join(part for part in (describe_ids(entry) or entry.file, entry.detail) if part), 500)


def describe_ids(entry: IssueEntry) -> str:
    """Return 'image 5, annotation 11'; '' if the entry has no ids."""
    ids = (('image', entry.image_id), ('annotation', entry.annotation_id))
    return ', '.join(f'{name} {value}' for name, value in ids if value is not None)


def list_issues(manifest: Manifest) -> Iterator[tuple[str, str, IssueEntry]]:
    """Yield action (dropped, repaired, kept), reason and entry of each issue, in this order."""
    for action in ACTIONS:
        for reason, entries in sorted(getattr(manifest, action).items()):
            for entry in entries:
                yield action, reason, entry


def issue_line(action: str, reason: str, entry: IssueEntry) -> str:
    """Return 'a.json: image 5, annotation 11: dropped, box without area: width is 0'."""
    parts = (entry.file, describe_ids(entry), f'{action}, {reason}', entry.detail)
    return one_line(': '.join(part for part in parts if part))


def _entry(issue: Issue, image_id: Any, annotation_id: Any, file: str) -> IssueEntry:
    return IssueEntry(_as_id(image_id), _as_id(annotation_id), _printable(issue.detail), _printable(file))


def _as_id(value: Any) -> int | str | None:
    """Return an int or text as it is, and anything else that an annotation may hold as an id as text."""
    return value if value is None or type(value) is int else _printable(str(value))


def _printable(text: str) -> str:
    """Return the text without surrogates, which json accepts and UTF-8 cannot encode."""
    return text.encode('utf-8', 'backslashreplace').decode()
