"""VGG-16 (Simonyan and Zisserman, 1409.1556) to conv5_3: the shared layers of Fast and Faster R-CNN."""
from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.layers.composite import CompositeLayer
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm
from mrcnn_tf.layers.recomputation import detached, run_stage

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))    # filters and number of convolutions


class VGG16(CompositeLayer):
    """Normalized images [B, H, W, 3] -> feature maps by stride {4: conv3_3, 8: conv4_3, 16: conv5_3}.

    conv5_3 is [B, H/16, W/16, 512]. `config.frozen_stages` is the number of blocks that are not trained: 2 in Fast
    R-CNN (4.5), which trains from conv3_1 on.
    """

    strides = (4, 8, 16)
    channels = BLOCKS[-1][0]

    def __init__(self, config: BackboneConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stages = [[ConvNorm(NO_NORM, filters, 3, name=f'conv{block}_{number + 1}') for number in range(count)]
                       for block, (filters, count) in enumerate(BLOCKS, start=1)]
        self.blocks = sum(self.stages, [])    # Keras 2 saves no layers in lists of lists
        for conv in sum(self.stages[:config.frozen_stages], []):
            conv.trainable = False

    def call(self, x: tf.Tensor, training: bool = False) -> dict[int, tf.Tensor]:
        maps: dict[int, tf.Tensor] = {}
        layers: list[ConvNorm] = []
        for index, convs in enumerate(self.stages):
            x = tf.nn.max_pool2d(x, 2, 2, 'VALID') if index else x
            layers += convs
            x = maps[2 ** index] = detached(run_stage(convs, x, training), layers)
        return {stride: maps[stride] for stride in self.strides}
