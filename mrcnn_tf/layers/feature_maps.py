"""Feature maps as a layer's input: one alone, or a list of those of a pyramid."""
from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mrcnn_tf.ops.arguments import check_shape


def as_list(owner: str, features: Sequence[tf.Tensor] | tf.Tensor, count: int | None = None) -> list[tf.Tensor]:
    """Return the feature maps as a list.

    Args:
        owner: the layer, for messages.
        features: feature maps [B, h, w, C], or a single one.
        count: how many the layer expects; None: any number.

    Raises:
        ValueError: a tensor has another number of axes, or there are more or fewer than `count`.
    """
    maps = list(features) if isinstance(features, (list, tuple)) else [features]
    for feature in maps:
        check_shape(owner, 'a feature map', feature, '[B, h, w, C]')
    if count is not None and len(maps) != count:
        raise ValueError(f'{owner}: got {len(maps)} feature maps; expected {count}, one for each level')
    return maps
