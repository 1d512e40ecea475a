"""Faster R-CNN (1506.01497 with FPN, 1612.03144) and Mask R-CNN (1703.06870) as one keras.Model.

B images, A anchors, P proposals, G ground-truth slots, S sampled RoIs, D detections; batch and detections are the dicts
that ARCHITECTURE.md describes. Convolutions and dense layers run in the global precision policy, all else in float32.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mrcnn_tf import boxes as box_ops
from mrcnn_tf import detections as detection_ops
from mrcnn_tf import losses as loss_ops
from mrcnn_tf import rpn, targets
from mrcnn_tf.anchors import AnchorGenerator
from mrcnn_tf.backbones import build_backbone
from mrcnn_tf.backbones.normalization import Norm
from mrcnn_tf.config import ModelConfig
from mrcnn_tf.heads import BoxHead, MaskHead, Res5Head
from mrcnn_tf.roi import RoIAlign, RoIPool, build_roi_layer

Batch = Mapping[str, tf.Tensor]
LOSSES = ('loss_objectness', 'loss_rpn_box_reg', 'loss_classifier', 'loss_box_reg', 'loss_mask')


class Positives(NamedTuple):
    """The RoIs of a batch that are to get masks, padded: boxes [B, S, 4], the objects that they are matched with
    [B, S], labels [B, S], which of them count [B, S], and what the box head reads of them [B, S, P, P, C]."""
    rois: tf.Tensor
    matched: tf.Tensor
    labels: tf.Tensor
    positive: tf.Tensor
    pooled: tf.Tensor


class FasterRCNN(keras.Model):
    """Boxes and classes. Call it on a batch for detections; `fit` trains it on batches.

    Args:
        config: the `model` section of a config.
        engine: 'op' (TensorFlow's kernels; fast on a CPU) or 'xla' (arithmetic that XLA compiles).
    """

    train_function: Any    # Keras clears both in `compile`
    test_function: Any

    def __init__(self, config: ModelConfig, engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.settings, self.engine = config, engine
        self.clip_norm: float | None = None
        self.seed, self.jit = 0, False
        self.last_image_ids: Any = None
        self.backbone = build_backbone(config.backbone)
        self.anchors = AnchorGenerator(config.anchors.sizes, config.anchors.ratios, config.anchors.rounded,
                                       config.anchors.offset, name='anchors')
        self.rpn_head = rpn.RPNHead(self.backbone.channels, self.anchors.per_cell[0], config.rpn.convolutions,
                                    config.rpn.classifier, name='rpn_head')
        self.box_pool = self._roi_layer(config.box_head.pool_size, 'box_pool')
        self.res5_head = Res5Head(config.backbone, name='res5_head') if config.backbone.maps == 'c4' else None
        self.box_head = BoxHead(config.box_head, config.num_classes,
                                Norm.of(config.backbone, config.box_head.norm), name='box_head')

    def _roi_layer(self, size: int, name: str) -> RoIAlign | RoIPool:
        strides = self.backbone.strides[:self.backbone.pooled]
        return build_roi_layer(self.settings.roi, size, strides, self.engine, name)

    # Prediction ------------------------------------------------------------------------------------------------------

    def call(self, batch: Batch, training: bool = False) -> dict[str, tf.Tensor]:
        """`images` float32 [B, H, W, 3] and `sizes` float32 [B, 2] of a batch -> detections."""
        features, anchors, logits, deltas = self.describe(batch['images'], batch['sizes'], training)
        proposals = rpn.propose(logits, deltas, anchors, batch['sizes'], self.settings.rpn, False, self.engine)
        return self.detect(features, proposals.boxes, proposals.valid, batch['sizes'])

    def describe(self, images: tf.Tensor, sizes: tf.Tensor, training: bool
                 ) -> tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        """Feature maps, anchors [A, 4], and of each map objectness logits [B, a] and deltas [B, a, 4]."""
        features = self.backbone(self.normalize(images, sizes), training=training)
        anchors = self.anchors(features, canvas=tuple(images.shape[1:3]))
        return features, anchors, *self.rpn_head(features)

    def normalize(self, images: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """RGB 0..255 -> the channels, mean and deviation that the weights expect; zeros beyond each image."""
        if self.settings.channel_order == 'bgr':
            images = images[..., ::-1]
        images = (images - tf.constant(self.settings.pixel_mean)) / tf.constant(self.settings.pixel_std)
        rows, columns = (tf.range(images.shape[axis], dtype=tf.float32) < sizes[:, axis - 1:axis] for axis in (1, 2))
        return tf.where(rows[:, :, None, None] & columns[:, None, :, None], images, 0.)

    def detect(self, features: list[tf.Tensor], rois: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor
               ) -> dict[str, tf.Tensor]:
        """Detections among RoIs [B, R, 4]."""
        logits, deltas = self.box_head(self.pool(self.box_pool, features, rois, False))
        found = detection_ops.select(rois, valid, logits, deltas, sizes, self.settings.detections,
                                     self.settings.box_head.box_weights, self.engine)
        return found._asdict()

    def pool(self, layer: RoIAlign | RoIPool, features: list[tf.Tensor], rois: tf.Tensor, training: bool) -> tf.Tensor:
        """What the heads read of RoIs [B, R, 4]: [B, R, P, P, C], through res5 where it belongs to the heads (C4)."""
        pooled = layer(features[:self.backbone.pooled], rois)
        return self.res5_head(pooled, training=training) if self.res5_head else pooled

    # Training --------------------------------------------------------------------------------------------------------

    def losses_of(self, batch: Batch, seed: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """The named losses of a batch, float32 scalars; seed int32 [2] draws the samples."""
        objects = batch['valid'] & ~batch['crowd']
        crowds = batch['valid'] & batch['crowd']
        features, anchors, logits, deltas = self.describe(batch['images'], batch['sizes'], training)
        losses = self._rpn_losses(batch, objects, crowds, anchors, tf.concat(logits, 1), tf.concat(deltas, 1), seed)
        proposals = rpn.propose(logits, deltas, anchors, batch['sizes'], self.settings.rpn, True, self.engine)
        rois = tf.concat([proposals.boxes, batch['boxes']], axis=1)              # Fast 2.3: objects join the proposals
        valid = tf.concat([proposals.valid, objects], axis=1)
        losses.update(self._roi_losses(batch, objects, crowds, features, rois, valid, seed + 1, training))
        return losses

    def _rpn_losses(self, batch: Batch, objects: tf.Tensor, crowds: tf.Tensor, anchors: tf.Tensor, logits: tf.Tensor,
                    deltas: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        config = self.settings.rpn
        matches = targets.match(anchors, batch['boxes'], objects, crowds, config.positive_iou, config.negative_iou,
                                True, config.crowd_iof)
        drawn, most = targets.sample(matches.label, config.batch_per_image, config.positive_fraction, seed)
        count = tf.reduce_sum(tf.cast(drawn.valid, tf.float32)) if config.loss_normalizer == 'sampled' else (
            tf.constant(float(config.batch_per_image * logits.shape[0])))
        box_count = count if config.loss_normalizer != 'locations' else (
            tf.constant(float(logits.shape[0] * logits.shape[1] // self.anchors.per_cell[0])))
        logits = tf.gather(logits, drawn.index, batch_dims=1)
        objectness = loss_ops.objectness_loss(logits, drawn.positive, drawn.valid, count)
        index = drawn.index[:, :most]                                            # only positives have a box target
        goals = targets.gather_matched(batch['boxes'], targets.gather_matched(matches.matched_gt_index, index))
        box = loss_ops.box_loss(tf.gather(deltas, index, batch_dims=1),
                                box_ops.encode(tf.gather(anchors, index), goals),
                                drawn.positive[:, :most], config.smooth_l1_beta, box_count)
        return {'loss_objectness': objectness, 'loss_rpn_box_reg': config.box_loss_weight * box}

    def _roi_losses(self, batch: Batch, objects: tf.Tensor, crowds: tf.Tensor, features: list[tf.Tensor],
                    rois: tf.Tensor, valid: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        config, head = self.settings.roi, self.settings.box_head
        matches = targets.match(rois, batch['boxes'], objects, crowds, config.positive_iou, config.positive_iou, False,
                                config.crowd_iof)
        drawn, most = targets.sample(tf.where(valid, matches.label, -1), config.batch_per_image,
                                     config.positive_fraction, seed)
        rois = targets.gather_matched(rois, drawn.index)
        matched = targets.gather_matched(matches.matched_gt_index, drawn.index)
        labels = tf.where(drawn.positive, targets.gather_matched(batch['labels'], matched), 0)
        pooled = self.pool(self.box_pool, features, rois, training)
        logits, deltas = self.box_head(pooled, training=training)
        goals = box_ops.encode(rois, targets.gather_matched(batch['boxes'], matched), head.box_weights)
        count = tf.reduce_sum(tf.cast(drawn.valid, tf.float32))                  # all RoIs, background included
        losses = {'loss_classifier': loss_ops.classification_loss(logits, labels, drawn.valid),
                  'loss_box_reg': loss_ops.box_loss(loss_ops.of_class(deltas, labels, 2), goals, drawn.positive,
                                                    head.smooth_l1_beta, count)}
        positives = Positives(*(tensor[:, :most] for tensor in (rois, matched, labels, drawn.positive, pooled)))
        losses.update(self._mask_losses(batch, features, positives, training))
        return losses

    def _mask_losses(self, batch: Batch, features: list[tf.Tensor], positives: Positives, training: bool
                     ) -> dict[str, tf.Tensor]:
        return {}

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One update on this replica's batch; returns the losses."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        losses, gradients = self._compiled(self._losses_and_gradients)(batch, self._step_seed())
        if self.clip_norm and replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce('sum', gradients)
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
            # The optimizer sums over replicas once more.
            gradients = [g / replicas for g in gradients]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return losses

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """The losses of a batch without an update, normalisation by stored statistics."""
        losses = self.losses_of(batch, tf.zeros([2], tf.int32), training=False)
        return {'loss': tf.add_n(list(losses.values())), **losses}

    def _losses_and_gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            losses = self.losses_of(batch, seed)
            total = tf.add_n(list(losses.values()))
            # The optimizer sums the replicas' gradients: their mean is what one replica of all images would get.
            scaled = total / self.distribute_strategy.num_replicas_in_sync
        return {'loss': total, **losses}, tape.gradient(scaled, self.trainable_variables)

    def _step_seed(self) -> tf.Tensor:
        """int32 [2]: of the run, the step and the replica; a resumed run draws what an uninterrupted one would."""
        step = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int32)
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
        return tf.stack([self.seed + 1000003 * replica, 2 * step])               # the losses draw with this and + 1

    def compile(self, optimizer: Any, clip_norm: float | None = None, seed: int = 0, jit_compile: bool = False,
                **kwargs: Any) -> None:
        """As keras.Model.compile.

        Args:
            clip_norm: largest global norm of the gradient of all replicas.
            seed: of the samples that are drawn in each step.
            jit_compile: by XLA; takes a model with the 'xla' engine. The update of several replicas stays outside.

        Raises:
            ValueError: jit_compile with the 'op' engine.
        """
        if jit_compile and self.engine != 'xla':
            raise ValueError("jit_compile needs a model built with engine='xla'")
        super().compile(optimizer=optimizer, jit_compile=False, **kwargs)
        self.clip_norm, self.seed, self.jit = clip_norm, seed, jit_compile

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True, autograph=False) if self.jit else function

    # Keras traces one function for all batches, whose shapes are then unknown where there are several canvases, and
    # reduces what it returns in ways that differ between its versions. So: take the batch eagerly, trace for
    # each canvas, reduce here.

    def make_train_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        """Used by `fit`; made anew after `compile` only, since tracing and compiling take long."""
        if force or self.train_function is None:
            self.train_function = self._function_of_iterator(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        """Used by `evaluate`; made anew after `compile` only, since tracing and compiling take long."""
        if force or self.test_function is None:
            self.test_function = self._function_of_iterator(self.test_step)
        return self.test_function

    def _function_of_iterator(self, step: Callable[[Batch], dict[str, tf.Tensor]]
                              ) -> Callable[[Any], dict[str, tf.Tensor]]:
        strategy = self.distribute_strategy
        step = self._compiled(step) if strategy.num_replicas_in_sync == 1 else step

        names: list[str] = []

        def on_replica(batch: Batch) -> tf.Tensor:
            logs = step(batch)
            names[:] = logs
            return tf.stack([logs[name] for name in names])

        @tf.function(autograph=False)
        def on_replicas(batch: Batch) -> dict[str, tf.Tensor]:
            # As one vector: one exchange between the replicas, not one a loss.
            mean = strategy.reduce('mean', strategy.run(on_replica, args=(batch,)), axis=None)
            return dict(zip(names, tf.unstack(mean), strict=True))

        def from_iterator(iterator: Any) -> dict[str, tf.Tensor]:
            batch = next(iterator)
            self.last_image_ids = batch['image_ids']
            return on_replicas(batch)

        return from_iterator

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Keras 3 builds a model on a first batch under a strategy; ours is built, and that batch not of its form."""

    def create_variables(self) -> None:
        """Makes all weights, by one look at an empty image."""
        size = 64
        images = {'images': tf.zeros([1, size, size, 3]), 'sizes': tf.fill([1, 2], float(size))}
        features, *_ = self.describe(**images, training=False)
        self.detect(features, tf.fill([1, 1, 4], float(size)), tf.fill([1, 1], True), images['sizes'])
        self.built = True


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask for each detection: `mask_side` squared probabilities over its box."""

    def __init__(self, config: ModelConfig, engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(config, engine, **kwargs)
        self.mask_pool = self._roi_layer(config.mask_head.pool_size, 'mask_pool')
        self.mask_head = MaskHead(config.mask_head, config.num_classes,
                                  Norm.of(config.backbone, config.mask_head.norm), name='mask_head')

    def detect(self, features: list[tf.Tensor], rois: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor
               ) -> dict[str, tf.Tensor]:
        """Detections among RoIs [B, R, 4], masks read off the final boxes (Mask 3.1)."""
        found = super().detect(features, rois, valid, sizes)
        logits = self.mask_head(self.pool(self.mask_pool, features, found['boxes'], False))
        if self.settings.mask_head.classifier == 'softmax':
            masks = tf.gather(tf.nn.softmax(logits), found['labels'], axis=4, batch_dims=2)
        else:
            masks = tf.sigmoid(loss_ops.of_class(logits, found['labels'], 4))
        return {**found, 'masks': tf.where(found['valid'][:, :, None, None], masks, 0.)}

    def _mask_losses(self, batch: Batch, features: list[tf.Tensor], positives: Positives, training: bool
                     ) -> dict[str, tf.Tensor]:
        rois, matched, labels, positive, shared = positives
        pooled = shared if self.res5_head else self.pool(self.mask_pool, features, rois, training)
        logits = self.mask_head(pooled, training=training)
        # A batch may say what part of the image its masks cover; their boxes otherwise.
        extents = targets.gather_matched(batch.get('mask_boxes', batch['boxes']), matched)
        masks = targets.gather_matched(batch['masks'], matched)
        goals = targets.mask_targets(tf.reshape(rois, [-1, 4]), tf.reshape(masks, [-1, *masks.shape[2:]]),
                                     tf.reshape(extents, [-1, 4]), self.mask_side, self.settings.roi.aligned,
                                     self.settings.mask_head.binary_targets)
        goals = tf.stop_gradient(tf.reshape(goals, logits.shape[:4]))
        if self.settings.mask_head.classifier == 'softmax':
            return {'loss_mask': loss_ops.multinomial_mask_loss(logits, labels, goals, positive)}
        return {'loss_mask': loss_ops.mask_loss(loss_ops.of_class(logits, labels, 4), goals, positive)}

    @property
    def mask_side(self) -> int:
        """Cells a side of a predicted mask: 28, or 14 where res5 halves what is pooled (C4)."""
        size = self.settings.mask_head.pool_size
        return size if self.res5_head else 2 * size


def build_model(config: ModelConfig, engine: str = 'op') -> FasterRCNN:
    """The detector that `config` describes, its weights made and random."""
    model = {'faster_rcnn': FasterRCNN, 'mask_rcnn': MaskRCNN}[config.kind](config, engine, name=config.kind)
    model.create_variables()
    return model
