"""The detector: a backbone, region proposals, a box branch and further branches; `build_detector` assembles its parts.

B images, P proposals, G ground-truth slots, R RoIs, D detections; batch and detections are the dicts that
ARCHITECTURE.md describes. Convolutions and dense layers run in the global precision policy, all else in float32. With
the 'op' engine the height and width of the images of an inference may be dynamic; all else is static.
"""
from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.config import ModelConfig, model_config
from mrcnn_tf.detectors.box import BoxBranch
from mrcnn_tf.detectors.branch import Batch, Branch, Detections, Features, GroundTruth, Losses, RoIFeatures, count
from mrcnn_tf.detectors.mask import MaskBranch
from mrcnn_tf.detectors.rpn import RPN, GivenProposals, as_detections
from mrcnn_tf.detectors.trainable import TrainableModel
from mrcnn_tf.layers.backbones import build_backbone
from mrcnn_tf.layers.heads import BoxHead, MaskHead, Res5Head
from mrcnn_tf.layers.normalization import Norm
from mrcnn_tf.layers.recomputation import recomputation
from mrcnn_tf.layers.relu import gradient_from_output
from mrcnn_tf.layers.roi import build_roi_layer
from mrcnn_tf.layers.winograd import winograd_convolutions
from mrcnn_tf.ops import rng
from mrcnn_tf.ops.detections import Candidates
from mrcnn_tf.ops.tensor_shapes import dimensions

