"""Import of the ImageNet weights of keras.applications: the backbone, and the hidden layers of VGG-16's box head.

Their ResNets have a bias in each convolution before the normalization; ours subtract it from the mean instead:
x + b - mean = x - (mean - b). They were trained with BGR images minus the mean, and strides in the 1x1 convolutions.
Their Inception-ResNet-v2 was trained with RGB images in -1..1; its normalization has no scale, ours has ones.
"""
from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import keras
import numpy as np

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.files.text import error_line
from mrcnn_tf.layers.backbones.inception_resnet import InceptionResNetV2, Residual
from mrcnn_tf.layers.backbones.resnet import ResNet
from mrcnn_tf.layers.normalization import ConvNorm
from mrcnn_tf.weights.rules import SAME, Convert, Line, Rule, WeightsError, fill, variable_path

SOURCES = {'resnet50': 'ResNet50', 'resnet101': 'ResNet101', 'vgg16': 'VGG16',
           'inception_resnet_v2': 'InceptionResNetV2'}
_CAFFE_MEAN = [103.939, 116.779, 123.68]    # BGR
_ANY = r''      # any of their parameters, such as the classifier, may be unused
_ONES = Convert('ones, because theirs has no scale', np.ones_like)
_LESS_BIAS = Convert('minus the bias of the convolution', lambda pair: pair[0] - pair[1])


def settings(name: str) -> tuple[str, list[str]]:
    """Return the packaged config for a backbone with these weights, and overrides for it.

    Raises:
        WeightsError: there are no weights of this name.
    """
    if name not in SOURCES:
        raise WeightsError(f'the ImageNet weights of {name} are not supported; give one of {", ".join(SOURCES)}')
    config = {'vgg16': 'faster_rcnn_vgg16', 'inception_resnet_v2': 'faster_rcnn_inception_resnet_v2'}.get(
        name, 'mask_rcnn_r50_fpn_1x')
    # This config has the mean of Detectron2's weights.
    mean = [f'model.pixel_mean={_CAFFE_MEAN}'] if config == 'mask_rcnn_r50_fpn_1x' else []
    return config, [f'model.backbone.name={name}', 'model.backbone.weights=imagenet', *mean]


def load_imagenet(model: Detector) -> list[Line]:
    """Fill the backbone with ImageNet weights, which Keras downloads or has in its cache, and return the report.

    The report also lists the variables that are initialized at random.

    Raises:
        WeightsError: there are no weights for this backbone or dialect, or the download failed. The model is
            unchanged.
    """
    config = model.settings.backbone
    if config.name not in SOURCES:
        raise WeightsError(f'model.backbone.weights=imagenet: keras.applications has {", ".join(SOURCES)}, '
                           f'not {config.name}; set model.backbone.weights=none or another model.backbone.name')
    if not config.stride_in_1x1 and config.name.startswith('resnet'):
        raise WeightsError('model.backbone.weights=imagenet needs model.backbone.stride_in_1x1=true, '
                           'the strides that these weights were trained with')
    return copy(_fetch(config), model)


def copy(source: keras.Model, model: Detector) -> list[Line]:
    """Fill the backbone from a model of keras.applications, with VGG-16 the box head too, and return the report."""
    rules = list(correspondence(model))
    filled = {id(rule.variable) for rule in rules}
    rest = [variable for variable in model.variables if id(variable) not in filled]
    fresh = [Rule(variable, '', SAME) for variable in rest]
    return fill([*rules, *fresh], state_of(source), rest, _ANY)


def _fetch(config: BackboneConfig) -> keras.Model:
    name = SOURCES[config.name]
    with_head: dict[str, Any] = {'include_top': True} if config.name == 'vgg16' else {
        'include_top': False, 'input_shape': (96, 96, 3)}
    try:
        return getattr(keras.applications, name)(weights='imagenet', **with_head)
    # Keras wraps what urllib raises in a bare Exception; a damaged download is a ValueError or OSError.
    except Exception as error:
        raise WeightsError(
            f'the ImageNet weights of {name} cannot be fetched ({error_line(error, 300)}); put their file, '
            'from a machine with a network, into ~/.keras/models, or set model.backbone.weights=none') from None


