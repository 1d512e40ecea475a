"""The box branch (Fast 2): which RoIs are trained on, at random or the hardest, and what is predicted of them, by one
head or a cascade.

B images, G ground-truth slots, N candidates, R RoIs, P side of a pooled map, C channels, K classes. `read` is what a
head sees of RoIs: boxes [B, R, 4] and whether it is for training -> [B, R, P, P, C].
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.trainable import Batch
from mrcnn_tf.layers.heads import BoxHead
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import losses as loss_ops
from mrcnn_tf.ops import rng, targets
from mrcnn_tf.ops.detections import Candidates, best_boxes, candidates

Read = Callable[[tf.Tensor, bool], tf.Tensor]


class Truth(NamedTuple):
    """What a batch says of its images: boxes float32 [B, G, 4], labels int32 [B, G], which slots hold an object and
    which a crowd, bool [B, G], and the images' sizes float32 [B, 2]."""
    boxes: tf.Tensor
    labels: tf.Tensor
    objects: tf.Tensor
    crowds: tf.Tensor
    sizes: tf.Tensor

    @classmethod
    def of(cls, batch: Batch) -> Truth:
        """Of the dict that ARCHITECTURE.md describes."""
        crowd, valid = batch['crowd'], batch['valid']
        return cls(batch['boxes'], batch['labels'], valid & ~crowd, valid & crowd, batch['sizes'])


class RoIs(NamedTuple):
    """Regions and what they are to become: boxes float32 [B, R, 4] px; matched int32 [B, R], the object of each; labels
    int32 [B, R], its class or 0; positive, valid bool [B, R], which have an object and which count at all."""
    boxes: tf.Tensor
    matched: tf.Tensor
    labels: tf.Tensor
    positive: tf.Tensor
    valid: tf.Tensor


class Stage(NamedTuple):
    """A box head and what it is trained for: the IoUs that make RoIs positive, negative and background, as those of
    `targets.match`, and the weights of its deltas."""
    head: BoxHead
    positive_iou: float
    negative_iou: float
    background_iou: float
    box_weights: list[float]


