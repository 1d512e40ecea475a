"""Evaluation: the detections of a model on every image of a set, and their metrics."""
from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.config import Config, DataConfig
from mrcnn_tf.detectors.augmentation import Detect, SingleView, detection_function
from mrcnn_tf.detectors.branch import Batch, Detections
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.detectors.devices import DetectOnDevices, first_of, in_threads
from mrcnn_tf.detectors.instances import Instances, split_batch
from mrcnn_tf.evaluation import cityscapes, per_class, recall, voc, write_report
from mrcnn_tf.evaluation.coco import CocoEvaluator, EvaluationError, GroundTruth, Metrics, read_manifest
from mrcnn_tf.evaluation.write_report import Report
from mrcnn_tf.files.processes import Processes
from mrcnn_tf.files.progress import track
from mrcnn_tf.input.damage import explain
from mrcnn_tf.input.dataset import evaluation_dataset
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.weights.model_directory import restore_checkpoint, restore_model

_log = logging.getLogger(__name__)

_METRICS = ('coco', 'voc2007', 'voc2012', 'cityscapes')


class Evaluation(NamedTuple):
    """The metrics of a set, and for COCO's metrics those of each category, see `per_class.rows`."""
    metrics: Metrics
    classes: Sequence[per_class.Row] = ()


class Evaluated(NamedTuple):
    """A detector, and the devices that have it: those that TensorFlow chooses, or several.

    Attributes:
        detector: with its weights, which are on the first of the devices.
        devices: TensorFlow's names.
        restore: returns the detector with its weights once more, for another device.
    """
    detector: Detector
    devices: Sequence[str] = ()
    restore: Callable[[], Detector] | None = None

    def function(self, of: Callable[[Detector], Detect]) -> Detect:
        """Return `of(detector)`, or with several devices the function that gives each batch to a free one."""
        if not self.devices:
            return of(self.detector)
        assert self.restore
        restore, made = self.restore, [self.detector]
        return DetectOnDevices(self.devices, lambda: of(made.pop() if made else restore()))


def evaluate(model_dir: str | os.PathLike[str], manifest: str | os.PathLike[str] | None = None,
             metric: str = 'coco', checkpoint: str | int = 'best',
             report: Report | str | os.PathLike[str] | None = None, precision: str = 'float32',
             devices: Sequence[str] = (), workers: int = 1) -> Metrics:
    """Return the metrics of a trained model on every image of a set.

    Shows its progress. Writes metrics.json and, except for recall, detections.json to the model directory; for COCO's
    metrics also per_class.csv.

    Args:
        model_dir: a model directory.
        manifest: of the set; None: the config's `data.validation`.
        metric: one of

            - 'coco': COCO's AP and AR, see `CocoEvaluator.evaluate`
            - 'voc2007', 'voc2012': `voc/mAP` and `voc/AP/NAME`, by eleven points or by the area
            - 'cityscapes': `cityscapes/AP`, `cityscapes/AP50` and `cityscapes/AP/NAME`
            - 'recall': recall of proposals, see `recall.average_recall`. The proposals are the RPN's 2000 best, or with
              a fast_rcnn those in the records.
        checkpoint: as `restore_model`.
        report: an HTML file to write that explains COCO's metrics, or a `Report` with options.
        precision: of convolutions and matrix products: 'float32' or 'bfloat16'.
        devices: TensorFlow's names of several devices, which take batches in turn, such as ['GPU:0', 'GPU:1']; each
            has the weights. Empty: the device that TensorFlow chooses.
        workers: number of processes that encode masks and, for COCO's metrics, match objects, beside the network; worth
            it with GPUs, or for thousands of images. Recall uses one. A program that asks for more needs
            `if __name__ == '__main__':`.

    Raises:
        CheckpointError, ConfigError, ManifestError, InputError: a part of the model or of the data cannot be used.
        EvaluationError: no set is named, or its categories are not the model's. The metric is unknown, or does not fit:
            'cityscapes' needs masks and gtFine files, 'recall' needs ground truth, and an RPN alone has recall only.
            A report needs 'coco', and compares with another report only.
        OSError: the disk is full, no permission; a worker died.

    Example:
        >>> import mrcnn_tf as m
        >>> metrics = m.evaluate('runs/mine', 'data/train.json')
        evaluated: 16 of 16 images...
        >>> 'bbox/AP' in metrics and 'segm/AP' in metrics
        True
    """
    return evaluate_classes(model_dir, manifest, metric, checkpoint, report, precision, devices, workers).metrics


