"""Cityscapes' average precision of instances, by the official script (extra `cityscapes`) on the official ground truth.

AP is the mean over IoU 0.50:0.05:0.95 of masks and over the 8 classes; AP50 is of one IoU; a class without instances
has none. Ground truth are the pixels of gtFine's *_instanceIds.png, not the records: these do not hold what is void. A
detection that finds nothing counts as wrong unless more of it than the IoU asked for is void, a group of its class
(`cargroup`, an id below 1000) or an instance below 100 px; groups and such instances need not be found.

The official script compares every detection with every instance of its class by reading both files again, through a
function that NumPy 2.4 has dropped. Here the pixels that they share are counted in one pass, and the script is given
the counts; it does all the rest: what is matched, what is left out, and the precision.
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
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input.manifest import Manifest

_ROOT = 'CITYSCAPES_DATASET'     # of the environment: where the official scripts look
_SUFFIX = '_instanceIds.png'
_IDS = 2 ** 16                   # of instances: they are pixels of 16 bit
_FIRST_INSTANCE = 1000           # an id below is a class, or a group of it
Instances = dict[str, list[dict[str, Any]]]    # by name of the class, in the form of the official script


def instance_files(manifest: str | os.PathLike[str], truth: GroundTruth) -> dict[int, pathlib.Path]:
    """Where the ground truth of each image lies, by image id: the folder that the set was converted from.

    If that is gone, such as on another machine, the folder of that kind and split below $CITYSCAPES_DATASET.

    Args:
        manifest: path of the manifest that `mrcnn convert cityscapes` wrote.
        truth: what `read_manifest` has read from it.

    Raises:
        EvaluationError: cityscapesscripts is not installed, not Cityscapes, no ground truth of an image.
        ManifestError: the manifest cannot be used.
    """
    _script()
    source = Manifest.read(manifest, shards=False).source
    if source.kind != 'cityscapes' or not source.annotations:
        raise EvaluationError(f'{manifest}: its source is {source.kind} with annotations {source.annotations!r}; '
                              'evaluate a set that `mrcnn convert cityscapes` wrote with annotations by coco or voc '
                              'in place of cityscapes')
    folder = _folder(pathlib.Path(source.annotations), manifest)
    # BASE_gtFine_instanceIds.png, in the folder of its city
    files = {path.name.removesuffix(_SUFFIX).rpartition('_')[0]: path for path in folder.glob(f'*/*{_SUFFIX}')}
    missing = [name for name in truth.source_ids.values() if name not in files]
    if missing:
        raise EvaluationError(f'{folder}: no {missing[0]}_*{_SUFFIX} for {len(missing)} of {len(truth.source_ids)} '
                              'images; unpack gtFine there, or make them by cityscapesscripts.preparation')
    return {image_id: files[name] for image_id, name in truth.source_ids.items()}


def average_precision(truth: Mapping[int, pathlib.Path], detections: Iterable[Mapping[str, Any]]) -> Metrics:
    """AP, AP50, then AP/NAME and AP50/NAME of the 8 classes, 0..1, None where there are no instances.

    Args:
        truth: file of the instance ids of each image by image id: what `instance_files` gives.
        detections: COCO's results: image_id, category_id (Cityscapes' id of the class), score, segmentation (RLE).

    Raises:
        EvaluationError: cityscapesscripts is not installed, a file that is no picture of instance ids or of another
            size than the detections.
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
    """A line for each class, and the mean, in per cent as the papers print them."""
    found = {name.removeprefix('cityscapes/'): value for name, value in metrics.items()}
    names = [name.removeprefix('AP/') for name in found if name.startswith('AP/')]
    rows = [(name, found[f'AP/{name}'], found[f'AP50/{name}']) for name in names]
    rows.append(('mean', found['AP'], found['AP50']))
    width = max(map(len, names))
    return '\n'.join([f'{"":{width}}     AP   AP50', *(
        f'{name:{width}}  {_percent(each):>5}  {_percent(half):>5}' for name, each, half in rows)])


