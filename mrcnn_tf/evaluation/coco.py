"""COCO average precision by pycocotools: ground truth from a manifest or a COCO file, detections image by image.

AP is the mean over IoU 0.50:0.05:0.95, over 101 recalls and over the categories that have objects; AP50 and AP75 are of
one IoU; APs, APm, APl count objects below 32^2, up to 96^2 and above in px^2; AR is the mean over IoU and categories of
the recall reached. These take the best 100 detections of an image and category (AR1, AR10: 1 and 10). Crowds are
neither found nor missed; for masks, neither are objects of which only the box is known: a detection whose mask lies
within that box is ignored. A number that does not exist, such as APl where no object is large, is None.
"""
from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_tf import files
from mrcnn_tf.detectors.instances import Instances, to_coco
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.ops import paste

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Metrics = dict[str, float | None]

_REMEDY = 'convert the file with `mrcnn convert coco` and give the manifest, or mend it'
_KINDS = ('bbox', 'segm')
_LIMITS = (1, 10, 100)
_AREAS = ('all', 'small', 'medium', 'large')
_EVERY, _HALF, _THREE_QUARTERS = slice(0, 10), slice(0, 1), slice(5, 6)
_IOUS = {(0, 10): '0.50:0.95', (0, 1): '0.50', (5, 6): '0.75'}


class _Number(NamedTuple):
    """What one of COCO's numbers is the mean of: indices into pycocotools' arrays."""
    recall: bool
    ious: slice
    area: int = 0
    limit: int = 2


_NUMBERS = {
    'AP': _Number(False, _EVERY), 'AP50': _Number(False, _HALF), 'AP75': _Number(False, _THREE_QUARTERS),
    'APs': _Number(False, _EVERY, 1), 'APm': _Number(False, _EVERY, 2), 'APl': _Number(False, _EVERY, 3),
    'AR1': _Number(True, _EVERY, 0, 0), 'AR10': _Number(True, _EVERY, 0, 1), 'AR100': _Number(True, _EVERY),
    'ARs': _Number(True, _EVERY, 1), 'ARm': _Number(True, _EVERY, 2), 'ARl': _Number(True, _EVERY, 3)}
_MORE = {'AP': 'AP', 'AP50': 'AP50', 'AP75': 'AP75', 'AR': 'AR100'}    # also given at a limit above 100, as AP@200, ...


class EvaluationError(ValueError):
    """Ground truth or detections that cannot be compared; the message is one line: where, what, the remedy."""


@dataclasses.dataclass
class GroundTruth:
    """What a set says is on its images.

    Attributes:
        source: the file, for messages.
        sizes: height and width, px, by image id.
        categories: (id, name) of the data set.
        annotations: COCO's: image_id, category_id, bbox [x, y, width, height] in px, area, iscrowd and, where the set
            has masks, segmentation as RLE, but of an object with a box only; of records also difficult, VOC's mark.
        has_masks: some annotation has one.
        source_ids: the data set's id as text, by image id; empty where a file does not tell.
    """
    source: str
    sizes: dict[int, tuple[int, int]]
    categories: list[tuple[int, str]]
    annotations: list[dict[str, Any]]
    has_masks: bool
    source_ids: dict[int, str] = dataclasses.field(default_factory=dict)


def read_manifest(path: PathLike) -> GroundTruth:
    """Ground truth of the records of a converted set, boxes and masks exact.

    Raises:
        ManifestError, InputError: the manifest or a shard cannot be used.
        EvaluationError: two records of the same image id.
    """
    manifest = Manifest.read(path)
    truth = GroundTruth(str(path), {}, [(c.id, c.name) for c in manifest.categories], [], manifest.any_masks)
    for record in ground_truth(path):
        if record['image_id'] in truth.sizes:
            raise EvaluationError(f'{path}: image id {record["image_id"]} is there twice; convert the data again')
        truth.sizes[record['image_id']] = record['height'], record['width']
        truth.source_ids[record['image_id']] = record['source_id']
        truth.annotations += _of_record(record, manifest.categories)
    return truth


