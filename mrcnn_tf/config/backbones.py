"""The trunks by their names: a line each is all that a new file in `mrcnn_tf/layers/backbones/` needs.

The line is here, not beside the class, because settings are checked before TensorFlow is imported.
"""
from __future__ import annotations

from typing import NamedTuple


class Trunk(NamedTuple):
    """A trunk of a config: its layer, and what can be made of its maps."""
    layer: str                  # module and class, imported when a model is built
    maps: tuple[str, ...]       # the choices of model.backbone.maps that it serves
    groups: bool = True         # whether 32 divides its widths, as model.backbone.norm=group needs


_RESNET = Trunk('mrcnn_tf.layers.backbones.resnet.ResNet', ('fpn', 'tdm', 'c4', 'c5'))
TRUNKS = {
    'resnet50': _RESNET,        # the default
    'resnet18': _RESNET,
    'resnet34': _RESNET,
    'resnet101': _RESNET,
    'resnext101_32x8d': _RESNET,
    'resnext101_64x4d': _RESNET,
    'vgg16': Trunk('mrcnn_tf.layers.backbones.vgg.VGG16', ('tdm', 'c5')),
    'inception_resnet_v2': Trunk('mrcnn_tf.layers.backbones.inception_resnet.InceptionResNetV2',
                                 ('fpn', 'tdm', 'c4'), False),
}
