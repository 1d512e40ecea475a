"""Cityscapes' instance-level average precision, by the official script (extra `cityscapes`).

AP is the mean over mask IoU 0.50:0.05:0.95 and the 8 classes; AP50 is at IoU 0.5. The metrics of a class without
instances are None. The ground truth is gtFine's *_instanceIds.png, because records do not hold void regions. An
unmatched detection is ignored if the fraction of it that is void, in a group of its class (such as `cargroup`, an id
below 1000) or in instances below 100 px exceeds the IoU threshold. Groups and such instances need not be detected.

The official script reads both files again for each pair of detection and instance, with a function that NumPy 2.4 has
removed. This module counts the shared pixels in one pass and passes the counts to the script, which does the rest:
matching, ignoring, and the precision.
"""
from __future__ import annotations

import copy
import io
import os
import pathlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf import files
from mrcnn_tf.evaluation.coco import EvaluationError, GroundTruth, Metrics
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input.manifest import Manifest

_ROOT = 'CITYSCAPES_DATASET'     # the environment variable that the official scripts use
_SUFFIX = '_instanceIds.png'
_IDS = 2 ** 16                   # the number of possible instance ids: pixels have 16 bits
_FIRST_INSTANCE = 1000           # a lower id is a class or a group of its objects
Instances = dict[str, list[dict[str, Any]]]    # by class name, as the official script represents them


def instance_files(manifest: str | os.PathLike[str], truth: GroundTruth) -> dict[int, pathlib.Path]:
    """Return the ground-truth file of each image, by image id.

    They are in the directory from which the set was converted or, if it does not exist, in the same directory below
    $CITYSCAPES_DATASET.

    Args:
        manifest: path of a manifest that `mrcnn convert cityscapes` wrote.
        truth: the result of `read_manifest` for it.

    Raises:
        EvaluationError: cityscapesscripts is not installed; the set is not Cityscapes; the file of an image is missing.
        ManifestError: the manifest cannot be used.
    """
    _script()
    source = Manifest.read(manifest, shards=False).source
    if source.kind != 'cityscapes' or not source.annotations:
        raise EvaluationError(f'{manifest}: its source is {source.kind} with annotations {source.annotations!r}; '
                              'use --metric coco or voc2012, or a set that `mrcnn convert cityscapes` wrote from '
                              'annotations')
    folder = _folder(pathlib.Path(source.annotations), manifest)
    # CITY/BASE_gtFine_instanceIds.png
    paths = {path.name.removesuffix(_SUFFIX).rpartition('_')[0]: path for path in folder.glob(f'*/*{_SUFFIX}')}
    missing = [name for name in truth.source_ids.values() if name not in paths]
    if missing:
        raise EvaluationError(f'{folder}: no {missing[0]}_*{_SUFFIX} for {len(missing)} of {len(truth.source_ids)} '
                              'images; unpack gtFine there, or create them with cityscapesscripts.preparation')
    return {image_id: paths[name] for image_id, name in truth.source_ids.items()}


def average_precision(truth: Mapping[int, pathlib.Path], detections: Iterable[Mapping[str, Any]]) -> Metrics:
    """Return AP, AP50, and AP/NAME and AP50/NAME of the 8 classes, 0..1, or None without instances.

    Args:
        truth: the ground-truth file of each image, as `instance_files` returns them.
        detections: in COCO's results format: image_id, category_id (Cityscapes' class id), score, segmentation (RLE).

    Raises:
        EvaluationError: cityscapesscripts is not installed; a file does not contain instance ids, or its size is not
            that of the detections.
    """
    script = _script()
    settings = copy.copy(script.args)
    script.setInstanceLabels(settings)
    of_image: dict[int, list[Mapping[str, Any]]] = {}
    for each in detections:
        of_image.setdefault(each['image_id'], []).append(each)
    matches = {str(path): _match(path, of_image.get(image_id, []), script, settings.instLabels)
               for image_id, path in truth.items()}
    precision = np.array([[_of_class(matches, name, overlap, script) for overlap in settings.overlaps]
                          for name in settings.instLabels])                       # [classes, overlaps]
    classes = {f'AP/{name}': _mean(row) for name, row in zip(settings.instLabels, precision, strict=True)}
    halves = {f'AP50/{name}': _mean(row[:1]) for name, row in zip(settings.instLabels, precision, strict=True)}
    return {'AP': _mean(precision), 'AP50': _mean(precision[:, :1]), **classes, **halves}


