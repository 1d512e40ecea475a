"""COCO average precision, equal to pycocotools' to the last bit. Ground truth is read from a manifest or a COCO file.

AP is the mean over IoU 0.50:0.05:0.95, 101 recalls and the categories that have objects. AP50 and AP75 are at one IoU.
APs, APm and APl are of objects below 32^2, up to 96^2 and above 96^2 px^2. AR is the mean of the maximum recall over
IoU and categories. All use the best 100 detections of an image and category (AR1, AR10: 1, 10). Crowds are ignored.
The mask metrics also ignore objects that have only a box, and detections whose mask lies within such a box. A metric
without objects, such as APl if no object is large, is None.
"""
from __future__ import annotations

import dataclasses
import functools
import io
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf import files
from mrcnn_tf.detectors.instances import Instances, to_coco
from mrcnn_tf.evaluation import accumulation
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.ops import paste

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Metrics = dict[str, float | None]

_REMEDY = 'convert the file with `mrcnn convert coco` and give the manifest, or fix it'
_KINDS = ('bbox', 'segm')
_LIMITS = (1, 10, 100)
_AREAS = ('all', 'small', 'medium', 'large')
_EVERY, _HALF, _THREE_QUARTERS = slice(0, 10), slice(0, 1), slice(5, 6)
_IOUS = {(0, 10): '0.50:0.95', (0, 1): '0.50', (5, 6): '0.75'}


class _Metric(NamedTuple):
    """A metric of COCO, as indices into the arrays of `Curves` whose mean it is."""
    recall: bool
    ious: slice
    area: int = 0
    limit: int = 2


_METRICS = {
    'AP': _Metric(False, _EVERY), 'AP50': _Metric(False, _HALF), 'AP75': _Metric(False, _THREE_QUARTERS),
    'APs': _Metric(False, _EVERY, 1), 'APm': _Metric(False, _EVERY, 2), 'APl': _Metric(False, _EVERY, 3),
    'AR1': _Metric(True, _EVERY, 0, 0), 'AR10': _Metric(True, _EVERY, 0, 1), 'AR100': _Metric(True, _EVERY),
    'ARs': _Metric(True, _EVERY, 1), 'ARm': _Metric(True, _EVERY, 2), 'ARl': _Metric(True, _EVERY, 3)}
_AT_LIMIT = {'AP': 'AP', 'AP50': 'AP50', 'AP75': 'AP75', 'AR': 'AR100'}    # also at a limit above 100, as AP@200, ...


class Curves(NamedTuple):
    """Results as arrays: T IoUs, R recalls, K categories by id, A areas, M limits; -1 where there are no objects.

    Attributes:
        precision: float64 [T, R, K, A, M], at the recalls 0, 0.01, ... 1.
        recall: float64 [T, K, A, M], the maximum.
    """
    precision: np.ndarray
    recall: np.ndarray

    def mean(self, name: str, category: int | None = None, limit: int | None = None) -> float | None:
        """Return a metric, None without objects.

        Args:
            name: such as 'AP50'.
            category: the position of a category; None: the mean over all.
            limit: the position in M; None: the metric's own.
        """
        metric = _METRICS[name]
        array = self.recall if metric.recall else self.precision
        values = array[metric.ious, ..., metric.area, metric.limit if limit is None else limit]
        return _mean(values if category is None else values[..., category])


class EvaluationError(ValueError):
    """Ground truth or detections cannot be evaluated; the message is one line: where, what, the remedy."""


@dataclasses.dataclass
class GroundTruth:
    """The annotated objects of a set.

    Attributes:
        source: the path of the file, for messages.
        sizes: height and width in px, by image id.
        categories: (id, name) of each category.
        annotations: as in COCO: image_id, category_id, bbox [x, y, width, height] in px, area, iscrowd, and
            segmentation as RLE unless the object has only a box. Those of records also have difficult (VOC).
        has_masks: whether any annotation has a mask.
        source_ids: the data set's image id as text, by image id; empty for a COCO file.
    """
    source: str
    sizes: dict[int, tuple[int, int]]
    categories: list[tuple[int, str]]
    annotations: list[dict[str, Any]]
    has_masks: bool
    source_ids: dict[int, str] = dataclasses.field(default_factory=dict)

    def of_images(self, image_ids: Iterable[int]) -> GroundTruth:
        """Return the ground truth of some of the images."""
        sizes = {image_id: self.sizes[image_id] for image_id in image_ids}
        annotations = [each for each in self.annotations if each['image_id'] in sizes]
        return dataclasses.replace(self, sizes=sizes, annotations=annotations)


