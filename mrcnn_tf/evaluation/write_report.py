"""Writing of the report that `mrcnn evaluate --report` asks for."""
from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from mrcnn_tf.evaluation import error_pictures, report
from mrcnn_tf.evaluation.coco import CocoEvaluator, EvaluationError, Metrics
from mrcnn_tf.evaluation.report_page import page
from mrcnn_tf.files.html import write_page

PathLike = str | os.PathLike[str]


class Report(NamedTuple):
    """What report to write.

    Attributes:
        path: the HTML file; an existing one is replaced.
        against: the page or JSON of another report, to compare with.
        pictures: number of worst images that the page shows.
    """
    path: PathLike
    against: PathLike | None = None
    pictures: int = 12


def check(wanted: Report, metric: str) -> None:
    """Raise an error for what would make `write` fail, before the evaluation.

    Raises:
        EvaluationError: the metric is not 'coco'; the path is a directory; `against` is not a report.
        OSError: `against` cannot be read.
    """
    if metric != 'coco':
        raise EvaluationError(f'--report explains COCO\'s metrics, and --metric is {metric}; leave one of them out')
    if pathlib.Path(wanted.path).is_dir():
        raise EvaluationError(f'{wanted.path}: is a directory; give the name of the HTML file, such as report.html')
    if wanted.against is not None:
        report.read(wanted.against)


def write(wanted: Report, evaluator: CocoEvaluator, metrics: Metrics, model: str) -> None:
    """Write the page of an evaluation.

    Args:
        wanted: which page; `check` accepts it.
        evaluator: after `evaluate`; its ground truth is that of a manifest.
        metrics: that it returned.
        model: names the model.

    Raises:
        RecordError: an image of the set cannot be decoded.
        EvaluationError, OSError: as for `check`; the disk is full, no permission.
    """
    analyzed = report.analyses(evaluator)
    values = report.numbers(evaluator, metrics, analyzed, model)
    primary = analyzed[list(analyzed)[-1]]
    pictures = error_pictures.figures(evaluator.truth.source, evaluator, primary, wanted.pictures)
    other = None if wanted.against is None else report.read(wanted.against)
    write_page(wanted.path, page(values, pictures, other))
