"""ImageNet weights of keras.applications -> the trunk of a model, and the hidden layers of VGG-16's box head.

Their ResNets have a bias in each convolution before the normalisation, ours do not: x + b - mean = x - (mean - b).
They were trained with BGR images less their mean, and strides in the 1x1 convolutions.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from mrcnn_tf.backbones.normalization import ConvNorm
from mrcnn_tf.backbones.resnet import ResNet
from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.model import Detector, FastRCNN
from mrcnn_tf.weights.rules import SAME, Convert, Line, Rule, WeightsError, fill, variable_path

SOURCES = {'resnet50': 'ResNet50', 'resnet101': 'ResNet101', 'vgg16': 'VGG16'}
_CLASSIFIER = r'^(predictions|probs)/'
_HEADS = rf'{_CLASSIFIER}|^(fc\d|conv5_)'    # what an RPN has no place for; res5 where it is not of the trunk
_LESS_BIAS = Convert('less the bias of the convolution', lambda pair: pair[0] - pair[1])


def settings(name: str) -> tuple[str, list[str]]:
    """The config of the package for a trunk of these weights, and what it changes.

    Raises:
        WeightsError: there are none of this name.
    """
    if name not in SOURCES:
        raise WeightsError(f'keras.applications has weights for {", ".join(SOURCES)} here, not for {name}')
    config = 'faster_rcnn_vgg16' if name == 'vgg16' else 'mask_rcnn_r50_fpn_1x'
    return config, [f'model.backbone.name={name}', 'model.backbone.weights=imagenet']


def load_imagenet(model: Detector) -> list[Line]:
    """Fills what ImageNet's classifier has of the model with weights that Keras downloads, or has in its cache.

    Returns:
        The report; variables that start fresh are in it.

    Raises:
        WeightsError: no such weights for this trunk or dialect, or they cannot be fetched; the model is unchanged then.
    """
    config = model.settings.backbone
    if config.name not in SOURCES:
        raise WeightsError(f'model.backbone.weights=imagenet: keras.applications has {", ".join(SOURCES)}, '
                           f'not {config.name}; set model.backbone.weights=none or another model.backbone.name')
    if not config.stride_in_1x1 and config.name != 'vgg16':
        raise WeightsError('model.backbone.weights=imagenet needs model.backbone.stride_in_1x1=true, '
                           'the strides that these weights were trained with')
    return copy(_fetch(config), model)


def copy(source: keras.Model, model: Detector) -> list[Line]:
    """Fills the trunk, and what else the source has, from a model of keras.applications; returns the report."""
    rules = list(correspondence(model))
    filled = {id(rule.variable) for rule in rules}
    rest = [variable for variable in model.variables if id(variable) not in filled]
    fresh = [Rule(variable, '', SAME) for variable in rest]
    return fill([*rules, *fresh], state_of(source), rest, _CLASSIFIER if isinstance(model, FastRCNN) else _HEADS)


def _fetch(config: BackboneConfig) -> keras.Model:
    name = SOURCES[config.name]
    with_head: dict[str, Any] = {'include_top': True} if config.name == 'vgg16' else {
        'include_top': False, 'input_shape': (64, 64, 3)}
    try:
        return getattr(keras.applications, name)(weights='imagenet', **with_head)
    # Keras wraps what urllib raises in a bare Exception; a damaged download is a ValueError or OSError.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f'the ImageNet weights of {name} cannot be fetched ({reason[:300]}); put their file, from a machine with a '
            'network, into ~/.keras/models, or set model.backbone.weights=none') from None


def state_of(source: keras.Model) -> dict[str, np.ndarray]:
    """Its weights as 'layer/kernel'; a mean of normalisation is stacked on the bias that has to be taken from it."""
    state = {f'{layer.name}/{variable_path(variable).split("/")[-1]}': value for layer in source.layers
             for variable, value in zip(layer.weights, layer.get_weights(), strict=True)}
    for name in [name for name in state if name.endswith('_bn/moving_mean')]:
        state[name] = np.stack([state[name], state.pop(name.replace('_bn/moving_mean', '_conv/bias'))])
    return state


def correspondence(model: Detector) -> Iterator[Rule]:
    """What ImageNet's classifier has of the model."""
    trunk, heads = model.backbone.trunk, model if isinstance(model, FastRCNN) else None
    if isinstance(trunk, ResNet):
        yield from _conv_norm(trunk.stem, 'conv1')
        res5 = [heads.res5_head.blocks] if heads and heads.res5_head else []
        for stage, blocks in enumerate([*trunk.stages, *res5], start=2):
            for number, block in enumerate(blocks, start=1):
                prefix = f'conv{stage}_block{number}'
                for index, conv in enumerate(block.convs, start=1):
                    yield from _conv_norm(conv, f'{prefix}_{index}')
                if block.shortcut:
                    yield from _conv_norm(block.shortcut, f'{prefix}_0')
        return
    for number, convs in enumerate(trunk.stages, start=1):
        for index, conv in enumerate(convs, start=1):
            yield from _biased(conv.conv, f'block{number}_conv{index}')
    for index, layer in enumerate(heads.box_head.hidden if heads else [], start=1):
        yield from _biased(layer, f'fc{index}')


def _conv_norm(layer: ConvNorm, prefix: str) -> Iterator[Rule]:
    yield Rule(layer.conv.kernel, f'{prefix}_conv/kernel', SAME)
    for field in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
        yield Rule(getattr(layer.norm, field), f'{prefix}_bn/{field}', _LESS_BIAS if field == 'moving_mean' else SAME)


def _biased(layer: Any, name: str) -> Iterator[Rule]:
    yield Rule(layer.kernel, f'{name}/kernel', SAME)
    yield Rule(layer.bias, f'{name}/bias', SAME)