class BoxBranch:
    """Classes and boxes of RoIs, by heads whose weights the model holds: one, or the stages of a cascade, each of which
    reads the boxes of the one before (1712.00726).

    Args:
        config: the `model` section of a config.
        heads: one, and another for each of `config.cascade`.
        engine: 'op' or 'xla', of the suppression among hard RoIs.
    """

    def __init__(self, config: ModelConfig, heads: Sequence[BoxHead], engine: str) -> None:
        self.config, self.engine = config, engine
        roi, cascade = config.roi, config.cascade
        negative_iou = roi.positive_iou if roi.negative_iou is None else roi.negative_iou
        first = Stage(heads[0], roi.positive_iou, negative_iou, roi.background_iou, config.box_head.box_weights)
        self.stages = [first, *(Stage(head, iou, iou, 0., weights) for head, iou, weights in zip(
            heads[1:], cascade.positive_iou, cascade.box_weights, strict=True))]

    def predict(self, read: Read, boxes: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor) -> Candidates:
        """What RoIs [B, R, 4] may hold, of which those [B, R] count, in images of these sizes [B, 2].

        And beside it what their best boxes may hold, when these are the RoIs, as often as `detections.refinements` says
        (1512.03385, appendix B).
        """
        found = [self._predict(read, boxes, valid, sizes)]
        for _ in range(self.config.detections.refinements):
            found.append(self._predict(read, best_boxes(found[-1]), valid, sizes))
        return Candidates(*(tf.concat(parts, axis=1) for parts in zip(*found, strict=True)))

    def _predict(self, read: Read, boxes: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor) -> Candidates:
        """Of one round.

        Boxes are those of the last stage, scores the mean of all stages', each of what it read itself.
        """
        found: list[Candidates] = []
        for stage in self.stages:
            logits, deltas = stage.head(read(boxes, False))
            found.append(candidates(boxes, valid, logits, deltas, sizes, stage.box_weights))
            boxes = found[-1].boxes[:, :, 0]                                    # the next reads it: one for all classes
        return found[-1]._replace(scores=tf.add_n([each.scores for each in found]) / len(found))

    def draw(self, read: Read, boxes: tf.Tensor, valid: tf.Tensor, truth: Truth, seed: tf.Tensor
             ) -> tuple[RoIs, int]:
        """The RoIs to train on among candidates [B, N, 4], and in how many of the first slots positives may lie."""
        config = self.config.roi
        rois = self._match(self.stages[0], boxes, valid, truth)
        label = tf.where(rois.valid, tf.cast(rois.positive, tf.int32), -1)
        if config.sampling == 'ohem':
            losses = self._losses_of_each(self.stages[0], read, rois, truth)
            drawn = targets.hardest(label, boxes, losses, config.batch_per_image, config.ohem_nms_iou, self.engine)
            most = drawn.index.shape[1]
        else:
            drawn, most = targets.sample(label, config.batch_per_image, config.positive_fraction, seed)
        taken = RoIs(*(targets.gather_matched(each, drawn.index) for each in rois))
        return taken._replace(labels=tf.where(drawn.positive, taken.labels, 0), positive=drawn.positive,
                              valid=drawn.valid), most

    def losses(self, read: Read, rois: RoIs, pooled: tf.Tensor, truth: Truth, seed: tf.Tensor, training: bool
               ) -> dict[str, tf.Tensor]:
        """The named losses of RoIs [B, R], of which the first head sees `pooled` [B, R, P, P, C].

        Each stage's count in full; in the gradient of what they read all stages together count as one (Detectron2).
        """
        found: dict[str, tf.Tensor] = {}
        stages = len(self.stages)
        for number, stage in enumerate(self.stages, start=1):
            logits, deltas = stage.head(_with_gradient(pooled, 1 / stages), training=training,
                                        seed=rng.substream(seed, number))
            for name, loss in self._compare(stage, rois, logits, deltas, truth).items():
                found[f'{name}_stage{number}' if stages > 1 else name] = loss
            if number < stages:
                rois = self._refined(stage, rois, deltas, self.stages[number], truth)
                pooled = read(rois.boxes, training)
        return found

    def _refined(self, stage: Stage, rois: RoIs, deltas: tf.Tensor, following: Stage, truth: Truth) -> RoIs:
        """The boxes of one stage as RoIs of the following one, matched anew; no gradient goes back through them."""
        boxes = box_ops.clip(box_ops.decode(deltas[:, :, 0], rois.boxes, stage.box_weights), truth.sizes)
        boxes = tf.stop_gradient(boxes)
        return self._match(following, boxes, rois.valid & (box_ops.area(boxes) > 0.), truth)

    def _match(self, stage: Stage, boxes: tf.Tensor, valid: tf.Tensor, truth: Truth) -> RoIs:
        matches = targets.match(boxes, truth.boxes, truth.objects, truth.crowds, stage.positive_iou,
                                stage.negative_iou, False, self.config.roi.crowd_iof, stage.background_iou)
        positive = valid & (matches.label == 1)
        labels = tf.where(positive, targets.gather_matched(truth.labels, matches.matched_gt_index), 0)
        return RoIs(boxes, matches.matched_gt_index, labels, positive, valid & (matches.label >= 0))

    def _compare(self, stage: Stage, rois: RoIs, logits: tf.Tensor, deltas: tf.Tensor, truth: Truth
                 ) -> dict[str, tf.Tensor]:
        count = tf.reduce_sum(tf.cast(rois.valid, tf.float32))                   # all RoIs, background included
        return {'loss_classifier': loss_ops.classification_loss(logits, rois.labels, rois.valid),
                'loss_box_reg': loss_ops.box_loss(loss_ops.of_class(deltas, rois.labels, 2), _goals(stage, rois, truth),
                                                  rois.positive, self.config.box_head.smooth_l1_beta, count)}

    def _losses_of_each(self, stage: Stage, read: Read, rois: RoIs, truth: Truth) -> tf.Tensor:
        """[B, R], of the head as it is in inference, without a gradient."""
        logits, deltas = stage.head(read(rois.boxes, False))
        return tf.stop_gradient(loss_ops.roi_losses(
            logits, rois.labels, loss_ops.of_class(deltas, rois.labels, 2), _goals(stage, rois, truth),
            self.config.box_head.smooth_l1_beta))


def _goals(stage: Stage, rois: RoIs, truth: Truth) -> tf.Tensor:
    """The deltas that turn RoIs into their objects: [B, R, 4]."""
    return box_ops.encode(rois.boxes, targets.gather_matched(truth.boxes, rois.matched), stage.box_weights)


def _with_gradient(x: tf.Tensor, share: float) -> tf.Tensor:
    """x, of whose gradient `share` arrives."""
    @tf.custom_gradient
    def identity(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(x), lambda gradient: share * gradient

    return identity(x)
