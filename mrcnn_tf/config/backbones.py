"""The backbones by name: one line for each. A new file in `mrcnn_tf/layers/backbones/` needs no other registration.

The table is here, not beside the classes, because a config is checked before TensorFlow is imported.
"""
from __future__ import annotations

from typing import NamedTuple


class Backbone(NamedTuple):
    """A value of model.backbone.name: the layer that implements it, and the settings that it supports."""
    layer: str                  # module and class, imported when a model is built
    maps: tuple[str, ...]       # supported values of model.backbone.maps
    group_norm: bool = True     # whether 32 divides all channel counts, as model.backbone.norm=group needs


_RESNET = Backbone('mrcnn_tf.layers.backbones.resnet.ResNet', ('fpn', 'tdm', 'c4', 'c5'))
BACKBONES = {
    'resnet50': _RESNET,        # the default
    'resnet18': _RESNET,
    'resnet34': _RESNET,
    'resnet101': _RESNET,
    'resnext101_32x8d': _RESNET,
    'resnext101_64x4d': _RESNET,
    'vgg16': Backbone('mrcnn_tf.layers.backbones.vgg.VGG16', ('tdm', 'c5')),
    'inception_resnet_v2': Backbone('mrcnn_tf.layers.backbones.inception_resnet.InceptionResNetV2',
                                    ('fpn', 'tdm', 'c4'), group_norm=False),
}
