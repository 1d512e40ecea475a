"""The numbers of an evaluation report, as JSON: what `mrcnn evaluate --report` shows and `--against` compares.

K categories sorted by id; kinds are `bbox` and, with masks, `segm`.
"""
from __future__ import annotations

import dataclasses
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_tf import files
from mrcnn_tf.evaluation import diagnostics, per_class
from mrcnn_tf.evaluation.coco import CocoEvaluator, Curves, EvaluationError, Metrics
from mrcnn_tf.evaluation.errors import KINDS, Errors, analyze
from mrcnn_tf.evaluation.matching import Matches, match

FORMAT, VERSION = 'mrcnn_tf report', 1
IOUS = {'0.50': slice(0, 1), '0.75': slice(5, 6), '0.50:0.95': slice(0, 10)}
_LIMIT = 2               # position of 100 detections in `Curves`
_ELEMENT = '<template id="numbers">', '</template>'

Numbers = dict[str, Any]
PathLike = str | os.PathLike[str]


@dataclasses.dataclass
class Analysis:
    """The matches and errors of one kind, from which its numbers and pictures are made.

    Attributes:
        threshold: the score with the best F1 of all categories together, 0 without detections or objects.
    """
    kind: str
    matches: Matches
    errors: Errors
    threshold: float


def analyses(evaluator: CocoEvaluator) -> dict[str, Analysis]:
    """Return the analysis of each kind, after `CocoEvaluator.evaluate`."""
    result = {}
    for kind in evaluator.curves:
        matches = match(evaluator.truth, evaluator.detections, kind)
        threshold = diagnostics.best_threshold(matches).score
        result[kind] = Analysis(kind, matches, analyze(matches), threshold or 0.)
    return result


def numbers(evaluator: CocoEvaluator, metrics: Metrics, analyzed: Mapping[str, Analysis], model: str) -> Numbers:
    """Return all numbers of a report.

    Args:
        evaluator: after `evaluate`.
        metrics: that it returned.
        analyzed: by `analyses`.
        model: names the model, such as its directory and step.
    """
    truth = evaluator.truth
    crowds = sum(bool(each['iscrowd']) for each in truth.annotations)
    rows = per_class.rows(evaluator)
    return {'format': FORMAT, 'version': VERSION, 'model': model, 'data': truth.source, 'images': len(truth.sizes),
            'objects': len(truth.annotations) - crowds, 'crowds': crowds, 'detections': len(evaluator.detections),
            'metrics': {name: value for name, value in metrics.items() if 'AP/' not in name},
            'kinds': {kind: _of_kind(each, evaluator.curves[kind], rows) for kind, each in analyzed.items()}}


def read(path: PathLike) -> Numbers:
    """Return the numbers of a report: of the page that `--report` wrote, or of a JSON file with the same content.

    Raises:
        EvaluationError: it is not a report, or one of another version.
        OSError: the file cannot be read.
    """
    try:
        text = files.read_text(path)
        inside = re.search('(.*?)'.join(_ELEMENT), text, re.DOTALL)
        data = json.loads(html.unescape(inside[1]) if inside else text)
        found = data['format'], data['version']
        if found == (FORMAT, VERSION):
            _check(data)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise EvaluationError(f'{path}: not a report of `mrcnn evaluate --report`; give such a page, or the JSON of '
                              'one') from None
    if found != (FORMAT, VERSION):
        raise EvaluationError(f'{path}: format {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version '
                              f'{VERSION}; write the report again with this version')
    return data


def _check(data: Numbers) -> None:
    """Raise LookupError, TypeError or ValueError if something is missing that a comparison reads."""
    _ = str(data['model']), str(data['data']), int(data['images']), dict(data['metrics']).values()
    for values in data['kinds'].values():
        _ = [row['category'] + str(row['AP']) for row in values['categories']]
        _ = [each['cost'] for each in values['errors'].values()]
        _ = [tuple(map(int, counts))[3] for counts in values['image_counts']]


def embed(values: Numbers) -> str:
    """Return the element of a page that holds the numbers, which `read` finds."""
    return html.escape(json.dumps(values, allow_nan=False, separators=(',', ':')), quote=False).join(_ELEMENT)


def _of_kind(analysis: Analysis, curves: Curves, rows: Sequence[per_class.Row]) -> Numbers:
    matches = analysis.matches
    calibration, calibration_error = diagnostics.calibration(matches)
    return {
        'categories': [_of_category(analysis, k, row) for k, row in enumerate(rows)],
        'threshold': diagnostics.best_threshold(matches)._asdict(),
        'curves': {name: _curve(curves.precision[ious, :, :, 0, _LIMIT]) for name, ious in IOUS.items()},
        'errors': {kind: {'cost': analysis.errors.cost(kind),
                          'count': int(analysis.errors.counts[kind].sum()) if kind in KINDS else None}
                   for kind in analysis.errors.corrected},
        'confusion': [[*map(int, place), int(count)] for place, count in np.ndenumerate(
            diagnostics.confusion(matches, analysis.threshold)) if count],
        'calibration': calibration, 'calibration_error': calibration_error,
        'areas': {name: {metric: curves.mean(f'{metric}{name}') for metric in ('AP', 'AR')} for name in 'sml'},
        'by_size': diagnostics.by_size(matches), 'by_crowding': diagnostics.by_crowding(matches),
        'by_neighbor': diagnostics.by_neighbor(matches),
        'image_counts': [[image, *counts] for image, counts in zip(
            matches.image_ids, diagnostics.image_counts(matches, analysis.threshold).tolist(), strict=True)]}


def _of_category(analysis: Analysis, k: int, row: per_class.Row) -> Numbers:
    """Return what the page shows of a category."""
    kind, errors = analysis.kind, analysis.errors
    metrics = {name.removeprefix(f'{kind}/'): value for name, value in row.items() if name.startswith(f'{kind}/')}
    return {**{name: row[name] for name in ('category', 'id', 'images', 'objects')}, **metrics,
            'threshold': diagnostics.best_threshold(analysis.matches, k)._asdict(),
            'errors': {each: {'count': int(errors.counts[each][k]),
                              'cost': _number(errors.corrected[each][k] - errors.precision[k])} for each in KINDS}}


def _curve(precision: np.ndarray) -> Numbers:
    """Return the precision at the 101 recalls, of all categories and of each: [T, R, K] -> lists; None: no objects."""
    of_class = [_rounded(precision[..., k].mean(axis=0)) if (precision[..., k] > -1).all() else None
                for k in range(precision.shape[2])]
    present = precision[..., (precision > -1).all(axis=(0, 1))]
    return {'mean': _rounded(present.mean(axis=(0, 2))) if present.size else None, 'categories': of_class}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
