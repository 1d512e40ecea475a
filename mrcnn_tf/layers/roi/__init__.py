"""RoI layers, which pool a feature map of fixed size for each box: RoIPool (Fast 2.1), RoIWarp, RoIAlign (Mask 3)."""
from __future__ import annotations

from collections.abc import Sequence

from mrcnn_tf.config import RoIConfig
from mrcnn_tf.layers.roi.align import RoIAlign, RoIWarp, roi_align
from mrcnn_tf.layers.roi.levels import RoILayer, assign_levels
from mrcnn_tf.layers.roi.pool import RoIPool, pooling_plan, roi_pool
from mrcnn_tf.layers.roi.sampling import sampling_plan

__all__ = ['RoIAlign', 'RoILayer', 'RoIPool', 'RoIWarp', 'assign_levels', 'build_roi_layer', 'pooling_plan',
           'roi_align', 'roi_pool', 'sampling_plan']


def build_roi_layer(config: RoIConfig, size: int, strides: Sequence[float], engine: str, name: str) -> RoILayer:
    """Return the RoI layer that the config names.

    Args:
        config: `model.roi`.
        size: side of the pooled feature maps, in cells.
        strides: px per cell of each level.
        engine: of RoIAlign and RoIWarp, 'op' or 'xla'.
        name: of the layer.
    """
    if config.layer == 'pool':
        return RoIPool(size, strides, config.canonical_size, config.canonical_level, name=name)
    if config.layer == 'warp':
        return RoIWarp(size, strides, config.sampling_ratio, engine, config.canonical_size, config.canonical_level,
                       config.aggregate, name=name)
    return RoIAlign(size, strides, config.sampling_ratio, config.aligned, engine, config.canonical_size,
                    config.canonical_level, config.aggregate, name=name)
