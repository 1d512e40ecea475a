"""Fast R-CNN, Faster R-CNN and Mask R-CNN, each the one before and something more; and the RPN alone.

B images, A anchors, P proposals, G ground-truth slots, S sampled RoIs, D detections; batch and detections are the dicts
that ARCHITECTURE.md describes. Convolutions and dense layers run in the global precision policy, all else in float32.
With the 'op' engine the height and width of the images of an inference may be dynamic; all else is static.
"""
from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.box import BoxBranch, RoIs, Truth
from mrcnn_tf.detectors.trainable import Batch, FittedModel
from mrcnn_tf.layers.anchors import AnchorGenerator, cells_of_images
from mrcnn_tf.layers.backbones import build_backbone
from mrcnn_tf.layers.heads import BoxHead, MaskHead, Res5Head, RPNHead
from mrcnn_tf.layers.normalization import Norm
from mrcnn_tf.layers.roi import RoILayer, build_roi_layer
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import detections as detection_ops
from mrcnn_tf.ops import losses as loss_ops
from mrcnn_tf.ops import proposals as proposal_ops
from mrcnn_tf.ops import targets
from mrcnn_tf.ops.tensor_shapes import dimensions

# The boxes' two end in _stage1, _stage2, ... in a cascade.
LOSSES = ('loss_objectness', 'loss_rpn_box_reg', 'loss_classifier', 'loss_box_reg', 'loss_mask')


