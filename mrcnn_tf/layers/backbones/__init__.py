"""Backbones and necks: images to feature maps. ARCHITECTURE.md lists what a backbone must provide."""
from __future__ import annotations

import importlib
from typing import Any

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.config.backbones import TRUNKS
from mrcnn_tf.layers.backbones.fpn import PyramidBackbone, SingleMapBackbone
from mrcnn_tf.layers.backbones.tdm import ModulatedBackbone
from mrcnn_tf.layers.normalization import Norm


def build_backbone(config: BackboneConfig) -> PyramidBackbone | SingleMapBackbone | ModulatedBackbone:
    """Return the backbone that the config names, with its neck.

    The layer takes normalized images [B, H, W, 3] and returns a list of feature maps [B, H / s, W / s, C], one for each
    s of its attribute `strides`.
    """
    trunk = trunk_class(config)(config, name='trunk')
    if config.maps == 'fpn':
        return PyramidBackbone(trunk, config.fpn_channels, Norm.of(config, config.fpn_norm), name='backbone')
    if config.maps == 'tdm':
        return ModulatedBackbone(trunk, config.tdm_channels, config.tdm_stride, name='backbone')
    return SingleMapBackbone(trunk, name='backbone')


def trunk_class(config: BackboneConfig) -> Any:
    """Return the layer class of the backbone that the config names, without a neck; its output is a dict by stride."""
    module, _, name = TRUNKS[config.name].layer.rpartition('.')
    return getattr(importlib.import_module(module), name)