def read_coco(path: PathLike) -> GroundTruth:
    """Ground truth of a COCO file (instances_*.json): polygons, RLE, crowds.

    Raises:
        EvaluationError: no such file, not JSON, not COCO's form, an annotation that cannot be used, naming it.
    """
    try:
        data = files.read_json(path)
        sizes = {image['id']: (image['height'], image['width']) for image in data['images']}
        categories = [(category['id'], category['name']) for category in data['categories']]
        annotations = data['annotations']
    except OSError as error:
        raise EvaluationError(f'{path}: {error.strerror}; give a COCO annotation file') from None
    except (ValueError, LookupError, TypeError) as error:
        raise EvaluationError(f'{path}: not COCO annotations ({type(error).__name__}: {error}); give a file such as '
                              'instances_val2017.json') from None
    has_masks = not annotations or any(each.get('segmentation') for each in annotations)
    truth = GroundTruth(str(path), sizes, categories, [], has_masks)
    truth.annotations += (_of_coco(each, truth) for each in annotations)
    return truth


class CocoEvaluator:
    """Gathers the detections of each image of a set, once, then gives COCO's numbers and files.

    The categories of the data must be among the model's, same id and name; detections of others do not count.
    """

    def __init__(self, truth: GroundTruth, categories: Sequence[Category], dialect: str) -> None:
        """categories: the model's, in the order of labels 1..K; dialect: of pasting, `model.detections.paste`.

        Raises:
            EvaluationError: a category of the data that the model does not have.
        """
        known = {category.id: category.name for category in categories}
        for number, name in truth.categories:
            if known.get(number) != name:
                raise EvaluationError(f'{truth.source}: category {number} {name!r} is {known.get(number)!r} in the '
                                      'model; evaluate on data with the categories of its training')
        self.truth, self.categories, self.dialect = truth, categories, dialect
        self.detections: list[dict[str, Any]] = []    # COCO's results
        self._added: set[int] = set()
        self._with_masks = truth.has_masks

    def add(self, image_id: int, instances: Instances) -> None:
        """Takes the detections of one image, none too, boxes in px of the original image.

        Raises:
            EvaluationError: an image that the set does not have or that was added before.
        """
        if image_id not in self.truth.sizes:
            raise EvaluationError(f'{self.truth.source}: has no image {image_id}; evaluate on the data predicted for')
        if image_id in self._added:
            raise EvaluationError(f'{self.truth.source}: image {image_id} was evaluated before; each counts once')
        self._added.add(image_id)
        self._with_masks &= instances.masks is not None
        self.detections += ({'image_id': image_id, **result} for result in
                            to_coco(instances, self.truth.sizes[image_id], self.categories, self.dialect))

    def evaluate(self, max_detections: int = 100) -> Metrics:
        """COCO's numbers as bbox/AP, segm/AP, ...: see `average_precision`; segm where model and data have masks.

        Raises:
            EvaluationError: an image of the set was not added.
        """
        missing = sorted(set(self.truth.sizes) - self._added)
        if missing:
            raise EvaluationError(f'{self.truth.source}: {len(missing)} of {len(self.truth.sizes)} images were not '
                                  f'evaluated, such as {missing[0]}; each must be added once')
        if self._with_masks and self._boxes_only():
            _log.warning('%s: %d of %d objects have a box and no mask: the segm numbers ignore them, and what is found '
                         'within their boxes', self.truth.source, self._boxes_only(), len(self.truth.annotations))
        metrics: Metrics = {}
        for kind in _KINDS[:1 + self._with_masks]:
            numbers = average_precision(self.truth, self.detections, kind, max_detections)
            metrics.update({f'{kind}/{name}': value for name, value in numbers.items()})
        return metrics

    def _boxes_only(self) -> int:
        """How many objects of a set with masks have none."""
        return sum('segmentation' not in each for each in self.truth.annotations) if self.truth.has_masks else 0

    def write(self, directory: PathLike, metrics: Mapping[str, float | None]) -> None:
        """Writes metrics.json (with counts of images, objects, detections) and detections.json, COCO's results.

        Raises:
            OSError: the disk is full, no permission.
        """
        crowds = sum(each['iscrowd'] for each in self.truth.annotations)
        counts = {'images': len(self._added), 'objects': len(self.truth.annotations) - crowds, 'crowds': crowds,
                  'objects_without_mask': self._boxes_only(), 'detections': len(self.detections)}
        files.write_json(pathlib.Path(directory) / 'detections.json', self.detections, indent=None)
        files.write_json(pathlib.Path(directory) / 'metrics.json', {**metrics, **counts})