def read_manifest(path: PathLike) -> GroundTruth:
    """Read the ground truth from the records of a converted set.

    Raises:
        ManifestError, InputError: the manifest or a shard cannot be used.
        EvaluationError: two records have the same image id.
    """
    manifest = Manifest.read(path)
    truth = GroundTruth(str(path), {}, [(c.id, c.name) for c in manifest.categories], [], manifest.any_masks)
    for record in ground_truth(path):
        if record['image_id'] in truth.sizes:
            raise EvaluationError(f'{path}: image id {record["image_id"]} occurs twice; convert the data again')
        truth.sizes[record['image_id']] = record['height'], record['width']
        truth.source_ids[record['image_id']] = record['source_id']
        truth.annotations += _annotations(record, manifest.categories)
    return truth


def read_coco(path: PathLike) -> GroundTruth:
    """Read the ground truth from a COCO file (instances_*.json).

    Raises:
        EvaluationError: the file does not exist or is not in COCO's format; an annotation cannot be used.
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
    truth.annotations += (_checked(each, truth) for each in annotations)
    return truth


class CocoEvaluator:
    """Collects the detections of all images of a set, computes COCO's metrics, and writes files.

    The model must have the categories of the set, with equal ids and names. Detections of other categories are ignored.

    Attributes:
        truth: the ground truth.
        detections: of the images added so far, in COCO's results format.
        curves: by 'bbox' and perhaps 'segm', once `evaluate` was called.
    """

    def __init__(self, truth: GroundTruth, categories: Sequence[Category], dialect: str) -> None:
        """Check the categories.

        Args:
            truth: the ground truth.
            categories: of the model, in the order of its labels 1..K.
            dialect: of mask pasting, `model.detections.paste`.

        Raises:
            EvaluationError: the model does not have a category of the set.
        """
        known = {category.id: category.name for category in categories}
        for number, name in truth.categories:
            if known.get(number) != name:
                known_as = repr(known[number]) if number in known else 'missing'
                raise EvaluationError(f'{truth.source}: category {number} is {name!r}, and in the model it is '
                                      f'{known_as}; evaluate on a set with the categories of the training set')
        self.truth, self.categories, self.dialect = truth, categories, dialect
        self.detections: list[dict[str, Any]] = []
        self.curves: dict[str, Curves] = {}
        self._added: set[int] = set()
        self._with_masks = truth.has_masks

    def add(self, image_id: int, instances: Instances) -> None:
        """Add the detections of one image, with boxes in px of the original image.

        Raises:
            EvaluationError: the set does not have the image, or it was added before.
        """
        self.add_all([(image_id, instances)])

    def add_all(self, detections: Iterable[tuple[int, Instances]], mapped: accumulation.Map = map) -> None:
        """Add the detections of images, each with its id, as `add` does.

        mapped: as Python's map; that of `Processes` encodes masks in several processes.
        """
        encode = functools.partial(_encoded, categories=self.categories, dialect=self.dialect)
        for found in mapped(encode, self._checked(detections)):
            self.detections += found

    def _checked(self, detections: Iterable[tuple[int, Instances]]
                 ) -> Iterator[tuple[int, tuple[int, int], Instances]]:
        """Yield the detections of each image with its size, px, and count it as added."""
        for image_id, instances in detections:
            if image_id not in self.truth.sizes:
                raise EvaluationError(f'{self.truth.source}: has no image {image_id}; evaluate on another set')
            if image_id in self._added:
                raise EvaluationError(f'{self.truth.source}: image {image_id} was added before; add each image once')
            self._added.add(image_id)
            self._with_masks &= instances.masks is not None
            yield image_id, self.truth.sizes[image_id], instances

    def add_results(self, results: Iterable[dict[str, Any]]) -> None:
        """Add detections in COCO's results format; images without one count as images without detections."""
        before = len(self.detections)
        self.detections += results
        self._added.update(self.truth.sizes)
        self._with_masks &= all('segmentation' in each for each in self.detections[before:])

    def evaluate(self, max_detections: int = 100, mapped: accumulation.Map = map) -> Metrics:
        """Return bbox/AP, ..., and segm/AP, ... if both model and set have masks; see `average_precision`.

        mapped: as Python's map; that of `Processes` matches images in several processes.

        Raises:
            EvaluationError: an image of the set was not added.
        """
        missing = sorted(set(self.truth.sizes) - self._added)
        if missing:
            raise EvaluationError(f'{self.truth.source}: {len(missing)} of {len(self.truth.sizes)} images were not '
                                  f'added, such as image {missing[0]}; add each image once')
        if self._with_masks and self._boxes_only():
            _log.warning('%s: %d of %d objects have a box and no mask: the segm metrics ignore them, and detections '
                         'within their boxes', self.truth.source, self._boxes_only(), len(self.truth.annotations))
        metrics: Metrics = {}
        for kind in _KINDS[:1 + self._with_masks]:
            self.curves[kind] = accumulate(self.truth, self.detections, kind, max_detections, mapped)
            values = _metrics(self.truth, self.curves[kind], max_detections)
            metrics.update({f'{kind}/{name}': value for name, value in values.items()})
        return metrics

    def _boxes_only(self) -> int:
        """Return the number of objects without a mask in a set with masks."""
        return sum('segmentation' not in each for each in self.truth.annotations) if self.truth.has_masks else 0

    def write(self, directory: PathLike, metrics: Mapping[str, float | None]) -> None:
        """Write metrics.json, which also has counts, and detections.json in COCO's results format.

        Raises:
            OSError: the disk is full or not writable.
        """
        crowds = sum(each['iscrowd'] for each in self.truth.annotations)
        counts = {'images': len(self._added), 'objects': len(self.truth.annotations) - crowds, 'crowds': crowds,
                  'objects_without_mask': self._boxes_only(), 'detections': len(self.detections)}
        files.write_json(pathlib.Path(directory) / 'detections.json', self.detections, indent=None)
        files.write_json(pathlib.Path(directory) / 'metrics.json', {**metrics, **counts})


