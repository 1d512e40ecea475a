"""RoIAlign (Mask R-CNN 3) and RoIWarp (MNC, 1512.04412; table 2c of Mask R-CNN) as Keras layers.

B images, N boxes per image, K = B * N, P output side, C channels.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.layers import tracing
from mrcnn_tf.layers.roi import op_engine, xla_engine
from mrcnn_tf.layers.roi.levels import FPN_STRIDES, RoILayer, Size
from mrcnn_tf.layers.roi.sampling import AGGREGATIONS, AVERAGE, Aggregation, SamplingPlan, sampling_plan
from mrcnn_tf.ops.arguments import check_choice, check_counts
from mrcnn_tf.ops.boxes import ENGINES


class SamplingLayer(RoILayer):
    """Base class of RoIAlign and RoIWarp, which sample the feature map in each bin; a subclass implements `plan`."""

    def __init__(self, size: int | Sequence[int], strides: Sequence[float], sampling_ratio: int, engine: str,
                 aggregate: str, **kwargs: Any) -> None:
        super().__init__(size, strides, **kwargs)
        check_counts(type(self).__name__, least=0, sampling_ratio=sampling_ratio)
        check_choice(type(self).__name__, 'engine', engine, ENGINES)
        check_choice(type(self).__name__, 'aggregate', aggregate, AGGREGATIONS)
        self.sampling_ratio, self.engine, self.aggregate = sampling_ratio, engine, aggregate
        self.supports_jit = engine == 'xla'      # where Keras 3 chooses for itself whether XLA compiles a model

    def plan(self, boxes: tf.Tensor, levels: tf.Tensor, size: Size) -> SamplingPlan:
        """Return the positions of the samples of boxes [B, N, 4] px on levels int32 [B, N]."""
        raise NotImplementedError

    def pool(self, features: list[tf.Tensor], boxes: tf.Tensor, levels: tf.Tensor, size: Size) -> tf.Tensor:
        return roi_align(features, self.plan(boxes, levels, size), size, self.sampling_ratio ** 2, self.engine,
                         AGGREGATIONS[self.aggregate])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'sampling_ratio': self.sampling_ratio, 'engine': self.engine,
                'aggregate': self.aggregate}


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class RoIAlign(SamplingLayer):
    """RoIAlign: the average or the maximum of bilinear samples in each bin (Mask 3).

    The inputs are feature maps [B, h, w, C], the finest first, or a single one, and boxes [B, N, 4] in px of the image.
    The output is [B, N, P, P, C], bfloat16 or float16 if all maps are, otherwise float32. Gradients flow into the
    feature maps, not into the boxes.

    Args:
        size: P in cells, or the numbers of rows and columns.
        strides: px per cell of each feature map, the finest first.
        sampling_ratio: samples per bin and axis; 0: the bin's side in cells, rounded up.
        aligned: shift by half a cell, so that cell centers are at half-integers. False, the dialect of the first
            implementations, has no shift and makes boxes at least one cell wide.
        engine: 'op' runs TensorFlow's crop_and_resize, which is faster on a CPU; 'xla' runs arithmetic that XLA
            compiles, which `jit_compile=True` needs.
        canonical_size: px; a box of this size is pooled from `canonical_level` (FPN eq. 1).
        canonical_level: k0 of FPN eq. 1; level k has the stride 2 ** k.
        aggregate: 'average' or 'max' of the samples in a bin.

    Raises:
        ValueError: an argument or an input is none of these.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.roi import RoIAlign
        >>> pyramid = [tf.ones([1, 64 // stride, 64 // stride, 3]) for stride in (4, 8, 16, 32)]
        >>> pooled = RoIAlign(size=7)(pyramid, tf.constant([[[0., 0., 32., 48.], [8., 8., 24., 24.]]]))
        >>> tuple(pooled.shape)
        (1, 2, 7, 7, 3)
        >>> ramp = tf.reshape(tf.range(4.), [1, 4, 1, 1]) * tf.ones([1, 4, 4, 1])        # a single feature map
        >>> RoIAlign(size=2, strides=[8])(ramp, tf.constant([[[8., 8., 24., 24.]]])).numpy()[0, 0, :, :, 0].tolist()
        [[1.0, 1.0], [2.0, 2.0]]
    """

    def __init__(self, size: int | Sequence[int] = 7, strides: Sequence[float] = FPN_STRIDES, sampling_ratio: int = 0,
                 aligned: bool = True, engine: str = 'op', canonical_size: float = 224., canonical_level: int = 4,
                 aggregate: str = 'average', **kwargs: Any) -> None:
        super().__init__(size, strides, sampling_ratio, engine, aggregate, canonical_size=canonical_size,
                         canonical_level=canonical_level, **kwargs)
        self.aligned = aligned

    def plan(self, boxes: tf.Tensor, levels: tf.Tensor, size: Size) -> SamplingPlan:
        return sampling_plan(boxes, levels, self.strides, size, self.sampling_ratio, self.aligned)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'aligned': self.aligned}


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class RoIWarp(SamplingLayer):
    """RoIWarp: RoIAlign of boxes whose edges are first rounded to cells, as RoIPool does (1512.04412; Mask table 2c).

    Inputs, output and arguments are those of RoIAlign, without `aligned`.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.roi import RoIWarp
        >>> ramp = tf.reshape(tf.range(4.), [1, 4, 1, 1]) * tf.ones([1, 4, 4, 1])
        >>> box = tf.constant([[[2., 2., 9., 9.]]])           # rounded to the cells 1 and 2
        >>> RoIWarp(size=1, strides=[4])(ramp, box).numpy().tolist()
        [[[[[1.5]]]]]
    """

    def __init__(self, size: int | Sequence[int] = 7, strides: Sequence[float] = FPN_STRIDES, sampling_ratio: int = 0,
                 engine: str = 'op', canonical_size: float = 224., canonical_level: int = 4,
                 aggregate: str = 'average', **kwargs: Any) -> None:
        super().__init__(size, strides, sampling_ratio, engine, aggregate, canonical_size=canonical_size,
                         canonical_level=canonical_level, **kwargs)

    def plan(self, boxes: tf.Tensor, levels: tf.Tensor, size: Size) -> SamplingPlan:
        return sampling_plan(boxes, levels, self.strides, size, self.sampling_ratio, aligned=False, quantized=True)


def roi_align(features: Sequence[tf.Tensor], plan: SamplingPlan, size: Size, samples: int, engine: str,
              aggregation: Aggregation = AVERAGE) -> tf.Tensor:
    """Return the pooled feature maps [K, P, P, C], of the type of `features` and differentiable in them.

    Args:
        features: L feature maps [B, h, w, C], all float32, bfloat16 or float16.
        plan: positions of the samples.
        size: rows and columns of bins.
        samples: number of samples in each bin; 0 if it differs between boxes.
        engine: 'op' or 'xla'.
        aggregation: AVERAGE or MAX.
    """
    run, turns = {'op': op_engine, 'xla': xla_engine}[engine], tracing.order().gradients

    @tf.custom_gradient
    def pool(*maps: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        state = run.forward(maps, plan, size, samples, aggregation)

        def gradients(upstream: tf.Tensor) -> list[tf.Tensor]:
            # Gradients traced before, such as the mask head's, come first: this one is as large as the feature maps.
            with turns.wait(upstream):
                upstream = tf.identity(upstream)
            found = run.backward(tf.cast(upstream, tf.float32), state, maps, plan, samples, aggregation)
            return [tf.cast(gradient, feature.dtype) for gradient, feature in zip(found, maps, strict=True)]

        return tf.cast(state[0], maps[0].dtype), gradients

    return pool(*features)
