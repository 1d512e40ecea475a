"""Feature extractors: images to maps by stride. Adding a trunk means adding one file and a line in `build_trunk`."""
from __future__ import annotations

import keras

from mrcnn_tf.backbones.fpn import PyramidBackbone, SingleMapBackbone
from mrcnn_tf.backbones.normalization import Norm
from mrcnn_tf.backbones.resnet import ResNet
from mrcnn_tf.backbones.vgg import VGG16
from mrcnn_tf.config import BackboneConfig


def build_backbone(config: BackboneConfig) -> PyramidBackbone | SingleMapBackbone:
    """The trunk named by the config, under a feature pyramid or as it is: [B, H, W, 3] -> list of maps at `strides`."""
    trunk = build_trunk(config)
    if config.maps == 'fpn':
        return PyramidBackbone(trunk, config.fpn_channels, Norm.of(config, config.fpn_norm), name='backbone')
    return SingleMapBackbone(trunk, name='backbone')


def build_trunk(config: BackboneConfig) -> keras.layers.Layer:
    """[B, H, W, 3] -> maps by stride."""
    return VGG16(config, name='trunk') if config.name == 'vgg16' else ResNet(config, name='trunk')
