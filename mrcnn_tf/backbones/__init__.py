"""Feature extractors: images to maps by stride. Adding one means adding one file and a line in `build_backbone`."""
from __future__ import annotations

from mrcnn_tf.backbones.fpn import PyramidBackbone
from mrcnn_tf.backbones.resnet import ResNet
from mrcnn_tf.config import BackboneConfig


def build_backbone(config: BackboneConfig) -> PyramidBackbone:
    """The trunk named by the config under a feature pyramid: [B, H, W, 3] -> P2..P6."""
    return PyramidBackbone(ResNet(config, name='trunk'), config.fpn_channels, name='backbone')
