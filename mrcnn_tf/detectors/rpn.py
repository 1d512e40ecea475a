"""Region proposals: the RPN (Faster 3.1), or proposals that a batch brings along (Fast).

B images, A anchors of all levels, a anchors per cell, P proposals, S samples.
"""
from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.branch import Batch, Detections, Features, GroundTruth, Losses, count, detection_spec
from mrcnn_tf.layers import winograd
from mrcnn_tf.layers.anchors import AnchorGenerator, cells_of_images
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.heads import RPNHead
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import losses as loss_ops
from mrcnn_tf.ops import proposals as proposal_ops
from mrcnn_tf.ops import targets
from mrcnn_tf.ops.proposals import Proposals

_CELLS_AROUND = 9      # cells of the feature maps whose gradient costs as much as that of one sample


class Scores(NamedTuple):
    """The RPN's answer to feature maps: anchors float32 [A, 4] px and, per level, objectness logits float32 [B, a] and
    deltas float32 [B, a, 4].
    """
    anchors: tf.Tensor
    logits: list[tf.Tensor]
    deltas: list[tf.Tensor]


class RPN(CompositeLayer):
    """The region proposal network: anchors, a head that scores them, their matching, sampling and losses.

    Args:
        config: the `model` section of a config.
        channels: of the feature maps.
        strides: px per cell of each feature map, the finest first.
        engine: of NMS, 'op' or 'xla'.
    """

    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def __init__(self, config: ModelConfig, channels: int, strides: Sequence[int], engine: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.channels, self.strides, self.engine = config.rpn, channels, tuple(strides), engine
        self.anchors = AnchorGenerator.of(config.anchors, self.strides, name='anchors')
        self.head = RPNHead.of(config.rpn, channels, self.anchors.per_cell[0], name='rpn_head')
        self.built = True

    def score(self, features: Features, images: tf.Tensor) -> Scores:
        """Return the anchors of the feature maps of `images` [B, H, W, 3], their objectness and their deltas."""
        return Scores(self.anchors(features, canvas=tf.shape(images)[1:3]), *self.head(features))

    # Prediction ------------------------------------------------------------------------------------------------------

    def propose(self, features: Features, batch: Batch, training: bool = False, limit: int | None = None
                ) -> Proposals:
        """Return the region proposals of a batch (Faster 3.3).

        Args:
            features: of the backbone.
            batch: `images` and `sizes`; with `padded_sizes`, cells beyond an image's own canvas propose nothing.
            training: keep as many as in training, `rpn.post_nms_train`, not `rpn.post_nms_test`.
            limit: replaces `rpn.post_nms_test`.
        """
        scores = self.score(features, batch['images'])
        if 'padded_sizes' in batch:
            scores = self._without_padding(scores, features, batch['padded_sizes'])
        return self._best(scores, batch['sizes'], training, limit)

    def _best(self, scores: Scores, sizes: tf.Tensor, training: bool, limit: int | None = None) -> Proposals:
        config = self.config if limit is None else dataclasses.replace(self.config, post_nms_test=limit)
        return proposal_ops.propose(scores.logits, scores.deltas, scores.anchors, sizes, config, training, self.engine)

    def _without_padding(self, scores: Scores, features: Features, sizes: tf.Tensor) -> Scores:
        """Set logits to LOWEST beyond the canvas that an image would have alone: sizes float32 [B, 2] px."""
        cells = cells_of_images(features, self.strides, sizes)
        return scores._replace(logits=[
            tf.where(tf.repeat(inside, count, axis=1), level, box_ops.LOWEST)
            for inside, count, level in zip(cells, self.anchors.per_cell, scores.logits, strict=True)])

    def create_variables(self) -> None:
        """Create the weights of the head by a forward pass on an empty feature map."""
        self.head([tf.zeros([1, 1, 1, self.channels])])

    def output_spec(self) -> dict[str, tf.TensorSpec]:
        """Return the detections of an RPN alone; there are fewer where the levels have fewer candidates than asked."""
        limit = min(self.config.post_nms_test, self.config.pre_nms_test * len(self.strides))
        return detection_spec(limit)

    # Training --------------------------------------------------------------------------------------------------------

    def train(self, features: Features, batch: Batch, truth: GroundTruth, seed: tf.Tensor
              ) -> tuple[Losses, Proposals]:
        """Return the losses of Faster eq. 1 with the number of positive anchors, and the proposals."""
        with winograd.as_in_inference() if self._runs_for_samples(features) else contextlib.nullcontext():
            scores = self.score(features, batch['images'])
        return self.losses(features, scores, truth, seed), self._best(scores, batch['sizes'], True)

    def losses(self, features: Features, scores: Scores, truth: GroundTruth, seed: tf.Tensor) -> Losses:
        """Return the losses of Faster eq. 1 and the number of positive anchors."""
        config, anchors, matches = self.config, scores.anchors, self._match(scores.anchors, truth)
        samples, positives = targets.sample(matches.label, config.batch_per_image, config.positive_fraction, seed)
        class_count, box_count = self._normalizers(samples, matches.label)
        logits, deltas = self._at(samples.index, features, scores)
        objectness = loss_ops.objectness_loss(logits, samples.positive, samples.valid, class_count)
        index = samples.index[:, :positives]                                     # only positives have a box target
        boxes = targets.gather_matched(truth.boxes, targets.gather_matched(matches.matched_gt_index, index))
        box = loss_ops.box_loss(deltas[:, :positives], box_ops.encode(tf.gather(anchors, index), boxes),
                                samples.positive[:, :positives], config.smooth_l1_beta, box_count)
        return {'loss_objectness': objectness, 'loss_rpn_box_reg': config.box_loss_weight * box,
                'normalizer_objectness': class_count, 'normalizer_rpn_box_reg': box_count,
                'positive_anchors': count(samples.positive)}

    def _at(self, index: tf.Tensor, features: Features, scores: Scores) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the logits [B, S] and deltas [B, S, 4] of the anchors `index` [B, S]."""
        if self._runs_for_samples(features):
            return self.head.at(features, index)
        return (tf.gather(tf.concat(scores.logits, 1), index, batch_dims=1),
                tf.gather(tf.concat(scores.deltas, 1), index, batch_dims=1))

    def _runs_for_samples(self, features: Features) -> bool:
        """Return whether the losses' head runs for the samples alone.

        The proposals pass no gradient to the head. So it runs again for the samples where that costs less than the
        gradient of all cells: measured in docs/performance.md.
        """
        cells = sum(math.prod(each.shape[1:3]) for each in features)
        return _CELLS_AROUND * self.config.batch_per_image < cells

    def _match(self, anchors: tf.Tensor, truth: GroundTruth) -> targets.Matches:
        config = self.config
        if not config.crossing_anchors:                                          # Faster 3.1.3; empty, they match none
            anchors = tf.where(box_ops.inside(anchors, truth.sizes)[..., None], anchors, 0.)
        matches = targets.match(anchors, truth.boxes, truth.objects, truth.crowds, config.positive_iou,
                                config.negative_iou, True, config.crowd_iof)
        return matches._replace(label=tf.where(box_ops.area(anchors) > 0., matches.label, -1))

    def _normalizers(self, samples: targets.Samples, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what divides the objectness loss and the box loss, in the dialect of `rpn.loss_normalizer`."""
        config, (batch, anchors) = self.config, label.shape
        sampled = count(samples.valid) if config.loss_normalizer == 'sampled' else (
            tf.constant(float(config.batch_per_image * batch)))
        locations = tf.constant(float(batch * anchors // self.anchors.per_cell[0]))
        return sampled, locations if config.loss_normalizer == 'locations' else sampled


class GivenProposals(keras.layers.Layer):
    """Region proposals that come with the batch, as Fast R-CNN needs them (Fast 2)."""

    head = None
    needs = ('proposals',)
    inputs = ('proposals', 'proposals_valid')

    def propose(self, features: Features, batch: Batch, training: bool = False, limit: int | None = None
                ) -> Proposals:
        """Return all of the batch's proposals; they have no objectness."""
        return Proposals(batch['proposals'], tf.zeros_like(batch['proposals'][..., 0]), batch['proposals_valid'])

    def train(self, features: Features, batch: Batch, truth: GroundTruth, seed: tf.Tensor
              ) -> tuple[Losses, Proposals]:
        """Return no losses, and the batch's proposals."""
        return {}, self.propose(features, batch)

    def create_variables(self) -> None:
        """There are none."""


def as_detections(proposals: Proposals) -> Detections:
    """Return proposals in the form of detections: objectness as their score, and label 1."""
    boxes, logits, valid = proposals
    return {'boxes': boxes, 'scores': tf.where(valid, tf.sigmoid(logits), 0.), 'labels': tf.cast(valid, tf.int32),
            'valid': valid}