def evaluate_classes(model_dir: str | os.PathLike[str], manifest: str | os.PathLike[str] | None = None,
                     metric: str = 'coco', checkpoint: str | int = 'best',
                     report: Report | str | os.PathLike[str] | None = None, precision: str = 'float32',
                     devices: Sequence[str] = (), workers: int = 1) -> Evaluation:
    """Do what `evaluate` does, and return also the metrics of each category."""
    wanted = Report(report) if isinstance(report, str | os.PathLike) else report
    if wanted:
        write_report.check(wanted, metric)
    directory = pathlib.Path(model_dir)
    with first_of(devices):
        detector, config, categories, step = restore_checkpoint(directory, checkpoint=checkpoint, precision=precision)
    model = Evaluated(detector, devices, lambda: restore_model(directory, 'op', step, precision)[0])
    manifest = manifest or config.data.validation
    if not manifest:
        raise EvaluationError(f'{directory / "config.yaml"}: data.validation is not set; say with --data which '
                              'NAME.json to evaluate on')
    if metric == 'recall':
        metrics, images = _recall(model, config, manifest)
        files.write_json(directory / 'metrics.json', {**metrics, 'images': images, 'step': step})
        return Evaluation(metrics)
    _check_metric(metric, model.detector)
    evaluator = CocoEvaluator(read_manifest(manifest), categories, config.model.detections.paste)
    metrics = _evaluate(model, config, evaluator, manifest, metric, workers)
    evaluator.write(directory, {**metrics, 'step': step})
    if metric != 'coco':
        return Evaluation(metrics)
    classes = per_class.rows(evaluator)
    per_class.write_csv(directory / 'per_class.csv', classes)
    if wanted:
        write_report.write(wanted, evaluator, metrics, f'{directory}, step {step}')
    return Evaluation(metrics, classes)


def evaluate_detector(detector: Detector, config: Config, manifest: str | os.PathLike[str], metric: str = 'coco',
                      categories: Sequence[Category] | None = None) -> Metrics:
    """Return the metrics of a detector on every image of a set. Writes no files.

    Args:
        detector: with classes, not an RPN alone.
        config: the function reads `data` and `model.detections`.
        manifest: of the set.
        metric: as in `evaluate`, but not 'recall'.
        categories: of the detector's labels 1..K; None: those of the set.

    Raises:
        ManifestError, InputError, EvaluationError: as `evaluate`.

    Example:
        >>> import mrcnn_tf as m
        >>> detector, config, _ = m.load_detector('runs/mine')
        >>> metrics = m.evaluate_detector(detector, config, 'data/train.json', 'voc2012')
        evaluated: 16 of 16 images...
        >>> 0 <= metrics['voc/mAP'] <= 1
        True
    """
    _check_metric(metric, detector)
    categories = categories or Manifest.read(manifest).categories
    evaluator = CocoEvaluator(read_manifest(manifest), categories, config.model.detections.paste)
    return _evaluate(Evaluated(detector), config, evaluator, manifest, metric)


def _check_metric(metric: str, detector: Detector) -> None:
    """Raise EvaluationError for an unknown metric, or for a detector without classes."""
    if metric not in _METRICS:
        raise EvaluationError(f'metric {metric!r}: expected {", ".join(_METRICS)}')
    if not detector.classifies:
        raise EvaluationError('an rpn does not tell categories apart; evaluate it with --metric recall')


def _evaluate(model: Evaluated, config: Config, evaluator: CocoEvaluator, manifest: str | os.PathLike[str],
              metric: str, workers: int = 1) -> Metrics:
    """Return the metrics, with all detections added to the evaluator."""
    warn_of_unreliable_metrics(evaluator.truth, config.model.detections.max_detections)
    with processes_of(workers) as processes:
        score = _scorer(metric, evaluator, model.detector, config, manifest, processes)
        detect = model.function(lambda detector: detection_function(detector, config.data, final=True))
        detections = predictions(detect, config, manifest)
        evaluator.add_all(((image_id, instances) for image_id, _, instances in
                           track(detections, len(evaluator.truth.sizes), 'evaluated')), processes.map)
        return score()


def processes_of(workers: int) -> Processes:
    """Return the processes of an evaluation, which import `CocoEvaluator`."""
    return Processes(workers, ['mrcnn_tf.evaluation.coco'])


def warn_of_unreliable_metrics(truth: GroundTruth, max_detections: int) -> None:
    """Log a warning if a set has no ground truth, or more objects on an image than the model returns detections."""
    counted = collections.Counter(each['image_id'] for each in truth.annotations if not each['iscrowd'])
    if not counted:
        reason = 'all its objects are crowds' if truth.annotations else 'it has no objects'
        _log.warning('%s: no ground truth: %s; metrics cannot be computed; `mrcnn evaluate` writes detections.json all '
                     'the same', truth.source, reason)
    full = [count for count in counted.values() if count > max_detections]
    if full:
        _log.warning('%s: %d of %d images have more than model.detections.max_detections=%d objects, up to %d; those '
                     'beyond cannot be found: set it higher', truth.source, len(full), len(truth.sizes),
                     max_detections, max(full))