class Detector(FittedModel):
    """What all have: a backbone. Call one on a batch for detections.

    Args:
        config: the `model` section of a config.
        engine: 'op' (TensorFlow's kernels; fast on a CPU) or 'xla' (arithmetic that XLA compiles).
    """

    def __init__(self, config: ModelConfig, engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(engine, **kwargs)
        self.settings = config
        self.backbone = build_backbone(config.backbone)
        if config.backbone.frozen:
            self.backbone.trainable = False

    @property
    def max_detections(self) -> int:
        """D."""
        return self.settings.detections.max_detections

    def maps(self, images: tf.Tensor, sizes: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """The feature maps, the finest first."""
        return self.backbone(self.normalize(images, sizes), training=training)

    def normalize(self, images: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """RGB 0..255 -> the channels, mean and deviation that the weights expect; zeros beyond each image."""
        if self.settings.channel_order == 'bgr':
            images = images[..., ::-1]
        images = (images - tf.constant(self.settings.pixel_mean)) / tf.constant(self.settings.pixel_std)
        rows, columns = (tf.range(side, dtype=tf.float32) < sizes[:, axis, None]
                         for axis, side in enumerate(dimensions(images)[1:3]))
        return tf.where(rows[:, :, None, None] & columns[:, None, :, None], images, 0.)

    def create_variables(self) -> None:
        """Makes all weights, by one look at an empty image."""
        size = 64
        images, sizes = tf.zeros([1, size, size, 3]), tf.fill([1, 2], float(size))
        self._create_heads(self.maps(images, sizes, False), sizes)
        self.built = True

    def _create_heads(self, features: list[tf.Tensor], sizes: tf.Tensor) -> None:
        """Makes the weights of what reads RoIs."""


class FastRCNN(Detector):
    """Classes and boxes of regions that come with the images (1504.08083)."""

    def __init__(self, config: ModelConfig, engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(config, engine, **kwargs)
        self.box_pool = self._roi_layer(config.box_head.pool_size, 'box_pool')
        self.res5_head = Res5Head.of(config.backbone, name='res5_head') if config.backbone.maps == 'c4' else None
        self.box_head = self._box_head('box_head')
        self.cascade_heads = [self._box_head(f'box_head_{i + 2}') for i in range(len(config.cascade.positive_iou))]
        self.box_branch = BoxBranch(config, self.box_heads, engine)

    @property
    def box_heads(self) -> list[BoxHead]:
        """One; of a cascade as many as there are stages."""
        return [self.box_head, *self.cascade_heads]

    def _box_head(self, name: str) -> BoxHead:
        norm = Norm.of(self.settings.backbone, self.settings.box_head.norm)
        return BoxHead.of(self.settings.box_head, self.settings.num_classes, norm, name=name)

    def _roi_layer(self, size: int, name: str) -> RoILayer:
        strides = self.backbone.strides[:self.backbone.pooled]
        return build_roi_layer(self.settings.roi, size, strides, self.engine, name)

    # Prediction ------------------------------------------------------------------------------------------------------

    def call(self, batch: Batch, training: bool = False) -> dict[str, tf.Tensor]:
        """`images` float32 [B, H, W, 3] and `sizes` float32 [B, 2] of a batch, and its proposals -> detections."""
        features = self.maps(batch['images'], batch['sizes'], training)
        return self.detect(features, *self.regions(batch, features), batch['sizes'])

    def regions(self, batch: Batch, features: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """What may hold an object: float32 [B, P, 4] px, and which of them count, bool [B, P]."""
        return batch['proposals'], batch['proposals_valid']

    def detect(self, features: list[tf.Tensor], rois: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor
               ) -> dict[str, tf.Tensor]:
        """Detections among RoIs [B, R, 4]."""
        found = self.candidates(features, rois, valid, sizes)
        return detection_ops.select(found, self.settings.detections, self.engine)._asdict()

    def candidates(self, features: list[tf.Tensor], rois: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor
                   ) -> detection_ops.Candidates:
        """What RoIs [B, R, 4] may hold, before suppression."""
        read = functools.partial(self.pool, self.box_pool, features)
        return self.box_branch.predict(read, rois, valid, sizes)

    def pool(self, layer: RoILayer, features: list[tf.Tensor], rois: tf.Tensor, training: bool) -> tf.Tensor:
        """What the heads read of RoIs [B, R, 4]: [B, R, P, P, C], through res5 where it belongs to the heads (C4)."""
        pooled = layer(features[:self.backbone.pooled], rois)
        return self.res5_head(pooled, training=training) if self.res5_head else pooled

    # Training --------------------------------------------------------------------------------------------------------

    def losses_and_counts(self, batch: Batch, seed: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """As in `FittedModel`: the losses of `LOSSES`, and `positive_anchors` and `positive_rois`."""
        truth = Truth.of(batch)
        features = self.maps(batch['images'], batch['sizes'], training)
        losses, rois, valid = self._region_losses(batch, truth, features, seed)
        rois = tf.concat([rois, truth.boxes], axis=1)                            # Fast 2.3: objects join the proposals
        valid = tf.concat([valid, truth.objects], axis=1)
        return {**losses, **self._roi_losses(batch, truth, features, rois, valid, seed + 1, training)}

    def _region_losses(self, batch: Batch, truth: Truth, features: list[tf.Tensor], seed: tf.Tensor
                       ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """The losses of what proposes regions, the regions [B, P, 4], and which of them count."""
        return {}, batch['proposals'], batch['proposals_valid']

    def _roi_losses(self, batch: Batch, truth: Truth, features: list[tf.Tensor], rois: tf.Tensor, valid: tf.Tensor,
                    seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        read = functools.partial(self.pool, self.box_pool, features)
        chosen, most = self.box_branch.draw(read, rois, valid, truth, seed)
        pooled = read(chosen.boxes, training)
        losses = self.box_branch.losses(read, chosen, pooled, truth, seed, training)
        losses['positive_rois'] = _count(chosen.positive)
        first = RoIs(*(each[:, :most] for each in chosen))                       # positives lie in the first slots
        losses.update(self._mask_losses(batch, features, first, pooled[:, :most], training))
        return losses

    def _mask_losses(self, batch: Batch, features: list[tf.Tensor], rois: RoIs, pooled: tf.Tensor, training: bool
                     ) -> dict[str, tf.Tensor]:
        """The losses of the masks of RoIs [B, R], of which the box head saw `pooled`."""
        return {}

    def _create_heads(self, features: list[tf.Tensor], sizes: tf.Tensor) -> None:
        self.detect(features, tf.tile(sizes, [1, 2])[None], tf.fill([1, 1], True), sizes)


class Proposer(Detector):
    """Anchors and the head that scores them (Faster 3.1): what the RPN alone and Faster R-CNN share."""

    def __init__(self, config: ModelConfig, engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(config, engine, **kwargs)
        self.anchors = AnchorGenerator.of(config.anchors, self.backbone.strides, name='anchors')
        self.rpn_head = RPNHead.of(config.rpn, self.backbone.channels, self.anchors.per_cell[0], name='rpn_head')

    def regions(self, batch: Batch, features: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """The RPN's proposals: float32 [B, P, 4] px, and which of them count, bool [B, P]."""
        proposals = self._propose(features, batch, False)
        return proposals.boxes, proposals.valid

    def proposals(self, batch: Batch, training: bool = False) -> dict[str, tf.Tensor]:
        """The regions of a batch in the form of detections: objectness as their scores, and all of label 1.

        training: as many as in training, `rpn.post_nms_train`; the maps are those of inference.
        """
        boxes, logits, valid = self._propose(self.maps(batch['images'], batch['sizes'], False), batch, training)
        return {'boxes': boxes, 'scores': tf.where(valid, tf.sigmoid(logits), 0.), 'labels': tf.cast(valid, tf.int32),
                'valid': valid}

    def _propose(self, features: list[tf.Tensor], batch: Batch, training: bool) -> proposal_ops.Proposals:
        anchors, logits, deltas = self._score(features, batch['images'])
        if 'padded_sizes' in batch:
            logits = self._of_own_canvas(features, logits, batch['padded_sizes'])
        return proposal_ops.propose(logits, deltas, anchors, batch['sizes'], self.settings.rpn, training, self.engine)

    def _of_own_canvas(self, features: list[tf.Tensor], logits: list[tf.Tensor], sizes: tf.Tensor) -> list[tf.Tensor]:
        """Logits [B, a] of each level, LOWEST beyond the canvas that an image would have alone: sizes [B, 2], px."""
        cells = cells_of_images(features, self.backbone.strides, sizes)
        return [tf.where(tf.repeat(inside, count, axis=1), level, box_ops.LOWEST)
                for inside, count, level in zip(cells, self.anchors.per_cell, logits, strict=True)]

    def describe(self, images: tf.Tensor, sizes: tf.Tensor, training: bool
                 ) -> tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        """Feature maps, anchors [A, 4], and of each map objectness logits [B, a] and deltas [B, a, 4]."""
        features = self.maps(images, sizes, training)
        return features, *self._score(features, images)

    def _score(self, features: list[tf.Tensor], images: tf.Tensor
               ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        return self.anchors(features, canvas=tf.shape(images)[1:3]), *self.rpn_head(features)

    def _region_losses(self, batch: Batch, truth: Truth, features: list[tf.Tensor], seed: tf.Tensor
                       ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        anchors, logits, deltas = self._score(features, batch['images'])
        losses = self._rpn_losses(truth, anchors, tf.concat(logits, 1), tf.concat(deltas, 1), seed)
        proposals = proposal_ops.propose(logits, deltas, anchors, batch['sizes'], self.settings.rpn, True, self.engine)
        return losses, proposals.boxes, proposals.valid

    def _rpn_losses(self, truth: Truth, anchors: tf.Tensor, logits: tf.Tensor, deltas: tf.Tensor, seed: tf.Tensor
                    ) -> dict[str, tf.Tensor]:
        config = self.settings.rpn
        matches = self._match_anchors(truth, anchors)
        drawn, most = targets.sample(matches.label, config.batch_per_image, config.positive_fraction, seed)
        count = tf.reduce_sum(tf.cast(drawn.valid, tf.float32)) if config.loss_normalizer == 'sampled' else (
            tf.constant(float(config.batch_per_image * logits.shape[0])))
        box_count = count if config.loss_normalizer != 'locations' else (
            tf.constant(float(logits.shape[0] * logits.shape[1] // self.anchors.per_cell[0])))
        logits = tf.gather(logits, drawn.index, batch_dims=1)
        objectness = loss_ops.objectness_loss(logits, drawn.positive, drawn.valid, count)
        index = drawn.index[:, :most]                                            # only positives have a box target
        goals = targets.gather_matched(truth.boxes, targets.gather_matched(matches.matched_gt_index, index))
        box = loss_ops.box_loss(tf.gather(deltas, index, batch_dims=1),
                                box_ops.encode(tf.gather(anchors, index), goals),
                                drawn.positive[:, :most], config.smooth_l1_beta, box_count)
        return {'loss_objectness': objectness, 'loss_rpn_box_reg': config.box_loss_weight * box,
                'positive_anchors': _count(drawn.positive)}

    def _match_anchors(self, truth: Truth, anchors: tf.Tensor) -> targets.Matches:
        config = self.settings.rpn
        if not config.crossing_anchors:                                          # Faster 3.1.3; empty, they match none
            anchors = tf.where(box_ops.inside(anchors, truth.sizes)[..., None], anchors, 0.)
        matches = targets.match(anchors, truth.boxes, truth.objects, truth.crowds, config.positive_iou,
                                config.negative_iou, True, config.crowd_iof)
        return matches._replace(label=tf.where(box_ops.area(anchors) > 0., matches.label, -1))

    def create_variables(self) -> None:
        self.rpn_head([tf.zeros([1, 1, 1, self.backbone.channels])])
        super().create_variables()


class RPN(Proposer):
    """The region proposal network alone: its detections are its proposals, and its losses those of Faster eq. 1."""

    @property
    def max_detections(self) -> int:
        """P, which is fewer than are asked for where all maps together have fewer candidates."""
        config = self.settings.rpn
        return min(config.post_nms_test, config.pre_nms_test * len(self.backbone.strides))

    def call(self, batch: Batch, training: bool = False) -> dict[str, tf.Tensor]:
        """`images` float32 [B, H, W, 3] and `sizes` float32 [B, 2] of a batch -> detections, D = P, of label 1."""
        return self.proposals(batch)

    def losses_and_counts(self, batch: Batch, seed: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """As in `FittedModel`: two losses, and `positive_anchors`."""
        _, anchors, logits, deltas = self.describe(batch['images'], batch['sizes'], training)
        return self._rpn_losses(Truth.of(batch), anchors, tf.concat(logits, 1), tf.concat(deltas, 1), seed)


class FasterRCNN(Proposer, FastRCNN):
    """Fast R-CNN whose regions come from a network that shares its maps (1506.01497; with FPN, 1612.03144)."""


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask for each detection: `mask_side` squared probabilities over its box."""

    def __init__(self, config: ModelConfig, engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(config, engine, **kwargs)
        self.mask_pool = self._roi_layer(config.mask_head.pool_size, 'mask_pool')
        self.mask_head = MaskHead.of(config.mask_head, config.num_classes,
                                     Norm.of(config.backbone, config.mask_head.norm), name='mask_head')

    def detect(self, features: list[tf.Tensor], rois: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor
               ) -> dict[str, tf.Tensor]:
        """Detections among RoIs [B, R, 4], masks read off the final boxes (Mask 3.1)."""
        found = super().detect(features, rois, valid, sizes)
        return {**found, 'masks': self.masks_of(features, found)}

    def masks_of(self, features: list[tf.Tensor], found: dict[str, tf.Tensor]) -> tf.Tensor:
        """Probabilities [B, D, m, m] over the boxes of detections, 0 where they are not valid."""
        logits = self.mask_head(self.pool(self.mask_pool, features, found['boxes'], False))
        if self.settings.mask_head.classifier == 'softmax':
            masks = tf.gather(tf.nn.softmax(logits), found['labels'], axis=4, batch_dims=2)
        else:
            masks = tf.sigmoid(loss_ops.of_class(logits, found['labels'], 4))
        return tf.where(found['valid'][:, :, None, None], masks, 0.)

    def _mask_losses(self, batch: Batch, features: list[tf.Tensor], rois: RoIs, pooled: tf.Tensor, training: bool
                     ) -> dict[str, tf.Tensor]:
        if not self.res5_head:                                                   # which boxes and masks share
            pooled = self.pool(self.mask_pool, features, rois.boxes, training)
        logits = self.mask_head(pooled, training=training)
        # A batch may say what part of the image its masks cover; their boxes otherwise.
        extents = targets.gather_matched(batch.get('mask_boxes', batch['boxes']), rois.matched)
        masks = targets.gather_matched(batch['masks'], rois.matched)
        goals = targets.mask_targets(tf.reshape(rois.boxes, [-1, 4]), tf.reshape(masks, [-1, *masks.shape[2:]]),
                                     tf.reshape(extents, [-1, 4]), self.mask_side, self.settings.roi.aligned,
                                     self.settings.mask_head.binary_targets)
        goals = tf.stop_gradient(tf.reshape(goals, logits.shape[:4]))
        # An object with a box only trains the boxes, not the masks; where a batch does not say, all have a mask.
        masked = rois.positive & targets.gather_matched(batch.get('has_mask', batch['valid']), rois.matched)
        if self.settings.mask_head.classifier == 'softmax':
            return {'loss_mask': loss_ops.multinomial_mask_loss(logits, rois.labels, goals, masked)}
        return {'loss_mask': loss_ops.mask_loss(loss_ops.of_class(logits, rois.labels, 4), goals, masked)}

    @property
    def mask_side(self) -> int:
        """Cells a side of a predicted mask: 28, or 14 where res5 halves what is pooled (C4)."""
        size = self.settings.mask_head.pool_size
        return size if self.res5_head else 2 * size


def _count(mask: tf.Tensor) -> tf.Tensor:
    """How many are set, float32 as all that a step returns."""
    return tf.reduce_sum(tf.cast(mask, tf.float32))


def build_model(config: ModelConfig, engine: str = 'op') -> Detector:
    """The detector that `config` describes, its weights made and random."""
    kinds: dict[str, type[Detector]] = {'rpn': RPN, 'fast_rcnn': FastRCNN, 'faster_rcnn': FasterRCNN,
                                        'mask_rcnn': MaskRCNN}
    model = kinds[config.kind](config, engine, name=config.kind)
    model.create_variables()
    return model
