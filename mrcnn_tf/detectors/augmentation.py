"""Detections of images in one size, or in several sizes and mirrored and merged (test-time augmentation).

Mask, appendix, with Detectron's heuristics UNION and SOFT_AVG: NMS within each class runs over the candidates of all
views together; a branch predicts for the final boxes in every view, and masks are mirrored back and their probabilities
averaged. Logits are not averaged: they have no bound, so one confident view would outvote the others, and masks whose
classes compete have no single logit. The feature maps of all views are kept until then, about 90 bytes for each pixel
of a view with FPN; Detectron computes them twice.

B images; V views; R RoIs, K classes of a view; D detections; m cells a side of a mask. A view is a Batch in a size of
its own. Detections are in px of the first view.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.detectors.branch import Batch, Detections, Features
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.detectors.inference import tracer
from mrcnn_tf.ops.detections import Candidates
from mrcnn_tf.ops.tensor_shapes import dimensions

_CANVAS_STEP = 32    # the coarsest stride


class View(NamedTuple):
    """One view of images: their sizes float32 [B, 2] px, whether they are mirrored, feature maps and candidates."""
    sizes: tf.Tensor
    mirrored: bool
    features: Features
    candidates: Candidates

    def boxes_in(self, sizes: tf.Tensor) -> tf.Tensor:
        """Return the candidates' boxes [B, ..., 4] in px of upright images of other `sizes`."""
        boxes = self.candidates.boxes
        boxes = mirror_boxes(boxes, self.sizes) if self.mirrored else boxes
        return boxes * _like(sizes / self.sizes, boxes)

    def own(self, boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Return boxes [B, ..., 4] of upright images of `sizes` in px of this view."""
        boxes = boxes * _like(self.sizes / sizes, boxes)
        return mirror_boxes(boxes, self.sizes) if self.mirrored else boxes


class Detect(Protocol):
    """Detections of the same images given in each of `sizes`."""

    @property
    def sizes(self) -> Sequence[DataConfig]:
        """The settings of each size."""

    @property
    def inputs(self) -> Sequence[str]:
        """The keys that it reads of a batch, see `Detector.inputs_read`."""

    @property
    def fixed_canvases(self) -> bool:
        """Whether images must lie on the few canvases of `data.canvases`."""

    @property
    def concurrency(self) -> int:
        """How many threads may call it at once to advantage."""

    def __call__(self, batches: Sequence[Batch]) -> Detections:
        """Return detections, with boxes in px of the first batch's canvas.

        Args:
            batches: in each size, the keys of `inputs`.
        """


def detection_function(detector: Detector, data: DataConfig, final: bool = False) -> Detect:
    """Return the detector's function of batches: with `data.test_scales` or `data.test_flip`, by several views.

    The proposals of an RPN alone come from one view.

    Args:
        detector: the detector.
        data: the settings of the input.
        final: whether its weights will not change any more, see `tracer`.
    """
    if not detector.classifies:
        return SingleView(detector, detector, data, final)
    if len(data.test_scales) > 1 or data.test_flip:
        return TestTimeAugmentation(detector, data, final)
    return SingleView(detector, detector, sizes_of_tests(data)[0], final)


class SingleView:
    """Detections of images in one size.

    Args:
        function: of a batch: the detector, or another function of its parts.
        detector: with the 'op' engine the function is traced once for all heights and widths, with 'xla' once per
            canvas.
        data: the settings of the input.
        final: whether the weights will not change any more, see `tracer`.
    """
    concurrency = 1

    def __init__(self, function: Callable[[Batch], Detections], detector: Detector, data: DataConfig,
                 final: bool = False) -> None:
        self.sizes, self.inputs = [data], detector.inputs_read
        self.fixed_canvases = detector.engine == 'xla'     # XLA compiles static shapes only
        self._function = tracer(detector, final)(function, self.fixed_canvases)

    def __call__(self, batches: Sequence[Batch]) -> Detections:
        detections: Detections = self._function(batches[0])
        return detections


class TestTimeAugmentation:
    """Detections merged from views of each image: in several sizes, and mirrored.

    Args:
        detector: with the 'op' engine it is traced once for all heights and widths, with 'xla' once per canvas.
        data: `test_scales` and `test_flip` say which views.
        final: whether the weights will not change any more, see `tracer`.
    """

    concurrency = 1
    __test__ = False    # no test class, whatever pytest makes of its name

    def __init__(self, detector: Detector, data: DataConfig, final: bool = False) -> None:
        self.sizes, self.inputs = sizes_of_tests(data), detector.inputs_read
        self.fixed_canvases = detector.engine == 'xla'     # XLA compiles static shapes only
        self._detector, self._flip = detector, data.test_flip
        trace = tracer(detector, final)
        self._candidates = trace(detector.candidates, self.fixed_canvases)
        self._branches = [trace(branch.predict, self.fixed_canvases) for branch in detector.branches]

    def __call__(self, batches: Sequence[Batch]) -> Detections:
        return self.merge([view for batch in batches for view in self.views(batch)])

    def views(self, batch: Batch) -> list[View]:
        """Return the views of images in one size: upright, and mirrored with `data.test_flip`."""
        upright = View(batch['sizes'], False, *self._candidates(batch))
        return [upright, View(batch['sizes'], True, *self._candidates(mirror(batch)))] if self._flip else [upright]

    def merge(self, views: Sequence[View]) -> Detections:
        """Return the detections of all views together, with boxes in px of the first."""
        sizes = views[0].sizes
        moved = [view.candidates._replace(boxes=view.boxes_in(sizes)) for view in views]
        union = Candidates(*(tf.concat(columns, axis=1) for columns in zip(*moved, strict=True)))    # V R RoIs
        detections = self._detector.box.select(union)
        in_views = [{**detections, 'boxes': view.own(detections['boxes'], sizes)} for view in views]
        merged = dict(detections)
        for branch, predict in zip(self._detector.branches, self._branches, strict=True):
            predictions = [predict(view.features, each) for view, each in zip(views, in_views, strict=True)]
            merged.update(branch.merge(predictions, [view.mirrored for view in views]))
        return merged


def sizes_of_tests(data: DataConfig) -> list[DataConfig]:
    """Return the settings of each size of an image: `test_scales`, or `test_short_side` alone.

    The limit of the long side and the canvases scale with the short side.
    """
    return [_scaled(data, side) for side in data.test_scales] or [data]


def mirror(batch: Batch) -> dict[str, tf.Tensor]:
    """Return images and proposals of a batch mirrored left to right within each size; twice is the identity."""
    across = tf.range(dimensions(batch['images'])[2])
    widths = tf.cast(batch['sizes'][:, 1:], tf.int32)                                  # [B, 1]
    columns = tf.where(across < widths, widths - 1 - across, across)                   # [B, W]
    moved = {'images': tf.gather(batch['images'], columns, axis=2, batch_dims=1)}
    if 'proposals' in batch:
        moved['proposals'] = mirror_boxes(batch['proposals'], batch['sizes'])
    return {**batch, **moved}


def mirror_boxes(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Return boxes [B, ..., 4] of images of `sizes` [B, 2], mirrored left to right."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)                                        # [B, ...]
    widths = _like(sizes, boxes)[..., 1]
    return tf.stack([y1, widths - x2, y2, widths - x1], axis=-1)


def _scaled(data: DataConfig, side: int) -> DataConfig:
    long_side = data.test_long_side * side // data.test_short_side
    step = _CANVAS_STEP * data.test_short_side
    canvases = [[-(-length * side // step) * _CANVAS_STEP for length in canvas] for canvas in data.canvases]
    return dataclasses.replace(data, short_sides=[side], long_side=long_side, test_short_side=side,
                               test_long_side=long_side, canvases=canvases)


def _like(pairs: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """(height, width) [B, 2] -> [B, 1, ..., 4], against boxes [B, ..., 4]."""
    return tf.reshape(tf.tile(pairs, [1, 2]), [-1, *[1] * (boxes.shape.rank - 2), 4])
