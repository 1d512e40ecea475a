"""Backbones and necks: images to feature maps. ARCHITECTURE.md describes the interface of a backbone."""
from __future__ import annotations

import importlib
from typing import Any

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.config.backbones import BACKBONES
from mrcnn_tf.layers.backbones.fpn import BackboneWithFPN, BackboneWithoutNeck
from mrcnn_tf.layers.backbones.tdm import BackboneWithTDM
from mrcnn_tf.layers.normalization import Norm


def build_backbone(config: BackboneConfig) -> BackboneWithFPN | BackboneWithoutNeck | BackboneWithTDM:
    """Return the backbone that the config names, with its neck.

    The layer takes normalized images [B, H, W, 3] and returns a list of feature maps [B, H / s, W / s, C], one for each
    s of its attribute `strides`.
    """
    body = backbone_class(config)(config, name='trunk')    # checkpoints contain this name: do not change it
    if config.maps == 'fpn':
        return BackboneWithFPN(body, config.fpn_channels, Norm.of(config, config.fpn_norm), name='backbone')
    if config.maps == 'tdm':
        return BackboneWithTDM(body, config.tdm_channels, config.tdm_stride, name='backbone')
    return BackboneWithoutNeck(body, name='backbone')


def backbone_class(config: BackboneConfig) -> Any:
    """Return the layer class of the backbone that the config names; its output is a dict of feature maps by stride."""
    module, _, name = BACKBONES[config.name].layer.rpartition('.')
    return getattr(importlib.import_module(module), name)
