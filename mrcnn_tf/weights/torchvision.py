"""Weights under torchvision's parameter names -> our model.

Theirs: convolutions [out, in, h, w], dense layers [out, in], transposed convolutions [in, out, h, w]; deltas dx, dy,
dw, dh; a box and a mask for the background too, which ours leave out; pooled maps flattened channel first.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mrcnn_tf.backbones.resnet import ConvNorm
from mrcnn_tf.model import FasterRCNN, MaskRCNN

Convert = Callable[[np.ndarray], np.ndarray]
Rule = tuple[Any, str, Convert]      # our variable, their name, what turns theirs into ours
_YX = [1, 0, 3, 2]                   # dx, dy, dw, dh -> dy, dx, dh, dw


class WeightsError(ValueError):
    """Weights that do not fit the model; one line that names the parameter."""


def load_state_dict(model: FasterRCNN, state: Mapping[str, np.ndarray]) -> None:
    """Fills every weight of `model`.

    Raises:
        WeightsError: a parameter is missing, left over, of another shape or not finite; the model is unchanged then.
    """
    values = {}
    rules = list(correspondence(model))
    for variable, name, convert in rules:
        if name not in state:
            raise WeightsError(f'no parameter {name}')
        value = convert(np.asarray(state[name], np.float32))
        if tuple(value.shape) != tuple(variable.shape):
            raise WeightsError(f'{name} gives {list(value.shape)}, the model has {list(variable.shape)}')
        if not np.isfinite(value).all():
            raise WeightsError(f'{name} holds values that are not finite')
        values[name] = value
    left = [name for name in state if name not in values and not name.endswith('num_batches_tracked')]
    if left:
        raise WeightsError(f'{len(left)} parameters have no place in the model, such as {left[0]}')
    for variable, name, _ in rules:
        variable.assign(values[name])


def correspondence(model: FasterRCNN) -> Iterator[Rule]:
    """Each of our variables with their name for it."""
    trunk, pyramid = model.backbone.trunk, model.backbone.pyramid
    yield from _conv_norm(trunk.stem, 'backbone.body.conv1', 'backbone.body.bn1')
    for stage, blocks in enumerate(trunk.stages, start=1):
        for number, block in enumerate(blocks):
            prefix = f'backbone.body.layer{stage}.{number}'
            for index, conv in enumerate(block.convs, start=1):
                yield from _conv_norm(conv, f'{prefix}.conv{index}', f'{prefix}.bn{index}')
            if block.shortcut:
                yield from _conv_norm(block.shortcut, f'{prefix}.downsample.0', f'{prefix}.downsample.1')
    for index in range(4):
        yield from _biased(pyramid.laterals[index], f'backbone.fpn.inner_blocks.{index}.0', _kernel)
        yield from _biased(pyramid.outputs[index], f'backbone.fpn.layer_blocks.{index}.0', _kernel)
    yield from _biased(model.rpn_head.conv, 'rpn.head.conv.0.0', _kernel)
    yield from _biased(model.rpn_head.objectness, 'rpn.head.cls_logits', _kernel)
    yield from _biased(model.rpn_head.deltas, 'rpn.head.bbox_pred', lambda w: _kernel(_reorder(w)), _reorder)
    yield from _box_head(model)
    if isinstance(model, MaskRCNN):
        yield from _mask_head(model)


def _box_head(model: FasterRCNN) -> Iterator[Rule]:
    head, side = model.box_head, model.box_pool.size

    def channels_last(w: np.ndarray) -> np.ndarray:
        return w.reshape(len(w), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(w))

    yield from _biased(head.fc6, 'roi_heads.box_head.fc6', channels_last)
    yield from _biased(head.fc7, 'roi_heads.box_head.fc7', np.transpose)
    yield from _biased(head.classes, 'roi_heads.box_predictor.cls_score', np.transpose)
    yield from _biased(head.deltas, 'roi_heads.box_predictor.bbox_pred', lambda w: _reorder(w)[4:].T,
                       lambda b: _reorder(b)[4:])


def _mask_head(model: MaskRCNN) -> Iterator[Rule]:
    head = model.mask_head
    for index, conv in enumerate(head.convs):
        yield from _biased(conv, f'roi_heads.mask_head.{index}.0', _kernel)
    yield from _biased(head.upsample, 'roi_heads.mask_predictor.conv5_mask', _kernel)
    yield from _biased(head.masks, 'roi_heads.mask_predictor.mask_fcn_logits', lambda w: _kernel(w[1:]),
                       lambda b: b[1:])


def _same(value: np.ndarray) -> np.ndarray:
    return value


def _kernel(weight: np.ndarray) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; also [in, out, h, w] -> [h, w, out, in] of the transposed convolution."""
    return weight.transpose(2, 3, 1, 0)


def _reorder(value: np.ndarray) -> np.ndarray:
    """Rows in fours: dx, dy, dw, dh -> dy, dx, dh, dw."""
    return value.reshape(-1, 4, *value.shape[1:])[:, _YX].reshape(value.shape)


def _biased(layer: Any, name: str, kernel: Convert, bias: Convert = _same) -> Iterator[Rule]:
    yield layer.kernel, f'{name}.weight', kernel
    yield layer.bias, f'{name}.bias', bias


def _conv_norm(layer: ConvNorm, conv: str, norm: str) -> Iterator[Rule]:
    yield layer.conv.kernel, f'{conv}.weight', _kernel
    for variable, name in ((layer.norm.gamma, 'weight'), (layer.norm.beta, 'bias'),
                           (layer.norm.moving_mean, 'running_mean'), (layer.norm.moving_variance, 'running_var')):
        yield variable, f'{norm}.{name}', _same