def _scorer(metric: str, evaluator: CocoEvaluator, model: Detector, config: Config,
            manifest: str | os.PathLike[str], processes: Processes) -> Callable[[], Metrics]:
    """Return the function that computes the metrics from the evaluator's detections.

    It is called after the evaluation; what would make it fail is checked here, before.
    """
    if metric == 'coco':
        return lambda: evaluator.evaluate(config.model.detections.max_detections, processes.map)
    if metric == 'cityscapes':
        if 'masks' not in model.output_spec():
            raise EvaluationError(f'--metric cityscapes compares masks, and model.kind={config.model.kind} has no mask '
                                  'head; train a mask_rcnn or evaluate by coco')
        truth = cityscapes.instance_files(manifest, evaluator.truth)
        return lambda: _named('cityscapes', cityscapes.average_precision(truth, evaluator.detections))
    return lambda: _named('voc', voc.mean_average_precision(
        evaluator.truth, evaluator.detections, metric == 'voc2007'))


def _named(prefix: str, metrics: Metrics) -> Metrics:
    return {f'{prefix}/{name}': value for name, value in metrics.items()}


def _recall(model: Evaluated, config: Config, manifest: str | os.PathLike[str]) -> tuple[Metrics, int]:
    """Return the recall of a model's proposals on a set, and the number of images."""
    truth = read_manifest(manifest)
    if all(each['iscrowd'] or each.get('difficult') for each in truth.annotations):
        raise EvaluationError(f'{manifest}: no ground truth: it has no object that counts, so there is no recall; '
                              'give a set with annotations')
    proposals = recall.read_proposals(manifest)
    if 'proposals' not in model.detector.inputs_read:
        detect = model.function(lambda detector: proposal_function(detector, config.data, final=True))
        proposals = ((image_id, instances.boxes) for image_id, _, instances in predictions(detect, config, manifest))
    return recall.average_recall(truth, track(proposals, len(truth.sizes), 'evaluated')), len(truth.sizes)


def proposal_function(detector: Detector, data: DataConfig, final: bool = False) -> Detect:
    """Return the function of batches that gives as many proposals of the RPN as recall is computed of.

    detector, data, final: as `detection_function`.
    """
    return SingleView(lambda batch: detector.propose(batch, limit=recall.LIMITS[-1]), detector, data, final)


def predictions(detect: Detect, config: Config, manifest: str | os.PathLike[str], images: int | None = None,
                skip: int = 0) -> Iterator[tuple[int, tuple[int, int], Instances]]:
    """Yield (image id, (height, width), instances in px of the original image) of the images of a set, each once.

    Args:
        detect: of a detector, see `detection_function`, or another function of batches.
        config: says how images are read.
        manifest: of the set.
        images: how many; None: all.
        skip: leave out the first so many results. The others do not change.

    Raises:
        ManifestError, ConfigError, InputError: the set, the settings, or both together cannot be used.
    """
    sizes = [dataclasses.replace(config, data=data) for data in detect.sizes]
    needs = [name for name in config.model.needs if name in detect.inputs]  # decoding ground-truth masks takes long
    with explained(manifest):
        datasets = [evaluation_dataset(manifest, size, config.data.evaluation_batch_size, detect.fixed_canvases, needs,
                                       images) for size in sizes]
        remaining, work = _without_first(zip(*datasets, strict=True), skip), functools.partial(_detect, detect)
        # One function stays in this thread: training may have called this within the scope of a strategy.
        results = map(work, remaining) if detect.concurrency == 1 else in_threads(work, remaining, detect.concurrency)
        for detections, batch, skipped in results:
            yield from itertools.islice(split_batch(detections, batch), skipped, None)


Batches = tuple[Batch, ...]    # the same images in each size


def _without_first(all_batches: Iterable[Batches], skip: int) -> Iterator[tuple[Batches, int]]:
    """Yield batches without those of the first `skip` images, each with the number of its images to skip."""
    for batches in all_batches:
        count = int(tf.reduce_sum(tf.cast(batches[0]['image_valid'], tf.int32)))
        if skip < count:
            yield batches, skip
        skip = max(skip - count, 0)


def _detect(detect: Detect, given: tuple[Batches, int]) -> tuple[Detections, Batch, int]:
    """Return the detections of batches, the first one, and the number of its images to skip."""
    batches, skip = given
    inputs = [{key: batch[key] for key in detect.inputs if key in batch} for batch in batches]
    return detect(inputs), batches[0], skip


@contextlib.contextmanager
def explained(manifest: str | os.PathLike[str]) -> Iterator[None]:
    """Replace TensorFlow's errors about a record of a set by an InputError, where `explain` knows the cause."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = explain(error, manifest)
        if reason is error:
            raise
        raise reason from None
