"""The mask branch (Mask 3): a mask of m x m cells over the box of each detection.

B images, R RoIs, D detections, of which the first N slots hold all positive or valid ones, P side of pooled features, T
true masks, K classes.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.branch import Batch, Branch, Detections, Features, Losses, RoIFeatures, RoIs, count
from mrcnn_tf.layers.heads import MaskHead
from mrcnn_tf.ops import losses as loss_ops
from mrcnn_tf.ops import targets
from mrcnn_tf.ops.tensor_shapes import dimensions

_STEP = 16    # N is a multiple of it: oneDNN and cuDNN prepare themselves for each number of RoIs


class MaskBranch(Branch):
    """Masks of RoIs, their targets and losses.

    Args:
        config: the `model` section of a config.
        roi_features: pools the features of RoIs; with a shared last stage (C4) training reuses those of the box head.
        head: predicts mask logits.
        engine: with 'op', masks are predicted for the valid detections alone and trained for the positive RoIs alone,
            unless the head has batch normalization; with 'xla', whose shapes are static, for all slots.
    """

    needs = ('masks',)

    def __init__(self, config: ModelConfig, roi_features: RoIFeatures, head: MaskHead, engine: str, **kwargs: Any
                 ) -> None:
        super().__init__(**kwargs)
        self.config, self.roi_features, self.head, self.engine = config, roi_features, head, engine

    @property
    def side(self) -> int:
        """m: 28, or 14 where the shared last stage halves the pooled features (C4)."""
        size = self.config.mask_head.pool_size
        return size if self.roi_features.res5_head else 2 * size

    def predict(self, features: Features, detections: Detections) -> Detections:
        """Return `masks`, float32 [B, D, m, m], probabilities over the final boxes (Mask 3.1)."""
        boxes, labels, valid = (detections[name] for name in ('boxes', 'labels', 'valid'))
        if self.engine == 'xla':
            masks = self._masks(features, boxes, labels)
        else:
            number, limit = _rounded_up(valid), dimensions(valid)[1]
            masks = self._masks(features, boxes[:, :number], labels[:, :number])   # [B, N, m, m]
            masks = tf.pad(masks, [[0, 0], [0, limit - number], [0, 0], [0, 0]])
            masks = tf.ensure_shape(masks, [*valid.shape, self.side, self.side])
        return {'masks': tf.where(valid[:, :, None, None], masks, 0.)}

    def _masks(self, features: Features, boxes: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Return the probabilities over boxes [B, N, 4] of the classes `labels` [B, N]: [B, N, m, m]."""
        pooled = self.roi_features.pool(features, boxes)
        if self.config.mask_head.classifier == 'softmax':
            return tf.gather(tf.nn.softmax(self.head(pooled)), labels, axis=4, batch_dims=2)
        return tf.sigmoid(self.head(pooled, labels=labels)[..., 0])

    def output_spec(self) -> dict[str, tf.TensorSpec]:
        return {'masks': tf.TensorSpec([self.side, self.side], tf.float32)}

    def merge(self, predictions: Sequence[Detections], mirrored: Sequence[bool]) -> Detections:
        """Return the mean of the probabilities of all views, those of mirrored views turned back."""
        upright = [tf.reverse(each['masks'], [3]) if turned else each['masks']
                   for each, turned in zip(predictions, mirrored, strict=True)]
        return {'masks': tf.add_n(upright) / len(upright)}

    def losses(self, features: Features, rois: RoIs, batch: Batch, seed: tf.Tensor, training: bool = True) -> Losses:
        """Return L_mask of Mask 3 over the positive RoIs.

        An object without a mask (`has_mask` False) has no mask loss. A batch may say with `mask_boxes` which part of
        the image its masks cover; else a mask covers the object's box.
        """
        # Statistics of a batch must not depend on the engine.
        if self.engine != 'xla' and self.head.norm.kind not in ('batch', 'sync'):
            rois = rois.first(_rounded_up(rois.positive))
        pooled = rois.pooled if self.roi_features.res5_head else (
            self.roi_features.pool(features, rois.boxes, training))
        softmax = self.config.mask_head.classifier == 'softmax'
        logits = self.head(pooled, training=training, labels=None if softmax else rois.labels)
        mask_targets = tf.stop_gradient(tf.reshape(self._targets(rois, batch), dimensions(logits)[:4]))
        masked = rois.positive & targets.gather_matched(batch.get('has_mask', batch['valid']), rois.matched)
        loss = loss_ops.multinomial_mask_loss(logits, rois.labels, mask_targets, masked) if softmax else (
            loss_ops.mask_loss(logits[..., 0], mask_targets, masked))
        return {'loss_mask': loss, 'normalizer_mask': count(masked)}

    def _targets(self, rois: RoIs, batch: Batch) -> tf.Tensor:
        """Return the mask of each RoI's object inside the RoI: float32 [B R, m, m]."""
        extents = targets.gather_matched(batch.get('mask_boxes', batch['boxes']), rois.matched)
        masks = targets.gather_matched(batch['masks'], rois.matched)
        return targets.mask_targets(tf.reshape(rois.boxes, [-1, 4]), tf.reshape(masks, [-1, *dimensions(masks)[2:]]),
                                    tf.reshape(extents, [-1, 4]), self.side, self.config.roi.aligned,
                                    self.config.mask_head.binary_targets)


def _rounded_up(valid: tf.Tensor) -> tf.Tensor:
    """Return how many of the first slots hold all valid ones of bool [B, D], a multiple of `_STEP` or D."""
    slots = dimensions(valid)[1]
    number = tf.maximum(tf.reduce_max(tf.where(valid, tf.range(1, slots + 1), 0)), 0)    # of no slots: lowest int
    return tf.minimum(tf.maximum(-(-number // _STEP), 1) * _STEP, slots)