# The two of the boxes end in _stage1, _stage2, ... in a cascade.
LOSSES = ('loss_objectness', 'loss_rpn_box_reg', 'loss_classifier', 'loss_box_reg', 'loss_mask')
_GROUND_TRUTH = ('boxes', 'labels', 'crowd', 'valid')
_SIDES = 32          # a pyramid needs sides that are multiples of it
PARTS = {'rpn': ('rpn',), 'fast_rcnn': ('box',), 'faster_rcnn': ('rpn', 'box'), 'mask_rcnn': ('rpn', 'box', 'mask')}


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class Detector(TrainableModel):
    """Fast, Faster or Mask R-CNN, or an RPN alone, by its parts. Call it on a batch for detections.

    Args:
        config: the `model` section of a config.
        backbone: images to feature maps.
        proposer: an `RPN`, or `GivenProposals` (Fast R-CNN).
        box: the box branch; None for an RPN alone, whose detections are its proposals.
        branches: what is predicted for each detection besides class and box, such as masks.
        engine: 'op' (TensorFlow's kernels; fast on a CPU) or 'xla' (arithmetic that XLA compiles).

    Example:
        >>> import tensorflow as tf
        >>> import mrcnn_tf as m
        >>> detector = m.build_detector(m.load_config('mine.yaml').model)
        >>> detections = detector(tf.zeros([1, 64, 64, 3]))     # RGB 0..255
        >>> detections['boxes'].shape, detections['masks'].shape
        (TensorShape([1, 100, 4]), TensorShape([1, 100, 28, 28]))
    """

    def __init__(self, config: ModelConfig, backbone: keras.layers.Layer, proposer: RPN | GivenProposals,
                 box: BoxBranch | None, branches: Sequence[Branch], engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(engine, **kwargs)
        self.settings, self.backbone = config, backbone
        self.box: Any = box
        self.proposer: Any = proposer
        self.branches = list(branches)

    # Prediction ------------------------------------------------------------------------------------------------------

    def call(self, batch: Batch | tf.Tensor, training: bool = False) -> Detections:
        """Return the detections of a batch.

        Args:
            batch: the keys of `inputs_read`; or images [B, H, W, 3] of equal size, RGB 0..255, uint8 or float.
            training: whether batch normalization and dropout are those of training.

        Raises:
            ValueError: neither images nor a batch with the keys that the detector reads.
        """
        batch = self.as_batch(batch)
        features = self.features(batch, training)
        proposals = self.proposer.propose(features, batch)
        if self.box is None:
            return as_detections(proposals)
        return self.detect(features, proposals.boxes, proposals.valid, batch['sizes'])

    def as_batch(self, batch: Batch | tf.Tensor) -> Batch:
        """Return a batch as it is, and images [B, H, W, 3] as a batch, padded to the sides that the neck needs."""
        if not isinstance(batch, Mapping):
            images = tf.convert_to_tensor(batch)
            if images.shape.rank != 4 or images.shape[-1] != 3:
                raise ValueError(f'{self.name}: got a tensor of shape {images.shape}; expected images [B, H, W, 3], '
                                 "RGB 0..255, or a batch, a dict with 'images' [B, H, W, 3] and 'sizes' [B, 2]")
            count, height, width, _ = dimensions(images)
            sizes = tf.tile(tf.cast(tf.stack([height, width]), tf.float32)[None], [count, 1])
            multiple = _SIDES if len(self.backbone.strides) > 1 else 1
            padding = [[0, 0], [0, -height % multiple], [0, -width % multiple], [0, 0]]
            batch = {'images': tf.pad(tf.cast(images, tf.float32), padding), 'sizes': sizes}
        self._check_keys(batch, self.inputs_read)
        return batch

    def _check_keys(self, batch: Batch, expected: Sequence[str]) -> None:
        """Raise ValueError if a key is missing in a batch."""
        expected = [name for name in expected if name != 'padded_sizes']
        missing = [name for name in expected if name not in batch]
        if missing:
            raise ValueError(f'{self.name}: the batch has no {missing[0]!r}; expected the keys {", ".join(expected)}')

    def features(self, batch: Batch, training: bool = False) -> Features:
        """Return the feature maps of a batch, the finest first."""
        return self.backbone(self.normalize(batch['images'], batch['sizes']), training=training)

    def detect(self, features: Features, boxes: tf.Tensor, valid: tf.Tensor, sizes: tf.Tensor) -> Detections:
        """Return the detections among RoIs float32 [B, R, 4] px, valid bool [B, R], of images of `sizes` [B, 2] px."""
        detections = self.box.predict(features, boxes, valid, sizes)
        predictions = [branch.predict(features, detections) for branch in self.branches]     # for the final boxes
        return functools.reduce(operator.or_, predictions, detections)

    def normalize(self, images: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Return RGB 0..255 with the channel order, mean and deviation of the weights; zeros beyond each image."""
        if self.settings.channel_order == 'bgr':
            images = tf.reverse(images, [-1])    # a slice with a negative step takes eight times as long
        batch, height, width, channels = dimensions(images)
        rows, columns = (tf.cast(tf.range(side, dtype=tf.float32) < sizes[:, axis, None], images.dtype)
                         for axis, side in enumerate((height, width)))
        # Rows of 3 W values: broadcasting over an axis of 3 takes three times as long.
        mean, deviation = (tf.tile(tf.constant(values, images.dtype), [width])
                           for values in (self.settings.pixel_mean, self.settings.pixel_std))
        scale = tf.repeat(columns, channels, axis=1) / deviation
        images = (tf.reshape(images, [batch, height, -1]) - mean) * scale[:, None] * rows[:, :, None]
        return tf.reshape(images, [batch, height, width, channels])

    def candidates(self, batch: Batch) -> tuple[Features, Candidates]:
        """Return the feature maps of a batch and the scored boxes of its proposals, before NMS."""
        features = self.features(batch)
        proposals = self.proposer.propose(features, batch)
        return features, self.box.candidates(features, proposals.boxes, proposals.valid, batch['sizes'])

    def propose(self, batch: Batch, training: bool = False, limit: int | None = None) -> Detections:
        """Return the RPN's proposals in the form of detections, of label 1, scored by objectness.

        training, limit: how many, see `RPN.propose`; the feature maps are those of inference.
        """
        return as_detections(self.proposer.propose(self.features(batch), batch, training, limit))

    # Training --------------------------------------------------------------------------------------------------------

    def losses_and_counts(self, batch: Batch, seed: tf.Tensor, training: bool = True) -> Losses:
        """As in `TrainableModel`: the losses of `LOSSES`, `positive_anchors` and `positive_rois`."""
        with (recomputation(self.recompute and training), gradient_from_output(self.engine == 'xla' and training),
              winograd_convolutions(self.engine, training)):
            return self._losses_and_counts(batch, seed, training)

    def _losses_and_counts(self, batch: Batch, seed: tf.Tensor, training: bool) -> Losses:
        self._check_keys(batch, (*self.inputs_read, *_GROUND_TRUTH, *self.needs))
        truth = GroundTruth.of(batch)
        features = self.features(batch, training)
        ids = batch.get('image_ids', tf.range(batch['images'].shape[0], dtype=tf.int64))
        of_anchors, of_rois = (rng.substream(rng.of_images(seed, ids), number) for number in range(2))
        losses, proposals = self.proposer.train(features, batch, truth, of_anchors)
        if self.box is None:
            return losses
        boxes = tf.concat([proposals.boxes, truth.boxes], axis=1)                # Fast 2.3: objects join the proposals
        valid = tf.concat([proposals.valid, truth.objects], axis=1)
        rois, positives = self.box.sample(features, boxes, valid, truth, of_rois, training)
        losses = {**losses, **self.box.losses(features, rois, truth, of_rois, training),
                  'positive_rois': count(rois.positive)}
        for branch in self.branches:
            losses.update(branch.losses(features, rois.first(positives), batch, of_rois, training))
        return losses

    # Declarations, which the rest of the program reads ----------------------------------------------------------------

    @property
    def inputs_read(self) -> tuple[str, ...]:
        """The keys of a batch that `call` reads; of these, only `padded_sizes` may be missing."""
        return ('images', 'sizes', 'padded_sizes', *self.proposer.inputs)

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of a batch that training reads besides boxes and labels, such as 'masks' and 'proposals'."""
        return (*self.proposer.needs, *(name for branch in self.branches for name in branch.needs))

    @property
    def classifies(self) -> bool:
        """Whether detections have classes; those of an RPN alone all have the label 1."""
        return self.box is not None

    def output_spec(self) -> dict[str, tf.TensorSpec]:
        """Return the shape and dtype of the detections of one image: [D, ...]."""
        spec: dict[str, tf.TensorSpec] = (self.box or self.proposer).output_spec()
        limit = spec['valid'].shape[0]
        for branch in self.branches:
            spec.update({name: tf.TensorSpec([limit, *each.shape], each.dtype)
                         for name, each in branch.output_spec().items()})
        return spec

    @property
    def further_branches(self) -> list[Branch]:
        """The branches that the config does not name."""
        return self.branches['mask' in PARTS[self.settings.kind]:]

    def get_config(self) -> dict[str, Any]:
        return {'config': dataclasses.asdict(self.settings), 'engine': self.engine,
                'branches': [keras.saving.serialize_keras_object(branch) for branch in self.further_branches]}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Detector:
        """Return the detector that `get_config` describes, with random weights."""
        branches = [keras.saving.deserialize_keras_object(each) for each in config['branches']]
        return build_detector(model_config(config['config']), config['engine'], branches)

    def create_variables(self) -> None:
        """Create all weights by a forward pass on a dummy image."""
        self.proposer.create_variables()
        size = 64
        batch = {'images': tf.zeros([1, size, size, 3]), 'sizes': tf.fill([1, 2], float(size))}
        features = self.features(batch)
        if self.box is not None:
            box, valid = tf.tile(batch['sizes'], [1, 2])[None], tf.fill([1, 1], True)
            self.detect(features, box, valid, batch['sizes'])
        self.built = True


def build_detector(config: ModelConfig, engine: str = 'op', branches: Sequence[Branch] = ()) -> Detector:
    """Return the detector that the config names, with random weights.

    Args:
        config: the `model` section of a config; `kind` names the parts.
        engine: 'op' or 'xla', see `Detector`.
        branches: of your own, beside those of the config.

    Example:
        >>> import mrcnn_tf as m
        >>> config = m.load_config('mine.yaml', ['model.kind=rpn'])
        >>> detector = m.build_detector(config.model)
        >>> detector.name, detector.classifies, len(detector.branches)
        ('rpn', False, 0)
    """
    parts = PARTS[config.kind]
    backbone = build_backbone(config.backbone)
    if config.backbone.frozen:               # else its own frozen stages stay frozen
        backbone.trainable = False
    # The order is that of random numbers: initializers take their seeds as the layers are made.
    shared = 'box' in parts and config.backbone.maps == 'c4'
    res5_head = Res5Head.of(config.backbone, name='res5_head') if shared else None
    box = build_box_branch(config, backbone, res5_head, engine) if 'box' in parts else None
    proposer = RPN(config, backbone.channels, backbone.strides, engine, name='rpn') if 'rpn' in parts else (
        GivenProposals(name='given_proposals'))
    mask = [build_mask_branch(config, backbone, res5_head, engine)] if 'mask' in parts else []
    detector = Detector(config, backbone, proposer, box, [*mask, *branches], engine, name=config.kind)
    detector.create_variables()
    return detector


def build_box_branch(config: ModelConfig, backbone: keras.layers.Layer, res5_head: Res5Head | None, engine: str
                     ) -> BoxBranch:
    """Return the box branch: RoI layer, the shared last stage with C4, and one head or those of a cascade."""
    roi_layer = build_roi_layer(config.roi, config.box_head.pool_size, backbone.strides[:backbone.pooled], engine,
                                'box_pool')
    norm = Norm.of(config.backbone, config.box_head.norm)
    names = ['box_head', *(f'box_head_{i + 2}' for i in range(len(config.cascade.positive_iou)))]
    heads = [BoxHead.of(config.box_head, config.num_classes, norm, name=name) for name in names]
    return BoxBranch(config, RoIFeatures(roi_layer, backbone.pooled, res5_head), heads, engine, name='box')


def build_mask_branch(config: ModelConfig, backbone: keras.layers.Layer, res5_head: Res5Head | None, engine: str
                      ) -> MaskBranch:
    """Return the mask branch: RoI layer and head; with C4 it shares the box branch's last stage."""
    roi_layer = build_roi_layer(config.roi, config.mask_head.pool_size, backbone.strides[:backbone.pooled], engine,
                                'mask_pool')
    head = MaskHead.of(config.mask_head, config.num_classes, Norm.of(config.backbone, config.mask_head.norm),
                       name='mask_head')
    return MaskBranch(config, RoIFeatures(roi_layer, backbone.pooled, res5_head), head, engine,
                      name='mask')