def state_of(source: keras.Model) -> dict[str, np.ndarray]:
    """Return weights by 'layer/kernel'. The mean of a normalization is stacked with the bias of its convolution."""
    numbered = _numbered([layer.name for layer in source.layers])
    state = {f'{numbered.get(layer.name, layer.name)}/{variable_path(variable).split("/")[-1]}': value
             for layer in source.layers
             for variable, value in zip(layer.weights, layer.get_weights(), strict=True)}
    for name, bias in [(name, name.replace('_bn/moving_mean', '_conv/bias')) for name in state]:
        if name != bias and bias in state:
            state[name] = np.stack([state[name], state.pop(bias)])
    return state


def _numbered(names: Sequence[str]) -> dict[str, str]:
    """Return new names, 'conv2d_0', ..., for the layers that Keras numbers over the whole session, in their order."""
    renamed = {}
    for kind in ('conv2d', 'batch_normalization'):
        numbers = sorted(int(match[1] or 0) for match in (re.fullmatch(rf'{kind}(?:_(\d+))?', name) for name in names)
                         if match)
        renamed.update({f'{kind}_{number}' if number else kind: f'{kind}_{index}'
                      for index, number in enumerate(numbers)})
    return renamed


def correspondence(model: Detector) -> Iterator[Rule]:
    """Yield a rule for each variable of the model that ImageNet's classifier has too."""
    backbone = model.backbone.body
    res5_head = model.box.roi_features.res5_head if model.box else None
    stages = [*backbone.stages, *([res5_head.blocks] if res5_head else [])]
    if isinstance(backbone, ResNet):
        yield from _conv_norm(backbone.stem, 'conv1')
        yield from _resnet(stages)
    elif isinstance(backbone, InceptionResNetV2):
        yield from _inception_resnet(stages)
    else:
        for number, convs in enumerate(stages, start=1):
            for index, conv in enumerate(convs, start=1):
                yield from _biased(conv.conv, f'block{number}_conv{index}')
        for head in model.box.heads if model.box and model.settings.backbone.maps == 'c5' else []:
            for index, layer in enumerate(head.hidden, start=1):
                yield from _biased(layer, f'fc{index}')


def _resnet(stages: Sequence[Sequence[Any]]) -> Iterator[Rule]:
    for stage, blocks in enumerate(stages, start=2):
        for number, block in enumerate(blocks, start=1):
            prefix = f'conv{stage}_block{number}'
            for index, conv in enumerate(block.convs, start=1):
                yield from _conv_norm(conv, f'{prefix}_{index}')
            if block.shortcut:
                yield from _conv_norm(block.shortcut, f'{prefix}_0')


def _inception_resnet(stages: Sequence[Sequence[Any]]) -> Iterator[Rule]:
    """Yield the rules of Inception-ResNet-v2, where Keras numbers all convolutions but the last ones of the blocks."""
    number = itertools.count()
    for layer in itertools.chain(*stages):
        for conv in [layer] if isinstance(layer, ConvNorm) else layer.convs:
            index, norm = next(number), cast(Any, conv.norm)
            names = (('conv_7b', 'conv_7b_bn') if layer.name == 'conv_7b' else
                     (f'conv2d_{index}', f'batch_normalization_{index}'))
            yield Rule(conv.conv.kernel, f'{names[0]}/kernel', SAME)
            yield Rule(norm.gamma, f'{names[1]}/beta', _ONES)
            for field in ('beta', 'moving_mean', 'moving_variance'):
                yield Rule(getattr(norm, field), f'{names[1]}/{field}', SAME)
        if isinstance(layer, Residual):
            yield from _biased(layer.up.conv, f'{layer.name}_conv')


def _conv_norm(layer: ConvNorm, prefix: str) -> Iterator[Rule]:
    yield Rule(layer.conv.kernel, f'{prefix}_conv/kernel', SAME)
    for field in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
        yield Rule(getattr(layer.norm, field), f'{prefix}_bn/{field}', _LESS_BIAS if field == 'moving_mean' else SAME)


def _biased(layer: Any, name: str) -> Iterator[Rule]:
    yield Rule(layer.kernel, f'{name}/kernel', SAME)
    yield Rule(layer.bias, f'{name}/bias', SAME)
