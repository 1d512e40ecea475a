"""Evaluation of a detector again and again while it is trained: metrics and losses on the validation set.

B images, always 1.
"""
from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_tf.config import Config
from mrcnn_tf.detectors.augmentation import detection_function
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.detectors.trainable import traced
from mrcnn_tf.evaluation import coco, recall, run
from mrcnn_tf.evaluation.coco import CocoEvaluator, EvaluationError, GroundTruth, Metrics
from mrcnn_tf.evaluation.pictures import Pictures
from mrcnn_tf.input.dataset import evaluation_dataset, is_among
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.weights.history import LOSS

_PICTURES = 4    # images that are drawn in each evaluation


class Evaluated(NamedTuple):
    """The result of an evaluation: metrics and losses by name, and pictures uint8 [h, w, 3] by name."""
    values: Metrics
    pictures: Mapping[str, np.ndarray] = {}


class Validator:
    """Computes the metrics and losses of a detector on `data.validation` each time that it is called.

    Metrics are those of `mrcnn evaluate`, but of one view of each image: COCO's, or the recall of an RPN's proposals.
    Losses are the means over images at the largest size of training, without augmentation and with fixed random
    samples. A mask_rcnn on a set without masks has no losses. The same few images are drawn each time. Writes no files.

    Args:
        detector: whose weights may change between the calls.
        config: the function reads `data`, `model` and the settings of evaluations in `train`.
        categories: of the detector's labels 1..K.

    Raises:
        EvaluationError: there is no metric `train.best_metric`.
        ManifestError: `data.validation` cannot be used.
    """

    def __init__(self, detector: Detector, config: Config, categories: Sequence[Category]) -> None:
        scales = config.data.test_scales
        data = dataclasses.replace(config.data, test_scales=scales if len(scales) == 1 else [], test_flip=False)
        self.detector = detector
        self._config, self._categories = dataclasses.replace(config, data=data), categories
        self._manifest = str(data.validation)
        self._described = Manifest.read(self._manifest)
        self.images = min(config.train.evaluate_images or self._described.counts.images, self._described.counts.images)
        total = self._described.counts.images
        self._numbers = [number for number in range(total) if is_among(number, self.images, total)]
        self._detect = detection_function(detector, data) if detector.classifies else run.proposal_function(
            detector, data)
        self._losses = traced(functools.partial(detector.losses, training=False), each_shape=True)
        self._check_metric(config.train.best_metric)

    def __call__(self, progress: Callable[[float], object] = lambda fraction: None) -> Evaluated:
        """Return the metrics by name, the losses with names that begin with `val_loss`, and pictures.

        Args:
            progress: called after each image with the fraction of the work that is done. What it raises ends the
                evaluation.

        Raises:
            InputError: a record is damaged.
            EvaluationError: two records have the same image id.
        """
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(done / (2 * self.images))

        drawn: dict[str, np.ndarray] = {}
        metrics = self._metrics(self._instances(advance, drawn))
        return Evaluated({**metrics, **self._mean_losses(advance)}, drawn)

    @functools.cached_property
    def truth(self) -> GroundTruth:
        """The ground truth of the images."""
        truth = coco.read_manifest(self._manifest)
        ids = list(truth.sizes)
        truth = truth.of_images(ids[number] for number in self._numbers)
        run.warn_of_unreliable_metrics(truth, self._config.model.detections.max_detections)
        return truth

    @functools.cached_property
    def _pictures(self) -> Pictures:
        count = len(self._numbers)
        numbers = [number for i, number in enumerate(self._numbers) if is_among(i, min(_PICTURES, count), count)]
        return Pictures(self._manifest, numbers, self._categories, self._config.model.detections.paste)

    def _metrics(self, found: Iterator[tuple[int, Instances]]) -> Metrics:
        if not self.detector.classifies:
            return recall.average_recall(self.truth, ((image_id, each.boxes) for image_id, each in found))
        detections = self._config.model.detections
        evaluator = CocoEvaluator(self.truth, self._categories, detections.paste)
        evaluator.add_all(found)
        return evaluator.evaluate(detections.max_detections)

    def _instances(self, advance: Callable[[], None], drawn: dict[str, np.ndarray]
                   ) -> Iterator[tuple[int, Instances]]:
        """Yield image id and instances of each image, and add the pictures of some to `drawn`."""
        for image_id, _, instances in run.predictions(self._detect, self._config, self._manifest, self.images):
            yield image_id, instances
            if self.detector.classifies and image_id in self._pictures.image_ids:
                drawn[f'predictions/{image_id}'] = self._pictures.draw(image_id, instances)
            advance()

    def _mean_losses(self, advance: Callable[[], None]) -> Metrics:
        """Return the mean of each loss over the images, and of their sum."""
        needs, data = self._config.model.needs, self._config.data
        if 'masks' in needs and not self._described.any_masks:
            return {}
        data = dataclasses.replace(data, test_short_side=max(data.short_sides), test_long_side=data.long_side)
        config = dataclasses.replace(self._config, data=data)
        losses = collections.defaultdict(list)
        with run.explained(self._manifest):
            for batch in evaluation_dataset(self._manifest, config, 1, True, needs, self.images):
                values = {name: float(value) for name, value in self._losses(batch).items()}
                for name, value in {'loss': sum(values.values()), **values}.items():
                    losses[f'val_{name}'].append(value)
                advance()
        return {name: statistics.fmean(values) for name, values in losses.items()}

    def _check_metric(self, metric: str | None) -> None:
        """Raise EvaluationError if no evaluation has this metric."""
        nothing = GroundTruth(self._manifest, {}, [(c.id, c.name) for c in self._described.categories], [], True)
        names = [LOSS]
        if self.detector.classifies:
            kinds = ('bbox', 'segm') if 'masks' in self.detector.output_spec() and self._described.any_masks else (
                'bbox',)
            names += [f'{kind}/{name}' for kind in kinds for name in coco.average_precision(
                nothing, [], kind, self._config.model.detections.max_detections)]
        else:
            names += recall.average_recall(nothing, [])
        if metric is not None and metric not in names:
            close = difflib.get_close_matches(metric, names, 1, 0.5)
            hint = f'did you mean {close[0]}?' if close else f'expected one of {", ".join(names)}'
            raise EvaluationError(f'train.best_metric is {metric!r}: {hint}')
