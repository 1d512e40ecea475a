"""Totals of records, as the manifest states them, added up in one place for all that write or check records."""
from __future__ import annotations

from dataclasses import dataclass, field

from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Counts


@dataclass
class Totals:
    """Counts of records, and the most objects and proposals that one of them has."""
    counts: Counts = field(default_factory=Counts)
    max_objects: int = 0
    max_proposals: int = 0

    def add(self, other: Totals) -> None:
        """Add the totals of other records."""
        self.counts += other.counts
        self.max_objects = max(self.max_objects, other.max_objects)
        self.max_proposals = max(self.max_proposals, other.max_proposals)

    def add_record(self, record: records.Annotated) -> None:
        """Add one record."""
        self.add(totals_of(record))


def totals_of(record: records.Annotated) -> Totals:
    """Return the totals of one record."""
    proposals = 0 if record.proposals is None else len(record.proposals.scores)
    return Totals(records.count(record), len(record.objects), proposals)
