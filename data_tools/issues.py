"""What a converter could not use as it was: dropped, repaired, or odd and kept; each with its reason, counted in the
manifest.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mrcnn_tf.input.manifest import Incident


class ConversionError(ValueError):
    """A data set that cannot be converted; the message is one line that names the file and the remedy."""


class Fault(NamedTuple):
    """What is wrong: a reason of a few words, the same for all of a kind, and the details of this one."""
    reason: str
    detail: str


class Unusable(Exception):
    """An image or an annotation has to be dropped. Never leaves a converter.

    annotations: of an image, how many it had, where they were counted and not read.
    """

    def __init__(self, reason: str, detail: str, annotations: int = 0) -> None:
        super().__init__(f'{reason}: {detail}')
        self.fault, self.annotations = Fault(reason, detail), annotations


@dataclass
class Log:
    """Incidents by reason. `file` is the image or the annotation file at fault, as the data set names it."""
    dropped: dict[str, list[Incident]] = field(default_factory=dict)
    repaired: dict[str, list[Incident]] = field(default_factory=dict)
    kept: dict[str, list[Incident]] = field(default_factory=dict)

    def drop(self, fault: Fault, image_id: Any, annotation_id: Any = None, file: str = '', annotations: int = 0,
             ) -> None:
        """An image with its annotations, or one annotation of it, is left out."""
        self.dropped.setdefault(fault.reason, []).append(
            replace(_incident(fault, image_id, annotation_id, file), annotations=annotations))

    def repair(self, fault: Fault, image_id: Any, annotation_id: Any = None, file: str = '') -> None:
        """An image, or one annotation of it, is kept in another form."""
        self.repaired.setdefault(fault.reason, []).append(_incident(fault, image_id, annotation_id, file))

    def keep(self, fault: Fault, image_id: Any, annotation_id: Any = None, file: str = '') -> None:
        """An image, or one annotation of it, is odd and kept as it is."""
        self.kept.setdefault(fault.reason, []).append(_incident(fault, image_id, annotation_id, file))

    def extend(self, other: Log) -> None:
        """Adds the incidents of `other` behind these."""
        for mine, others in ((self.dropped, other.dropped), (self.repaired, other.repaired), (self.kept, other.kept)):
            for reason, incidents in others.items():
                mine.setdefault(reason, []).extend(incidents)


def describe(incidents: Mapping[str, list[Incident]]) -> str:
    """'3 corrupt image, 1 size mismatch': one line, the most frequent first."""
    by_count = sorted(incidents.items(), key=lambda item: (-len(item[1]), item[0]))
    return ', '.join(f'{len(found)} {reason}' for reason, found in by_count)


def _incident(fault: Fault, image_id: Any, annotation_id: Any, file: str) -> Incident:
    return Incident(_as_id(image_id), _as_id(annotation_id), _printable(fault.detail), _printable(file))


def _as_id(value: Any) -> int | str | None:
    """The data set's id as it is where it is an int or text; anything else, as an annotation may hold, as text."""
    return value if value is None or type(value) is int else _printable(str(value))


def _printable(text: str) -> str:
    """Halves of characters, which json lets through, cannot be written."""
    return text.encode('utf-8', 'backslashreplace').decode()