def _encoded(image: tuple[int, tuple[int, int], Instances], categories: Sequence[Category], dialect: str
             ) -> list[dict[str, Any]]:
    """Return the detections of an image, given its id, height and width, in COCO's results format."""
    image_id, size, instances = image
    return [{'image_id': image_id, **result} for result in to_coco(instances, size, categories, dialect)]


def average_precision(truth: GroundTruth, detections: Iterable[Mapping[str, Any]], kind: str,
                      max_detections: int = 100) -> Metrics:
    """Return AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, and AP/NAME of each category.

    Args:
        truth: the ground truth.
        detections: in COCO's results format: image_id, category_id, score, and bbox or segmentation.
        kind: 'bbox' or 'segm'.
        max_detections: if it is above 100, for example 200, the result also has AP@200, AP50@200, AP75@200 and AR@200.

    Returns:
        Values 0..1, or None without objects.
    """
    return _metrics(truth, accumulate(truth, detections, kind, max_detections), max_detections)


def accumulate(truth: GroundTruth, detections: Iterable[Mapping[str, Any]], kind: str,
               max_detections: int = 100, mapped: accumulation.Map = map) -> Curves:
    """Return precision and recall, equal to pycocotools'; arguments as for `average_precision` and `evaluate`."""
    limits = [*_LIMITS, *([max_detections] if max_detections > _LIMITS[-1] else [])]
    return Curves(*accumulation.accumulate(truth.sizes, dict(truth.categories), expected(truth, kind), detections, kind,
                                           limits, mapped))


def expected(truth: GroundTruth, kind: str) -> Iterable[Mapping[str, Any]]:
    """Yield the annotations to detect. For masks, an object with only a box becomes a crowd that fills its box."""
    for each in truth.annotations:
        if kind == 'bbox' or 'segmentation' in each:
            yield each
        else:
            x, y, width, height = each['bbox']
            outline = [x, y, x + width, y, x + width, y + height, x, y + height]
            box = coco_mask.merge(coco_mask.frPyObjects([outline], *truth.sizes[each['image_id']]))
            yield {**each, 'iscrowd': 1, 'segmentation': box}


