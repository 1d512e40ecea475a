"""The evaluations of a training run: the file history.csv of a model directory, and which of them is the best.

A row has the step and the numbers of one evaluation. The best evaluation and the number of those since it follow from
the rows alone, so a resumed run continues with both.
"""
from __future__ import annotations

import csv
import io
import math
import pathlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

from mrcnn_tf import files
from mrcnn_tf.weights.checkpoint_files import CheckpointError

# The metric that says which evaluation is the best: the first one that an evaluation has.
METRICS = ('segm/AP', 'bbox/AP', 'recall/AR@1000')
LOSS = 'val_loss'    # the names of losses begin with it


class Row(NamedTuple):
    """One evaluation: its step, and its numbers by name; None is a metric without objects."""
    step: int
    values: Mapping[str, float | None]


class History:
    """The rows of history.csv, in ascending order of their steps. The file is replaced atomically.

    Args:
        model_dir: the model directory; the file need not exist.
        metric: says which evaluation is the best: the lowest loss, or the highest value of another name. None: the
            first of `METRICS` that the rows have.

    Raises:
        CheckpointError: the file is not a history.
    """

    def __init__(self, model_dir: pathlib.Path, metric: str | None = None) -> None:
        self.path = model_dir / 'history.csv'
        self.rows = _read(self.path)
        self._metric = metric

    @property
    def metric(self) -> str | None:
        """The name of the metric; None if it is not set and the rows have none of `METRICS`."""
        names = {name for row in self.rows for name, value in row.values.items() if value is not None}
        return self._metric or next((name for name in METRICS if name in names), None)

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write a row.

        Raises:
            OSError: the disk is full or not writable; the file is unchanged.
        """
        self._write([*(row for row in self.rows if row.step < step), Row(step, dict(values))])

    def remove_after(self, step: int) -> None:
        """Remove the rows after a step, which a run that resumes from this step repeats."""
        if self.rows and self.rows[-1].step > step:
            self._write([row for row in self.rows if row.step <= step])

    def has(self, step: int) -> bool:
        """Return whether there is a row of this step."""
        return any(row.step == step for row in self.rows)

    def best(self, steps: Collection[int] | None = None) -> Row | None:
        """Return the best row; None without a value of the metric.

        Args:
            steps: only rows of these steps; None: of all.
        """
        metric, best, highest = self.metric, None, -math.inf
        sign = -1 if metric and metric.startswith(LOSS) else 1
        for row in self.rows:
            value = row.values.get(metric) if metric and (steps is None or row.step in steps) else None
            # An AP of 0 is no standard to compare with: at the beginning of a run, later weights are better.
            if value is not None and (sign * value > highest or highest == value == 0):
                best, highest = row, sign * value
        return best

    def since_best(self) -> int:
        """Return the number of rows after the best one; 0 without a best one."""
        best = self.best()
        return sum(row.step > best.step for row in self.rows) if best else 0

    def _write(self, rows: list[Row]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row.values))
        with files.atomic_path(self.path) as temporary, temporary.open('w', encoding='utf-8', newline='') as stream:
            writer = csv.writer(stream, lineterminator='\n')
            writer.writerow(['step', *names])
            # csv writes None as an empty field, and a float with all its digits.
            writer.writerows([row.step, *(row.values.get(name) for name in names)] for row in rows)
        self.rows = rows


def _read(path: pathlib.Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        lines = list(csv.DictReader(io.StringIO(files.read_text(path), newline=''), strict=True))
        rows = [_row(line) for line in lines]
    except (ValueError, TypeError, LookupError, csv.Error) as error:
        raise CheckpointError(f'{path}: is not the history of a run ({error}); copy it back, or remove it: then no '
                              'checkpoint counts as the best') from None
    return sorted(rows, key=lambda row: row.step)


def _row(line: dict[str, str]) -> Row:
    values = {name: float(text) if text else None for name, text in line.items() if name != 'step'}
    return Row(int(line['step']), values)
