"""Evaluation of detections in a file: those of an earlier evaluation, or of another program."""
from __future__ import annotations

import math
import os
import pathlib
from typing import Any

from pycocotools import mask as coco_mask

from mrcnn_tf import files
from mrcnn_tf.evaluation import per_class, voc, write_report
from mrcnn_tf.evaluation.coco import CocoEvaluator, EvaluationError, GroundTruth, Metrics, read_manifest
from mrcnn_tf.evaluation.run import Evaluation, processes_of, warn_of_unreliable_metrics
from mrcnn_tf.evaluation.write_report import Report
from mrcnn_tf.files.text import one_line
from mrcnn_tf.input.manifest import Manifest

PathLike = str | os.PathLike[str]

METRICS = ('coco', 'voc2007', 'voc2012')
_LIMIT = 100    # detections of an image that COCO's metrics use


def evaluate_results(path: PathLike, manifest: PathLike, metric: str = 'coco', report: Report | PathLike | None = None,
                     workers: int = 1) -> Metrics:
    """Return the metrics of the detections in a file on a set. Writes no files except for the report.

    Args:
        path: JSON in COCO's results format, such as the `detections.json` that `evaluate` writes.
        manifest: of the set.
        metric: 'coco', 'voc2007' or 'voc2012', see `evaluate`. COCO's metrics use the best 100 detections of an image.
        report: an HTML file to write that explains COCO's metrics, or a `Report` with options.
        workers: number of processes that match objects for COCO's metrics, see `evaluate`.

    Raises:
        EvaluationError: the file has another format; a detection is of an image or category that the set does not
            have; the metric or the report does not fit, see `evaluate`.
        ManifestError, InputError: the set cannot be used.
        OSError: a file cannot be read or written; a worker died.

    Example:
        >>> import pathlib
        >>> import mrcnn_tf as m
        >>> _ = pathlib.Path('found.json').write_text(
        ...     '[{"image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30], "score": 0.9}]')
        >>> metrics = m.evaluate_results('found.json', 'data/train.json')
        >>> 'bbox/AP' in metrics and 'segm/AP' not in metrics      # the detections have no masks
        True
    """
    return evaluate_classes(path, manifest, metric, report, workers).metrics


def evaluate_classes(path: PathLike, manifest: PathLike, metric: str = 'coco',
                     report: Report | PathLike | None = None, workers: int = 1) -> Evaluation:
    """Do what `evaluate_results` does, and return also the metrics of each category."""
    wanted = Report(report) if isinstance(report, str | os.PathLike) else report
    if metric not in METRICS:
        raise EvaluationError(f'metric {metric!r} of detections in a file: expected {", ".join(METRICS)}; the others '
                              'need a model')
    if wanted:
        write_report.check(wanted, metric)
    truth = read_manifest(manifest)
    evaluator = CocoEvaluator(truth, Manifest.read(manifest).categories, 'detectron')
    evaluator.add_results(read(path, truth))
    warn_of_unreliable_metrics(truth, _LIMIT)
    if metric != 'coco':
        precision = voc.mean_average_precision(truth, evaluator.detections, metric == 'voc2007')
        return Evaluation({f'voc/{name}': value for name, value in precision.items()})
    with processes_of(workers) as processes:
        metrics = evaluator.evaluate(_LIMIT, processes.map)
    if wanted:
        write_report.write(wanted, evaluator, metrics, _model(pathlib.Path(path), len(evaluator.detections)))
    return Evaluation(metrics, per_class.rows(evaluator))


def read(path: PathLike, truth: GroundTruth) -> list[dict[str, Any]]:
    """Return the detections of a file in COCO's results format.

    Args:
        path: a JSON list of image_id, category_id, score, and bbox [x, y, width, height] or segmentation (RLE) or both;
            or a dict with such a list as `annotations`.
        truth: of the set whose images and categories they have.

    Raises:
        EvaluationError, OSError: as `evaluate_results`.
    """
    try:
        data = files.read_json(path)
    except ValueError as error:
        raise EvaluationError(f'{path}: not JSON ({one_line(error)}); give a file such as detections.json') from None
    listed = data.get('annotations') if isinstance(data, dict) else data    # the former by `mrcnn predict`
    if not isinstance(listed, list):
        raise EvaluationError(f'{path}: expected a list of detections in COCO\'s results format, such as '
                              f'detections.json, or the file of `mrcnn predict`, and found {type(data).__name__}')
    categories = dict(truth.categories)
    return [_checked(each, truth, categories, f'{path}: detection {i} (from 0)') for i, each in enumerate(listed)]


def _checked(result: Any, truth: GroundTruth, categories: dict[int, str], place: str) -> dict[str, Any]:
    """Return a detection with its box, or raise EvaluationError."""
    try:
        image_id, category_id, score = result['image_id'], result['category_id'], float(result['score'])
        found = {'image_id': image_id, 'category_id': category_id, 'score': score}
        known = image_id in truth.sizes and category_id in categories
        if known and 'segmentation' in result:
            found['segmentation'] = _mask(result['segmentation'], truth.sizes[image_id])
        box = result['bbox'] if 'bbox' in result else coco_mask.toBbox(found['segmentation'])
        found['bbox'] = x, y, width, height = [float(each) for each in box] if known else [0.] * 4
        if not all(map(math.isfinite, (score, x, y, width, height))) or min(width, height) < 0:
            raise ValueError
    except (LookupError, TypeError, ValueError):
        raise EvaluationError(f'{place}: expected image_id, category_id, a finite score, and bbox [x, y, width, '
                              'height] or segmentation (RLE of the size of the image)') from None
    if not known:
        raise EvaluationError(f'{place}: {truth.source} has no image {one_line(image_id, 40)} or no category '
                              f'{one_line(category_id, 40)}; give the set on which the detections were made')
    return found


def _mask(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return a compressed RLE, or raise ValueError, LookupError or TypeError."""
    if list(segmentation['size']) != list(size):
        raise ValueError
    if isinstance(segmentation['counts'], list):
        return coco_mask.frPyObjects(segmentation, *size)
    if not isinstance(segmentation['counts'], str):
        raise TypeError
    return segmentation


def _model(path: pathlib.Path, detections: int) -> str:
    """Return the name of the model: directory and step if metrics.json beside the file tells them, else the file."""
    try:
        written = files.read_json(path.parent / 'metrics.json')
        step = written['step'] if written['detections'] == detections else None
    except (OSError, ValueError, LookupError, TypeError):
        step = None
    return str(path) if step is None else f'{path.parent}, step {step}'
