"""Feature extractors: images to maps by stride. What a trunk has to offer stands in ARCHITECTURE.md."""
from __future__ import annotations

import importlib
from typing import Any

from mrcnn_tf.backbones.fpn import PyramidBackbone, SingleMapBackbone
from mrcnn_tf.backbones.normalization import Norm
from mrcnn_tf.backbones.tdm import ModulatedBackbone
from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.config.trunks import TRUNKS


def build_backbone(config: BackboneConfig) -> PyramidBackbone | SingleMapBackbone | ModulatedBackbone:
    """The trunk named by the config, under a neck or as it is: [B, H, W, 3] -> list of maps at `strides`."""
    trunk = trunk_class(config)(config, name='trunk')
    if config.maps == 'fpn':
        return PyramidBackbone(trunk, config.fpn_channels, Norm.of(config, config.fpn_norm), name='backbone')
    if config.maps == 'tdm':
        return ModulatedBackbone(trunk, config.tdm_channels, config.tdm_stride, name='backbone')
    return SingleMapBackbone(trunk, name='backbone')


def trunk_class(config: BackboneConfig) -> Any:
    """The layer of `TRUNKS`: [B, H, W, 3] -> maps by stride."""
    module, _, name = TRUNKS[config.name].layer.rpartition('.')
    return getattr(importlib.import_module(module), name)