def average_precision(truth: GroundTruth, detections: Iterable[Mapping[str, Any]], kind: str,
                      max_detections: int = 100) -> Metrics:
    """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, then AP/NAME of every category.

    Args:
        truth: ground truth.
        detections: COCO's results: image_id, category_id, score, and bbox or segmentation.
        kind: 'bbox' or 'segm'.
        max_detections: where it is above 100, say 200, also AP@200, AP50@200, AP75@200 and AR@200; the others stay as
            they are.

    Returns:
        0..1, or None where there is nothing to count.
    """
    limits = [*_LIMITS, *([max_detections] if max_detections > _LIMITS[-1] else [])]
    numbers = dict(_NUMBERS)
    if len(limits) > len(_LIMITS):
        numbers.update({f'{name}@{max_detections}': _NUMBERS[like]._replace(limit=3) for name, like in _MORE.items()})
    precision, recall = _accumulate(truth, detections, kind, limits)    # [T, R, K, A, M], [T, K, A, M]
    means = {name: _mean((recall if number.recall else precision)[number.ious, ..., number.area, number.limit])
             for name, number in numbers.items()}
    names = [name for _, name in sorted(truth.categories)]
    for k, (number, name) in enumerate(sorted(truth.categories)):
        means[f'AP/{name if names.count(name) == 1 else f"{name} ({number})"}'] = _mean(precision[:, :, k, 0, 2])
    return means


def table(metrics: Mapping[str, float | None]) -> str:
    """The lines that COCO's tools print, a column for each of bbox and segm; '-' where there is nothing to count."""
    kinds = [kind for kind in _KINDS if f'{kind}/AP' in metrics]
    rows = [(name, number, str(_LIMITS[number.limit])) for name, number in _NUMBERS.items()]
    for name, limit in (key.split('/')[1].split('@') for key in metrics if key.startswith('bbox/A') and '@' in key):
        rows.append((f'{name}@{limit}', _NUMBERS[_MORE[name]], limit))
    lines = [f'{"":70}' + ''.join(f'{kind:>7}' for kind in kinds)]
    for name, number, limit in rows:
        title = 'Average Recall    (AR)' if number.recall else 'Average Precision (AP)'
        iou = _IOUS[number.ious.start, number.ious.stop]
        lines.append(f'{title} @[ IoU={iou:<9} | area={_AREAS[number.area]:>6} | maxDets={limit:>3} ]  ' + ''.join(
            f'{_text(metrics[f"{kind}/{name}"]):>7}' for kind in kinds))
    return '\n'.join(lines)


