"""Totals of records, by hand."""
from __future__ import annotations

import numpy as np

from data_tools.totals import Totals, totals_of
from mrcnn_tf.input.manifest import Counts
from mrcnn_tf.input.records import Annotated, ObjectAnnotation, Proposals


def record(objects: int, crowds: int = 0, proposals: int | None = None) -> Annotated:
    """Return a record with these numbers of objects (crowds included) and proposals."""
    return Annotated(b'', 'png', 'a.png', '1', 1, 8, 8, [
        ObjectAnnotation((0, 0, 1, 1), 1, 'cell', 1., k < crowds) for k in range(objects)],
        proposals=None if proposals is None else Proposals(
            np.zeros((proposals, 4), np.float32), np.zeros(proposals, np.float32)))


def test_one_record() -> None:
    assert totals_of(record(3, 1, 5)) == Totals(Counts(1, 0, 3, 1), 3, 5)
    assert totals_of(record(0)) == Totals(Counts(1, 1, 0, 0), 0, 0)


def test_counts_are_added_and_maxima_kept() -> None:
    totals = Totals()
    for each in (record(2, 2, 4), record(5, proposals=1), record(0)):
        totals.add_record(each)
    assert totals == Totals(Counts(3, 1, 7, 2), 5, 4)
    totals.add(Totals(Counts(1, 0, 1, 0), 9, 2))
    assert totals == Totals(Counts(4, 1, 8, 2), 9, 4)
