"""ImageNet weights of keras.applications -> the trunk of a model.

Their ResNets have a bias in each convolution before the normalisation, ours do not: x + b - mean = x - (mean - b).
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from mrcnn_tf.backbones.resnet import ConvNorm, ResNet
from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.weights.torchvision import WeightsError

_SOURCES = {'resnet50': 'ResNet50', 'resnet101': 'ResNet101'}


def load_imagenet(trunk: ResNet, config: BackboneConfig) -> None:
    """Fills the trunk, stem and all stages, with weights that Keras downloads, or has in its cache.

    They were trained with BGR images less their mean, and strides in the 1x1 convolutions.

    Raises:
        WeightsError: no such weights for this trunk or dialect, or they cannot be fetched.
    """
    if config.name not in _SOURCES:
        raise WeightsError(f'model.backbone.weights=imagenet: keras.applications has {" and ".join(_SOURCES)}, '
                           f'not {config.name}; set model.backbone.weights=none or another model.backbone.name')
    if not config.stride_in_1x1:
        raise WeightsError('model.backbone.weights=imagenet needs model.backbone.stride_in_1x1=true, '
                           'the strides that these weights were trained with')
    copy_trunk(_fetch(_SOURCES[config.name]), trunk)


def _fetch(name: str) -> keras.Model:
    try:
        return getattr(keras.applications, name)(include_top=False, weights='imagenet', input_shape=(64, 64, 3))
    # Keras wraps what urllib raises in a bare Exception; a damaged download is a ValueError or OSError.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f'the ImageNet weights of {name} cannot be fetched ({reason[:160]}); put their file, from a machine with a '
            'network, into ~/.keras/models, or set model.backbone.weights=none') from None


def copy_trunk(source: keras.Model, trunk: ResNet) -> None:
    """Copies convolutions and normalisations of a keras.applications ResNet of the same depth."""
    _copy(source, 'conv1', trunk.stem)
    for layer, prefix in _blocks(trunk):
        _copy(source, prefix, layer)


def _blocks(trunk: ResNet) -> Iterator[tuple[ConvNorm, str]]:
    for stage, blocks in enumerate(trunk.stages, start=2):
        for number, block in enumerate(blocks, start=1):
            prefix = f'conv{stage}_block{number}'
            if block.shortcut:
                yield block.shortcut, f'{prefix}_0'
            for index, conv in enumerate(block.convs, start=1):
                yield conv, f'{prefix}_{index}'


def _copy(source: keras.Model, prefix: str, layer: ConvNorm) -> None:
    kernel, bias = source.get_layer(f'{prefix}_conv').get_weights()
    gamma, beta, mean, variance = source.get_layer(f'{prefix}_bn').get_weights()
    pairs: list[tuple[Any, np.ndarray]] = [
        (layer.conv.kernel, kernel), (layer.norm.gamma, gamma), (layer.norm.beta, beta),
        (layer.norm.moving_mean, mean - bias), (layer.norm.moving_variance, variance)]
    for variable, value in pairs:
        if tuple(variable.shape) != value.shape:
            raise WeightsError(f'{prefix} has {list(value.shape)}, the model {list(variable.shape)}')
        variable.assign(value)
