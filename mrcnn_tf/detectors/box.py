"""The box branch (Fast 2): samples RoIs, at random or the hardest, and predicts their classes and boxes.

B images, G ground-truth slots, N candidates, R RoIs, P side of pooled features, C channels, K classes.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.branch import (
    Detections,
    Features,
    GroundTruth,
    Losses,
    RoIFeatures,
    RoIs,
    count,
    detection_spec,
)
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.heads import BoxHead
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import detections as detection_ops
from mrcnn_tf.ops import losses as loss_ops
from mrcnn_tf.ops import rng, targets
from mrcnn_tf.ops.detections import Candidates


class Stage(NamedTuple):
    """A box head and its training: the IoUs of positive, negative and background RoIs, see `targets.match`, and the
    weights of its deltas.
    """
    head: BoxHead
    positive_iou: float
    negative_iou: float
    background_iou: float
    box_weights: list[float]


class BoxBranch(CompositeLayer):
    """Classes and boxes of RoIs, by one head or by the stages of a cascade, of which each reads the boxes of the stage
    before (1712.00726).

    Args:
        config: the `model` section of a config.
        roi_features: pools the features of RoIs.
        heads: one, and another for each entry of `config.cascade`.
        engine: of NMS, 'op' or 'xla'.
    """

    def __init__(self, config: ModelConfig, roi_features: RoIFeatures, heads: Sequence[BoxHead], engine: str,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.roi_features, self.heads, self.engine = config, roi_features, list(heads), engine
        self.built = True

    @property
    def stages(self) -> list[Stage]:
        """The stages of the cascade; one without a cascade."""
        roi, cascade = self.config.roi, self.config.cascade
        negative_iou = roi.positive_iou if roi.negative_iou is None else roi.negative_iou
        return [Stage(self.heads[0], roi.positive_iou, negative_iou, roi.background_iou,
                      self.config.box_head.box_weights),
                *(Stage(head, iou, iou, 0., weights) for head, iou, weights in zip(
                    self.heads[1:], cascade.positive_iou, cascade.box_weights, strict=True))]

    # Prediction ------------------------------------------------------------------------------------------------------

    def predict(self, features: Features, boxes: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor) -> Detections:
        """Return the detections among RoIs float32 [B, R, 4] px, valid bool [B, R], of images of `sizes` [B, 2] px."""
        return self.select(self.candidates(features, boxes, valid, sizes))

    def select(self, candidates: Candidates) -> Detections:
        """Return the best candidates after NMS within each class."""
        return detection_ops.select(candidates, self.config.detections, self.engine)._asdict()

    def candidates(self, features: Features, boxes: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor) -> Candidates:
        """Return the scored boxes of RoIs, before NMS.

        With `detections.refinements`, the RoIs' best boxes are read again as RoIs, and their scored boxes join the
        candidates (1512.03385, appendix B).
        """
        rounds = [self._score(features, boxes, valid, sizes)]
        for _ in range(self.config.detections.refinements):
            rounds.append(self._score(features, detection_ops.best_boxes(rounds[-1]), valid, sizes))
        return Candidates(*(tf.concat(parts, axis=1) for parts in zip(*rounds, strict=True)))

    def _score(self, features: Features, boxes: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor) -> Candidates:
        """Return the boxes of the last stage, with the mean of all stages' scores."""
        stages: list[Candidates] = []
        for stage in self.stages:
            logits, deltas = stage.head(self.roi_features.pool(features, boxes))
            stages.append(detection_ops.candidates(boxes, valid, logits, deltas, sizes, stage.box_weights))
            boxes = stages[-1].boxes[:, :, 0]                                   # a cascade has one box for all classes
        return stages[-1]._replace(scores=tf.add_n([each.scores for each in stages]) / len(stages))

    def output_spec(self) -> dict[str, tf.TensorSpec]:
        """Return the shape and dtype of the detections of one image."""
        return detection_spec(self.config.detections.max_detections)

    # Training --------------------------------------------------------------------------------------------------------

    def sample(self, features: Features, boxes: tf.Tensor, valid: tf.Tensor, truth: GroundTruth, seed: tf.Tensor,
               training: bool = True) -> tuple[RoIs, int]:
        """Return RoIs to train on, with their pooled features, and in how many of the first slots positives may be.

        Args:
            features: of the backbone.
            boxes, valid: the candidates, float32 [B, N, 4] px and bool [B, N].
            truth: the objects to match them with.
            seed: int32 [n], or [B, n] by image.
            training: whether the features are pooled for training.
        """
        config, candidates = self.config.roi, self._match(self.stages[0], boxes, valid, truth)
        label = tf.where(candidates.valid, tf.cast(candidates.positive, tf.int32), -1)
        if config.sampling == 'ohem':
            losses = self._loss_of_each(features, candidates, truth)
            samples = targets.hardest(label, boxes, losses, config.batch_per_image, config.ohem_nms_iou, self.engine)
            positives = samples.index.shape[1]
        else:
            samples, positives = targets.sample(label, config.batch_per_image, config.positive_fraction, seed)
        chosen = RoIs(*(targets.gather_matched(field, samples.index) for field in candidates if field is not None))
        return chosen._replace(labels=tf.where(samples.positive, chosen.labels, 0), positive=samples.positive,
                               valid=samples.valid,
                               pooled=self.roi_features.pool(features, chosen.boxes, training)), positives

    def losses(self, features: Features, rois: RoIs, truth: GroundTruth, seed: tf.Tensor, training: bool = True
               ) -> Losses:
        """Return the losses of sampled RoIs (Fast eq. 1); those of a cascade end in _stage1, _stage2, ...

        Each stage's losses count in full. In the gradient of the features that they read, all stages together count as
        one (Detectron2).
        """
        losses: Losses = {}
        pooled, stages = rois.pooled, len(self.stages)
        for number, stage in enumerate(self.stages, start=1):
            logits, deltas = stage.head(_scale_gradient(pooled, 1 / stages), training=training,
                                        seed=rng.substream(seed, number))
            for name, loss in self._losses_of_stage(stage, rois, logits, deltas, truth).items():
                losses[f'{name}_stage{number}' if stages > 1 else name] = loss
            if number < stages:
                rois = self._refine(stage, rois, deltas, self.stages[number], truth)
                pooled = self.roi_features.pool(features, rois.boxes, training)
        return losses

    def _refine(self, stage: Stage, rois: RoIs, deltas: tf.Tensor, following: Stage, truth: GroundTruth) -> RoIs:
        """Return the boxes of a stage as RoIs of the following one, matched anew; no gradient passes through them."""
        boxes = box_ops.clip(box_ops.decode(deltas[:, :, 0], rois.boxes, stage.box_weights), truth.sizes)
        boxes = tf.stop_gradient(boxes)
        return self._match(following, boxes, rois.valid & (box_ops.area(boxes) > 0.), truth)

    def _match(self, stage: Stage, boxes: tf.Tensor, valid: tf.Tensor, truth: GroundTruth) -> RoIs:
        matches = targets.match(boxes, truth.boxes, truth.objects, truth.crowds, stage.positive_iou,
                                stage.negative_iou, False, self.config.roi.crowd_iof, stage.background_iou)
        positive = valid & (matches.label == 1)
        labels = tf.where(positive, targets.gather_matched(truth.labels, matches.matched_gt_index), 0)
        return RoIs(boxes, matches.matched_gt_index, labels, positive, valid & (matches.label >= 0))

    def _losses_of_stage(self, stage: Stage, rois: RoIs, logits: tf.Tensor, deltas: tf.Tensor, truth: GroundTruth
                         ) -> Losses:
        number = count(rois.valid)                                              # all RoIs, background included
        return {'loss_classifier': loss_ops.classification_loss(logits, rois.labels, rois.valid),
                'loss_box_reg': loss_ops.box_loss(
                    loss_ops.of_class(deltas, rois.labels, 2), _box_targets(stage, rois, truth), rois.positive,
                    self.config.box_head.smooth_l1_beta, number),
                'normalizer_classifier': number, 'normalizer_box_reg': number}

    def _loss_of_each(self, features: Features, rois: RoIs, truth: GroundTruth) -> tf.Tensor:
        """Return the loss of each RoI, float32 [B, R], of the first head as in inference, without a gradient."""
        stage = self.stages[0]
        logits, deltas = stage.head(self.roi_features.pool(features, rois.boxes))
        return tf.stop_gradient(loss_ops.roi_losses(
            logits, rois.labels, loss_ops.of_class(deltas, rois.labels, 2), _box_targets(stage, rois, truth),
            self.config.box_head.smooth_l1_beta))


def _box_targets(stage: Stage, rois: RoIs, truth: GroundTruth) -> tf.Tensor:
    """Return the deltas from RoIs to their objects: float32 [B, R, 4]."""
    return box_ops.encode(rois.boxes, targets.gather_matched(truth.boxes, rois.matched), stage.box_weights)


def _scale_gradient(x: tf.Tensor, scale: float) -> tf.Tensor:
    """Return `x`; its gradient is multiplied by `scale`."""
    @tf.custom_gradient
    def identity(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # In half precision, the scale itself would be rounded.
        return tf.identity(x), lambda gradient: tf.cast(scale * tf.cast(gradient, tf.float32), gradient.dtype)

    return identity(x)