def _accumulate(truth: GroundTruth, detections: Iterable[Mapping[str, Any]], kind: str,
                limits: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' precision [T IoUs, R recalls, K categories, A areas, M limits] and recall [T, K, A, M]; none is -1.
    """
    found = [{'image_id': each['image_id'], 'category_id': each['category_id'], 'score': each['score'], 'iscrowd': 0,
              **_region(each, kind)} for each in detections]
    with contextlib.redirect_stdout(io.StringIO()):    # it prints as it goes, and cannot be asked not to
        evaluation = COCOeval(_index(truth, _expected(truth, kind)), _index(truth, found), kind)
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval['precision'], evaluation.eval['recall']


def _expected(truth: GroundTruth, kind: str) -> Iterable[Mapping[str, Any]]:
    """The annotations to find. Of masks, an object with a box only is to pycocotools a crowd that fills its box."""
    for each in truth.annotations:
        if kind == 'bbox' or 'segmentation' in each:
            yield each
        else:
            x, y, width, height = each['bbox']
            outline = [x, y, x + width, y, x + width, y + height, x, y + height]
            box = coco_mask.merge(coco_mask.frPyObjects([outline], *truth.sizes[each['image_id']]))
            yield {**each, 'iscrowd': 1, 'segmentation': box}


def _region(detection: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Box or mask with its own area: pycocotools' loadRes sorts masks into small and large by their boxes."""
    if kind == 'bbox':
        return {'bbox': detection['bbox'], 'area': detection['bbox'][2] * detection['bbox'][3]}
    return {'segmentation': detection['segmentation'], 'area': float(coco_mask.area(detection['segmentation']))}


def _index(truth: GroundTruth, annotations: Iterable[Mapping[str, Any]]) -> COCO:
    index = COCO()
    index.dataset = {
        'images': [{'id': i, 'height': height, 'width': width} for i, (height, width) in truth.sizes.items()],
        'categories': [{'id': number, 'name': name} for number, name in truth.categories],
        # Copies, which pycocotools marks; ids from 1, because it takes a match with number 0 for none.
        'annotations': [{**each, 'id': i} for i, each in enumerate(annotations, 1)]}
    index.createIndex()
    return index


def _of_record(record: Mapping[str, Any], categories: Sequence[Category]) -> list[dict[str, Any]]:
    y1, x1, y2, x2 = record['boxes'].astype(np.float64).T.reshape(4, -1)
    annotations: list[dict[str, Any]] = [
        {'image_id': record['image_id'], 'category_id': categories[label - 1].id, 'bbox': box, 'area': area,
         'iscrowd': int(crowd), 'difficult': difficult}
        for label, box, area, crowd, difficult in zip(
            record['labels'].tolist(), np.stack([x1, y1, x2 - x1, y2 - y1], 1).tolist(), record['area'].tolist(),
            record['crowd'].tolist(), record['difficult'].tolist(), strict=True)]
    masks = zip(annotations, record.get('masks', ()), record.get('has_mask', ()), strict='masks' in record)
    for annotation, png, has_mask in masks:
        if has_mask:
            annotation['segmentation'] = paste.encode(np.asarray(Image.open(io.BytesIO(png))))
    return annotations


def _of_coco(annotation: Mapping[str, Any], truth: GroundTruth) -> dict[str, Any]:
    place = f'{truth.source}: annotation {annotation.get("id")}'
    try:
        image_id, category_id = annotation['image_id'], annotation['category_id']
        box = [float(each) for each in annotation['bbox']]
        area, crowd = float(annotation.get('area', box[2] * box[3])), int(annotation.get('iscrowd', 0))
    except (LookupError, TypeError, ValueError):
        raise EvaluationError(f'{place}: image_id, category_id or bbox is missing or no number; {_REMEDY}') from None
    if image_id not in truth.sizes or category_id not in dict(truth.categories):
        raise EvaluationError(f'{place}: no image {image_id} or no category {category_id} in the file; {_REMEDY}')
    result = {'image_id': image_id, 'category_id': category_id, 'bbox': box, 'area': area, 'iscrowd': crowd}
    if annotation.get('segmentation'):
        result['segmentation'] = _rle(annotation['segmentation'], truth.sizes[image_id], place)
    return result


def _rle(segmentation: Any, size: tuple[int, int], place: str) -> dict[str, Any]:
    """Run-length code of polygons, or of one coded with or without compression."""
    if isinstance(segmentation, list):
        if not segmentation or not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation):
            raise EvaluationError(f'{place}: a polygon without three points; {_REMEDY}')
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if not isinstance(segmentation, dict) or 'counts' not in segmentation or segmentation.get('size') != list(size):
        raise EvaluationError(f'{place}: its mask is no run-length code of {size[0]} x {size[1]} px; {_REMEDY}')
    return coco_mask.frPyObjects(segmentation, *size) if isinstance(segmentation['counts'], list) else segmentation


def _mean(values: np.ndarray) -> float | None:
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def _text(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