def _script() -> types.ModuleType:
    try:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
    except ImportError:
        raise EvaluationError("cityscapesscripts, which holds the official evaluation, is not installed; "
                              "pip install 'mrcnn-tf[cityscapes]'") from None
    return evalInstanceLevelSemanticLabeling


def _folder(stated: pathlib.Path, manifest: str | os.PathLike[str]) -> pathlib.Path:
    """gtFine/SPLIT, as the manifest states it or below the root that the environment names."""
    root = os.environ.get(_ROOT)
    folders = [stated, *([pathlib.Path(root, *stated.parts[-2:])] if root else [])]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise EvaluationError(f'{manifest}: its ground truth {" or ".join(map(str, folders))} is not there; set {_ROOT} to '
                          f'the directory that holds {stated.parent.name}')


def _match(path: pathlib.Path, detections: Iterable[Mapping[str, Any]], script: types.ModuleType,
           evaluated: list[str]) -> dict[str, Instances]:
    """Instances and detections of an image, each with those of the other that it shares pixels with."""
    pixels = _pixels(path)
    counts = np.bincount(pixels.ravel(), minlength=_IDS)
    truth: Instances = {name: [] for name in evaluated}
    found: Instances = {name: [] for name in evaluated}
    for number in np.flatnonzero(counts).tolist():
        name = _name(number, script)
        if name in truth:
            truth[name].append({'instID': number, 'pixelCount': int(counts[number]), 'matchedPred': [],
                                'medDist': -1, 'distConf': 0.})     # distances: of a stereo camera, not at hand
    void = [label.id for label in script.labels if label.ignoreInEval and label.id >= 0]
    for each in detections:
        name, shared = _name(each['category_id'], script), _shared(each['segmentation'], pixels, path)
        if name in found and shared.any():
            found[name].append(_compared(float(each['score']), shared, void, truth[name]))
    return {'groundTruth': truth, 'prediction': found}


def _compared(score: float, shared: np.ndarray, void: list[int], instances: list[dict[str, Any]]) -> dict[str, Any]:
    """A detection, given how many of its pixels have each instance id; notes it at the instances that it touches."""
    detection = {'confidence': score, 'pixelCount': int(shared.sum()), 'voidIntersection': int(shared[void].sum())}
    touched = [each for each in instances if shared[each['instID']]]
    matched = [{**each, 'intersection': int(shared[each['instID']])} for each in touched]
    for each in touched:
        each['matchedPred'].append({**detection, 'intersection': int(shared[each['instID']])})
    return {**detection, 'matchedGt': matched}


def _pixels(path: pathlib.Path) -> np.ndarray:
    """Instance ids, int [height, width]."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(files.read_bytes(path))))
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be read ({error_line(error, 80)}); unpack it again') from None
    if pixels.ndim != 2 or pixels.dtype.kind not in 'iu' or pixels.min() < 0 or pixels.max() >= _IDS:
        raise EvaluationError(f'{path}: no grey picture of 16 bit; unpack gtFine again')
    return pixels


def _shared(segmentation: Any, pixels: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """How many pixels of a detection have each instance id: int [_IDS]."""
    if segmentation['size'] != list(pixels.shape):
        raise EvaluationError(f'{path}: is {pixels.shape[0]} x {pixels.shape[1]}, its detections are of an image of '
                              f'{segmentation["size"][0]} x {segmentation["size"][1]}; convert the data again')
    return np.bincount(pixels[coco_mask.decode(segmentation).astype(bool)], minlength=_IDS)


def _name(number: int, script: types.ModuleType) -> str:
    """Of the class with this id, or of an instance; empty where there is none."""
    label = script.id2label.get(number if number < _FIRST_INSTANCE else number // _FIRST_INSTANCE)
    return label.name if label else ''


def _of_class(matches: dict[str, dict[str, Instances]], name: str, overlap: float, script: types.ModuleType) -> float:
    """The official precision at one IoU, NaN where the class has no instances."""
    settings = copy.copy(script.args)
    settings.instLabels, settings.overlaps = [name], [overlap]
    try:
        return float(script.evaluateMatches(matches, settings)[0, 0, 0])
    except IndexError:
        return 0.    # the script stops where instances are missed and all detections are left out


def _mean(values: np.ndarray) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
