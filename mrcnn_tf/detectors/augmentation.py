"""Test-time augmentation: images are looked at in several sizes and mirrored, and all these views give one answer.

Mask, appendix, "test-time augmentation", in Detectron's way (its heuristics UNION and SOFT_AVG): the candidates of all
views are suppressed together, within each class; a mask is read off its final box in every view, turned back, and the
probabilities are averaged. Not the logits: these have no bound, so that one view that is very sure would outvote the
others, and masks whose classes compete have no single one. The maps of all views are held until then, about 90 bytes
for each pixel of a view with FPN; Detectron computes them twice.

B images; V views; R RoIs, K classes of a view; D detections; m cells a side of a mask. A view is a Batch in a size of
its own. The answer's boxes are in px of the first one.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.detectors.detector import Detector, FastRCNN, MaskRCNN
from mrcnn_tf.detectors.trainable import Batch
from mrcnn_tf.ops import detections as detection_ops
from mrcnn_tf.ops.detections import Candidates
from mrcnn_tf.ops.tensor_shapes import dimensions

_CANVAS_STEP = 32    # the coarsest stride


class View(NamedTuple):
    """A look at images: their sizes float32 [B, 2], whether they are mirrored, the maps, and what may be there."""
    sizes: tf.Tensor
    mirrored: bool
    features: list[tf.Tensor]
    found: Candidates

    def back(self, boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Boxes [B, ..., 4] of this view in px of upright images of other `sizes`."""
        boxes = mirror_boxes(boxes, self.sizes) if self.mirrored else boxes
        return boxes * _like(sizes / self.sizes, boxes)

    def into(self, boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Inverse of `back`."""
        boxes = boxes * _like(self.sizes / sizes, boxes)
        return mirror_boxes(boxes, self.sizes) if self.mirrored else boxes


def sizes_of_tests(data: DataConfig) -> list[DataConfig]:
    """The settings of each size in which an image is looked at: `test_scales`, or `test_short_side` alone.

    The limit of the long side and the canvases scale with the short side.
    """
    return [_scaled(data, side) for side in data.test_scales] or [data]


class Finder:
    """Finds the objects of images that are given in each of its `sizes`.

    Args:
        model: a Fast, Faster or Mask R-CNN; another function of batches and `training` that gives detections has but
            one view. With the 'op' engine it is traced once for all heights and widths, with 'xla' once a canvas.
        data: says in which sizes (see `sizes_of_tests`), and whether their mirror images are looked at too.
    """

    def __init__(self, model: Any, data: DataConfig) -> None:
        augmented = isinstance(model, FastRCNN)
        self.sizes = sizes_of_tests(data) if augmented else [data]
        self._model, self._flip = model, augmented and data.test_flip
        # XLA compiles static shapes only.
        self.fixed_canvases = isinstance(model, Detector) and model.engine == 'xla'
        self._detect = _traced(lambda batch: model(batch, training=False), self.fixed_canvases)
        self._look = _traced(self._candidates, self.fixed_canvases)
        self._masks = _traced(model.masks_of, self.fixed_canvases) if isinstance(model, MaskRCNN) else None

    def __call__(self, batches: Sequence[Batch]) -> dict[str, tf.Tensor]:
        """Detections, boxes in px of the first batch's canvas.

        Args:
            batches: `images` and `sizes`, and `proposals` of a fast_rcnn, of the same images in each size.
        """
        if len(batches) == 1 and not self._flip:
            found: dict[str, tf.Tensor] = self._detect(batches[0])
            return found
        return self.merge([view for batch in batches for view in self.views(batch)])

    def views(self, batch: Batch) -> list[View]:
        """The looks at images in one size: one, or two."""
        upright = View(batch['sizes'], False, *self._look(batch))
        return [upright, View(batch['sizes'], True, *self._look(mirror(batch)))] if self._flip else [upright]

    def merge(self, views: Sequence[View]) -> dict[str, tf.Tensor]:
        """The detections of all views together, boxes in px of the first."""
        sizes, model = views[0].sizes, self._model
        moved = [view.found._replace(boxes=view.back(view.found.boxes, sizes)) for view in views]
        union = Candidates(*(tf.concat(columns, axis=1) for columns in zip(*moved, strict=True)))    # V R RoIs
        found = detection_ops.select(union, model.settings.detections, model.engine)._asdict()
        if self._masks is None:
            return found
        masks = [self._masks(view.features, {**found, 'boxes': view.into(found['boxes'], sizes)}) for view in views]
        return {**found, 'masks': average_masks(masks, [view.mirrored for view in views])}

    def _candidates(self, batch: Batch) -> tuple[list[tf.Tensor], Candidates]:
        features = self._model.maps(batch['images'], batch['sizes'], False)
        return features, self._model.candidates(features, *self._model.regions(batch, features), batch['sizes'])


def mirror(batch: Batch) -> dict[str, tf.Tensor]:
    """Images and proposals of a batch turned left to right, each within its own size; twice is the identity."""
    across = tf.range(dimensions(batch['images'])[2])
    widths = tf.cast(batch['sizes'][:, 1:], tf.int32)                                  # [B, 1]
    columns = tf.where(across < widths, widths - 1 - across, across)                   # [B, W]
    moved = {'images': tf.gather(batch['images'], columns, axis=2, batch_dims=1)}
    if 'proposals' in batch:
        moved['proposals'] = mirror_boxes(batch['proposals'], batch['sizes'])
    return {**batch, **moved}


def mirror_boxes(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Boxes [B, ..., 4] of images of `sizes` [B, 2], turned left to right."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)                                        # [B, ...]
    widths = _like(sizes, boxes)[..., 1]
    return tf.stack([y1, widths - x2, y2, widths - x1], axis=-1)


def average_masks(masks: Sequence[tf.Tensor], mirrored: Sequence[bool]) -> tf.Tensor:
    """Mean of the probabilities [B, D, m, m] of each view, those of mirrored ones turned back."""
    upright = [tf.reverse(mask, [3]) if turned else mask for mask, turned in zip(masks, mirrored, strict=True)]
    return tf.add_n(upright) / len(upright)


def _scaled(data: DataConfig, side: int) -> DataConfig:
    long_side = data.test_long_side * side // data.test_short_side
    step = _CANVAS_STEP * data.test_short_side
    canvases = [[-(-length * side // step) * _CANVAS_STEP for length in canvas] for canvas in data.canvases]
    return dataclasses.replace(data, short_sides=[side], long_side=long_side, test_short_side=side,
                               test_long_side=long_side, canvases=canvases)


def _like(pairs: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """(height, width) [B, 2] -> [B, 1, ..., 4], against boxes [B, ..., 4]."""
    return tf.reshape(tf.tile(pairs, [1, 2]), [-1, *[1] * (boxes.shape.rank - 2), 4])


def _traced(function: Callable[..., Any], each_shape: bool) -> Callable[..., Any]:
    """`function` as a graph, traced for each shape of its arguments or once for all heights and widths."""
    graph = tf.function(function, autograph=False)
    if each_shape:
        return graph
    return lambda *args: graph.get_concrete_function(*tf.nest.map_structure(_any_height_and_width, args))(*args)


def _any_height_and_width(x: tf.Tensor) -> tf.TensorSpec:
    """The spec of a tensor, without the height and width of images and feature maps [B, H, W, C]."""
    return tf.TensorSpec([x.shape[0], None, None, x.shape[3]] if x.shape.rank == 4 else x.shape, x.dtype)
