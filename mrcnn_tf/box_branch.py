"""The box branch (Fast 2): which RoIs are trained on, at random or the hardest, and what is predicted of them.

B images, G ground-truth slots, N candidates, R RoIs, P side of a pooled map, C channels, K classes. `read` is what the
head sees of RoIs: boxes [B, R, 4] and whether it is for training -> [B, R, P, P, C].
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf import boxes as box_ops
from mrcnn_tf import losses as loss_ops
from mrcnn_tf import targets
from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detections import Candidates, candidates
from mrcnn_tf.fitting import Batch
from mrcnn_tf.heads import BoxHead

Read = Callable[[tf.Tensor, bool], tf.Tensor]


class Truth(NamedTuple):
    """What a batch says of its images: boxes float32 [B, G, 4], labels int32 [B, G], which slots hold an object and
    which a crowd, bool [B, G]."""
    boxes: tf.Tensor
    labels: tf.Tensor
    objects: tf.Tensor
    crowds: tf.Tensor

    @classmethod
    def of(cls, batch: Batch) -> Truth:
        """Of the dict that ARCHITECTURE.md describes."""
        crowd, valid = batch['crowd'], batch['valid']
        return cls(batch['boxes'], batch['labels'], valid & ~crowd, valid & crowd)


class RoIs(NamedTuple):
    """Regions and what they are to become: boxes float32 [B, R, 4] px; matched int32 [B, R], the object of each; labels
    int32 [B, R], its class or 0; positive, valid bool [B, R], which have an object and which count at all."""
    boxes: tf.Tensor
    matched: tf.Tensor
    labels: tf.Tensor
    positive: tf.Tensor
    valid: tf.Tensor


class BoxBranch:
    """Classes and boxes of RoIs, by a head whose weights the model holds.

    Args:
        config: the `model` section of a config.
        engine: 'op' or 'xla', of the suppression among hard RoIs.
    """

    def __init__(self, config: ModelConfig, head: BoxHead, engine: str) -> None:
        self.config, self.head, self.engine = config, head, engine

    def predict(self, read: Read, boxes: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor) -> Candidates:
        """What RoIs [B, R, 4] may hold, of which those [B, R] count, in images of these sizes [B, 2]."""
        logits, deltas = self.head(read(boxes, False))
        return candidates(boxes, valid, logits, deltas, sizes, self.config.box_head.box_weights)

    def draw(self, read: Read, boxes: tf.Tensor, valid: tf.Tensor, truth: Truth, seed: tf.Tensor
             ) -> tuple[RoIs, int]:
        """The RoIs to train on among candidates [B, N, 4], and in how many of the first slots positives may lie."""
        config = self.config.roi
        rois = self._match(boxes, valid, truth)
        label = tf.where(rois.valid, tf.cast(rois.positive, tf.int32), -1)
        if config.sampling == 'ohem':
            losses = tf.stop_gradient(self._losses_of_each(read, rois, truth))
            drawn = targets.hardest(label, boxes, losses, config.batch_per_image, config.ohem_nms_iou, self.engine)
            most = drawn.index.shape[1]
        else:
            drawn, most = targets.sample(label, config.batch_per_image, config.positive_fraction, seed)
        taken = RoIs(*(targets.gather_matched(each, drawn.index) for each in rois))
        return taken._replace(labels=tf.where(drawn.positive, taken.labels, 0), positive=drawn.positive,
                              valid=drawn.valid), most

    def _match(self, boxes: tf.Tensor, valid: tf.Tensor, truth: Truth) -> RoIs:
        config = self.config.roi
        negative_iou = config.positive_iou if config.negative_iou is None else config.negative_iou
        matches = targets.match(boxes, truth.boxes, truth.objects, truth.crowds, config.positive_iou, negative_iou,
                                False, config.crowd_iof, config.background_iou)
        positive = valid & (matches.label == 1)
        labels = tf.where(positive, targets.gather_matched(truth.labels, matches.matched_gt_index), 0)
        return RoIs(boxes, matches.matched_gt_index, labels, positive, valid & (matches.label >= 0))

    def losses(self, rois: RoIs, pooled: tf.Tensor, truth: Truth, seed: tf.Tensor, training: bool
               ) -> dict[str, tf.Tensor]:
        """The named losses of RoIs [B, R], of which the head sees `pooled` [B, R, P, P, C]."""
        logits, deltas = self.head(pooled, training=training, seed=seed)
        count = tf.reduce_sum(tf.cast(rois.valid, tf.float32))                   # all RoIs, background included
        return {'loss_classifier': loss_ops.classification_loss(logits, rois.labels, rois.valid),
                'loss_box_reg': loss_ops.box_loss(loss_ops.of_class(deltas, rois.labels, 2), self._goals(rois, truth),
                                                  rois.positive, self.config.box_head.smooth_l1_beta, count)}

    def _losses_of_each(self, read: Read, rois: RoIs, truth: Truth) -> tf.Tensor:
        """[B, R], of the head as it is in inference."""
        logits, deltas = self.head(read(rois.boxes, False))
        return loss_ops.roi_losses(logits, rois.labels, loss_ops.of_class(deltas, rois.labels, 2),
                                   self._goals(rois, truth), self.config.box_head.smooth_l1_beta)

    def _goals(self, rois: RoIs, truth: Truth) -> tf.Tensor:
        """The deltas that turn RoIs into their objects: [B, R, 4]."""
        objects = targets.gather_matched(truth.boxes, rois.matched)
        return box_ops.encode(rois.boxes, objects, self.config.box_head.box_weights)