def table(metrics: Metrics) -> str:
    """Return a table with a line for each class and the mean, in percent."""
    values = {name.removeprefix('cityscapes/'): value for name, value in metrics.items()}
    names = [name.removeprefix('AP/') for name in values if name.startswith('AP/')]
    rows = [(name, values[f'AP/{name}'], values[f'AP50/{name}']) for name in names]
    rows.append(('mean', values['AP'], values['AP50']))
    width = max(map(len, names))
    return '\n'.join([f'{"":{width}}     AP   AP50', *(
        f'{name:{width}}  {_percent(each):>5}  {_percent(half):>5}' for name, each, half in rows)])


def _script() -> types.ModuleType:
    try:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
    except ImportError:
        raise EvaluationError('cityscapesscripts, which has the official evaluation, is not installed; '
                              f'{install("cityscapes")}') from None
    return evalInstanceLevelSemanticLabeling


def _folder(stated: pathlib.Path, manifest: str | os.PathLike[str]) -> pathlib.Path:
    """Return the directory gtFine/SPLIT of the manifest, or the same one below $CITYSCAPES_DATASET."""
    root = os.environ.get(_ROOT)
    folders = [stated, *([pathlib.Path(root, *stated.parts[-2:])] if root else [])]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise EvaluationError(f'{manifest}: its ground truth {" or ".join(map(str, folders))} does not exist; set {_ROOT} '
                          f'to the directory that contains {stated.parent.name}')


def _match(path: pathlib.Path, detections: Iterable[Mapping[str, Any]], script: types.ModuleType,
           evaluated: list[str]) -> dict[str, Instances]:
    """Return the instances and detections of an image, each with those of the other that overlap it."""
    pixels = _pixels(path)
    counts = np.bincount(pixels.ravel(), minlength=_IDS)
    truth: Instances = {name: [] for name in evaluated}
    predicted: Instances = {name: [] for name in evaluated}
    for number in np.flatnonzero(counts).tolist():
        name = _name(number, script)
        if name in truth:
            truth[name].append({'instID': number, 'pixelCount': int(counts[number]), 'matchedPred': [],
                                'medDist': -1, 'distConf': 0.})     # distances need the disparity maps
    void = [label.id for label in script.labels if label.ignoreInEval and label.id >= 0]
    for each in detections:
        name, shared = _name(each['category_id'], script), _shared(each['segmentation'], pixels, path)
        if name in predicted and shared.any():
            predicted[name].append(_compared(float(each['score']), shared, void, truth[name]))
    return {'groundTruth': truth, 'prediction': predicted}


def _compared(score: float, shared: np.ndarray, void: list[int], instances: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a detection, given the number of its pixels per instance id, and add it to the instances it overlaps."""
    detection = {'confidence': score, 'pixelCount': int(shared.sum()), 'voidIntersection': int(shared[void].sum())}
    overlapping = [each for each in instances if shared[each['instID']]]
    matched = [{**each, 'intersection': int(shared[each['instID']])} for each in overlapping]
    for each in overlapping:
        each['matchedPred'].append({**detection, 'intersection': int(shared[each['instID']])})
    return {**detection, 'matchedGt': matched}


def _pixels(path: pathlib.Path) -> np.ndarray:
    """Read instance ids, int [height, width]."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(files.read_bytes(path))))
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be read ({error_line(error, 80)}); unpack it again') from None
    if pixels.ndim != 2 or pixels.dtype.kind not in 'iu' or pixels.min() < 0 or pixels.max() >= _IDS:
        raise EvaluationError(f'{path}: not a 16-bit grayscale image; unpack gtFine again')
    return pixels


def _shared(segmentation: Any, pixels: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Return the number of pixels of a detection with each instance id: int [_IDS]."""
    if segmentation['size'] != list(pixels.shape):
        size, other = (f'{height} x {width} px' for height, width in (pixels.shape, segmentation['size']))
        raise EvaluationError(f'{path}: is {size}, and its detections are for {other}; convert the data again')
    return np.bincount(pixels[coco_mask.decode(segmentation).astype(bool)], minlength=_IDS)


def _name(number: int, script: types.ModuleType) -> str:
    """Return the class name of an instance id or class id, or ''."""
    label = script.id2label.get(number if number < _FIRST_INSTANCE else number // _FIRST_INSTANCE)
    return label.name if label else ''


def _of_class(matches: dict[str, dict[str, Instances]], name: str, overlap: float, script: types.ModuleType) -> float:
    """Return the official average precision of a class at one IoU, NaN without instances."""
    settings = copy.copy(script.args)
    settings.instLabels, settings.overlaps = [name], [overlap]
    try:
        return float(script.evaluateMatches(matches, settings)[0, 0, 0])
    except IndexError:
        return 0.    # the script fails if there are instances and all detections are ignored


def _mean(values: np.ndarray) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