def names_of(truth: GroundTruth) -> list[str]:
    """Return the names of the categories, sorted by id; a name that occurs twice has the id behind it."""
    names = [name for _, name in sorted(truth.categories)]
    return [name if names.count(name) == 1 else f'{name} ({number})' for number, name in sorted(truth.categories)]


def table(metrics: Mapping[str, float | None]) -> str:
    """Return the lines that COCO's tools print, with a column for each of bbox and segm; '-' stands for None."""
    kinds = [kind for kind in _KINDS if f'{kind}/AP' in metrics]
    rows = [(name, metric, str(_LIMITS[metric.limit])) for name, metric in _METRICS.items()]
    for name, limit in (key.split('/')[1].split('@') for key in metrics if key.startswith('bbox/A') and '@' in key):
        rows.append((f'{name}@{limit}', _METRICS[_AT_LIMIT[name]], limit))
    lines = [f'{"":70}' + ''.join(f'{kind:>7}' for kind in kinds)]
    for name, metric, limit in rows:
        title = 'Average Recall    (AR)' if metric.recall else 'Average Precision (AP)'
        iou = _IOUS[metric.ious.start, metric.ious.stop]
        lines.append(f'{title} @[ IoU={iou:<9} | area={_AREAS[metric.area]:>6} | maxDets={limit:>3} ]  ' + ''.join(
            f'{_text(metrics[f"{kind}/{name}"]):>7}' for kind in kinds))
    return '\n'.join(lines)


def _metrics(truth: GroundTruth, curves: Curves, max_detections: int) -> Metrics:
    """Return the metrics of `average_precision`."""
    means = {name: curves.mean(name) for name in _METRICS}
    if max_detections > _LIMITS[-1]:
        means.update({f'{name}@{max_detections}': curves.mean(like, limit=3) for name, like in _AT_LIMIT.items()})
    return {**means, **{f'AP/{name}': curves.mean('AP', k) for k, name in enumerate(names_of(truth))}}


def _annotations(record: Mapping[str, Any], categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Return the annotations of a record."""
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


def _checked(annotation: Mapping[str, Any], truth: GroundTruth) -> dict[str, Any]:
    """Return an annotation of a COCO file with its mask as RLE, or raise EvaluationError."""
    place = f'{truth.source}: annotation {annotation.get("id")}'
    try:
        image_id, category_id = annotation['image_id'], annotation['category_id']
        box = [float(each) for each in annotation['bbox']]
        area, crowd = float(annotation.get('area', box[2] * box[3])), int(annotation.get('iscrowd', 0))
    except (LookupError, TypeError, ValueError):
        raise EvaluationError(f'{place}: image_id, category_id or bbox is missing or not a number; {_REMEDY}') from None
    if image_id not in truth.sizes or category_id not in dict(truth.categories):
        raise EvaluationError(f'{place}: no image {image_id} or no category {category_id} in the file; {_REMEDY}')
    result = {'image_id': image_id, 'category_id': category_id, 'bbox': box, 'area': area, 'iscrowd': crowd}
    if annotation.get('segmentation'):
        result['segmentation'] = _rle(annotation['segmentation'], truth.sizes[image_id], place)
    return result


def _rle(segmentation: Any, size: tuple[int, int], place: str) -> dict[str, Any]:
    """Return the compressed RLE of polygons, or of a compressed or uncompressed RLE."""
    if isinstance(segmentation, list):
        if not segmentation or not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation):
            raise EvaluationError(f'{place}: a polygon has fewer than three points or an odd number of coordinates; '
                                  f'{_REMEDY}')
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if not isinstance(segmentation, dict) or 'counts' not in segmentation or segmentation.get('size') != list(size):
        raise EvaluationError(f'{place}: its segmentation is not an RLE of {size[0]} x {size[1]} px; {_REMEDY}')
    return coco_mask.frPyObjects(segmentation, *size) if isinstance(segmentation['counts'], list) else segmentation


def _mean(values: np.ndarray) -> float | None:
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def _text(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
