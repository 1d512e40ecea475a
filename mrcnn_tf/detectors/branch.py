"""What the parts of a detector have in common: sampled RoIs, ground truth, RoI features, and the base class `Branch`.

B images, G ground-truth slots, R RoIs, D detections, P side of pooled features, C channels. `Batch` and detections are
the dicts that ARCHITECTURE.md describes.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.heads import Res5Head
from mrcnn_tf.layers.roi import RoILayer

Batch = Mapping[str, tf.Tensor]
Features = Sequence[tf.Tensor]      # feature maps [B, h, w, C], the finest first
# float32 scalars: losses are named loss_NAME, the numbers of samples of which they are means normalizer_NAME, and the
# numbers of positive samples positive_...
Losses = dict[str, tf.Tensor]
Detections = dict[str, tf.Tensor]


class GroundTruth(NamedTuple):
    """The objects of a batch: boxes float32 [B, G, 4] px, labels int32 [B, G], objects and crowds bool [B, G], which
    slots hold an object and which a crowd, and sizes float32 [B, 2], the images' height and width in px.
    """
    boxes: tf.Tensor
    labels: tf.Tensor
    objects: tf.Tensor
    crowds: tf.Tensor
    sizes: tf.Tensor

    @classmethod
    def of(cls, batch: Batch) -> GroundTruth:
        """Return the objects of a batch."""
        crowd, valid = batch['crowd'], batch['valid']
        return cls(batch['boxes'], batch['labels'], valid & ~crowd, valid & crowd, batch['sizes'])


class RoIs(NamedTuple):
    """Regions of interest and their targets: boxes float32 [B, R, 4] px; matched int32 [B, R], the ground-truth slot of
    each; labels int32 [B, R], its class or 0; positive bool [B, R], whether it has an object; valid bool [B, R].

    pooled: the features [B, R, P, P, C] that the box head sees, where all heads share them (C4), else None.

    Example:
        >>> import tensorflow as tf
        >>> import mrcnn_tf as m
        >>> flags = tf.constant([[True, False]])
        >>> rois = m.RoIs(boxes=tf.constant([[[0., 0., 4., 4.], [9., 9., 12., 12.]]]), matched=tf.constant([[3, 0]]),
        ...               labels=tf.constant([[1, 0]]), positive=flags, valid=tf.constant([[True, True]]))
        >>> rois.first(1).boxes.numpy().tolist()
        [[[0.0, 0.0, 4.0, 4.0]]]
    """
    boxes: tf.Tensor
    matched: tf.Tensor
    labels: tf.Tensor
    positive: tf.Tensor
    valid: tf.Tensor
    pooled: tf.Tensor | None = None

    def first(self, count: int | tf.Tensor) -> RoIs:
        """Return the first `count` RoIs of each image."""
        return RoIs(*(None if field is None else field[:, :count] for field in self))


class RoIFeatures(CompositeLayer):
    """Pools the features of RoIs: a RoI layer, then the last stage of the backbone where it belongs to the heads (C4).

    Args:
        roi_layer: pools feature maps of fixed size.
        levels: how many of the feature maps it reads, the finest first.
        res5_head: the last stage, shared by all heads; None with FPN.
    """

    def __init__(self, roi_layer: RoILayer, levels: int, res5_head: Res5Head | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.roi_layer, self.levels, self.res5_head = roi_layer, levels, res5_head
        self.built = True

    def pool(self, features: Features, boxes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the features of boxes float32 [B, R, 4] px: [B, R, P, P, C]."""
        pooled = self.roi_layer(list(features[:self.levels]), boxes)
        return self.res5_head(pooled, training=training) if self.res5_head else pooled


class Branch(CompositeLayer):
    """Base class of what a detector predicts for each detection besides class and box: masks, keypoints, ...

    A branch owns its layers, targets, losses and predictions. Its predictions are relative to the box of the detection,
    so that they stay true when boxes move from the canvas to the original image. The methods call the branch's layers;
    the branch itself is never called.

    Attributes:
        needs: the keys of a batch that training reads besides boxes and labels.

    Example:
        >>> import tensorflow as tf
        >>> import mrcnn_tf as m
        >>> class Heights(m.Branch):
        ...     def losses(self, features, rois, batch, seed, training=True):
        ...         return {}
        ...     def predict(self, features, detections):
        ...         return {'heights': detections['boxes'][..., 2] - detections['boxes'][..., 0]}
        ...     def output_spec(self):
        ...         return {'heights': tf.TensorSpec([], tf.float32)}
        >>> detector = m.build_detector(m.load_config('mine.yaml').model, branches=[Heights()])
        >>> sorted(detector.output_spec())
        ['boxes', 'heights', 'labels', 'masks', 'scores', 'valid']
    """

    needs: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = True

    def losses(self, features: Features, rois: RoIs, batch: Batch, seed: tf.Tensor, training: bool = True) -> Losses:
        """Return the named losses of sampled RoIs, float32 scalars.

        Args:
            features: of the backbone.
            rois: the first slots of the sampled RoIs; only there are positives.
            batch: the ground truth; `rois.matched` are its slots.
            seed: int32 [B, n], for random numbers of each image (`ops.rng.uniform`).
            training: False for the losses of an evaluation.

        A loss is a mean: over the images of the batch, or over samples of which there are `normalizer_NAME`, a float32
        scalar returned beside `loss_NAME`. With it, training on several replicas gives the mean over the samples of all
        of them.
        """
        raise NotImplementedError

    def predict(self, features: Features, detections: Detections) -> Detections:
        """Return the predictions for detections, zeros where they are not valid: [B, D, ...]."""
        raise NotImplementedError

    def output_spec(self) -> dict[str, tf.TensorSpec]:
        """Return the shape and dtype of each prediction for one detection."""
        raise NotImplementedError

    def merge(self, predictions: Sequence[Detections], mirrored: Sequence[bool]) -> Detections:
        """Return the predictions of several views of the same detections as one (test-time augmentation).

        The base class returns those of the first view, which is never mirrored.

        Args:
            predictions: of `predict`, one per view.
            mirrored: which views are mirrored left to right.
        """
        return dict(predictions[0])


def detection_spec(limit: int) -> dict[str, tf.TensorSpec]:
    """Return the shape and dtype of the detections of one image, D = limit, without those of branches."""
    return {'boxes': tf.TensorSpec([limit, 4], tf.float32), 'scores': tf.TensorSpec([limit], tf.float32),
            'labels': tf.TensorSpec([limit], tf.int32), 'valid': tf.TensorSpec([limit], tf.bool)}


def count(mask: tf.Tensor) -> tf.Tensor:
    """Return the number of set entries as a float32 scalar."""
    return tf.reduce_sum(tf.cast(mask, tf.float32))
