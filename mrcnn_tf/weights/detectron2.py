"""Import of Detectron2's weights: RPN, Fast, Faster and Mask R-CNN with FPN, C4 and DC5, and Cascade R-CNN with FPN.

Their score of the background comes last, ours first. `rules.py` converts the layouts.
"""
from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from mrcnn_tf.detectors.box import BoxBranch
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.layers.backbones.resnet import ResidualBlock
from mrcnn_tf.layers.heads import MaskHead, RPNHead
from mrcnn_tf.weights import rules
from mrcnn_tf.weights.rules import ClassMap, Convert, Line, Rule, State, WeightsError

# Constants that their files may contain.
_UNUSED = r'num_batches_tracked$|anchor_generator\.cell_anchors\.\d$|^pixel_(mean|std)$'
_BACKGROUND_FIRST = Convert('background from last to first', lambda rows: np.roll(rows, 1, axis=0))


def load_state_dict(model: Detector, state: State, classes: ClassMap | None = None) -> list[Line]:
    """Fill every weight of `model`, with `classes` for its predictors, and return the report.

    Raises:
        WeightsError: a parameter is missing, unused, of another shape or not finite. The model is unchanged.
    """
    return rules.fill_detector(model, list(correspondence(model)), state, classes, _UNUSED)


def settings(state: State) -> tuple[str, list[str]]:
    """Return the packaged config of the model of these weights, and overrides for it.

    Raises:
        WeightsError: the parameters are not those of a supported model.
    """
    prefix = _backbone_prefix(state)
    maps = 'fpn' if prefix == 'backbone.bottom_up.' else 'c5' if f'{prefix}res5.0.conv1.weight' in state else 'c4'
    name, group_settings = _backbone(state, prefix)
    kind = _kind(state)
    config = {'fpn': 'mask_rcnn_r50_fpn_1x', 'c4': 'mask_rcnn_r50_c4_1x', 'c5': 'mask_rcnn_r50_dc5_1x'}[maps]
    predictor = 'roi_heads.box_predictor'
    if maps == 'fpn' and f'{predictor}.0.bbox_pred.bias' in state:
        config, predictor = 'cascade_mask_rcnn_r50_fpn_1x', f'{predictor}.0'
    return config, [f'model.kind={kind}', f'model.backbone.name={name}', 'model.backbone.weights=none',
                    'model.backbone.norm_epsilon=1.0e-5', *group_settings,
                    *(_classes(state, predictor) if kind != 'rpn' else [])]


def _kind(state: State) -> str:
    if not any(name.startswith('roi_heads.') for name in state):
        return 'rpn'
    if not any(name.startswith('proposal_generator.rpn_head.') for name in state):
        return 'fast_rcnn'
    return 'mask_rcnn' if 'roi_heads.mask_head.predictor.weight' in state else 'faster_rcnn'


def _classes(state: State, predictor: str) -> list[str]:
    agnostic = len(_get(state, f'{predictor}.bbox_pred.bias')) == 4
    return [f'model.num_classes={len(_get(state, f"{predictor}.cls_score.bias")) - 1}',
            f'model.box_head.class_agnostic={str(agnostic).lower()}']


def _backbone(state: State, prefix: str) -> tuple[str, list[str]]:
    """Return the name of the backbone and, for a ResNeXt, the settings that it was trained with."""
    blocks = 1 + max((int(match[1]) for match in (re.match(rf'{re.escape(prefix)}res4\.(\d+)\.', name)
                                                 for name in state) if match), default=-1)
    name = {6: 'resnet50', 23: 'resnet101'}.get(blocks)
    width, in_group = (_get(state, f'{prefix}res2.0.conv{k}.weight').shape[axis] for k, axis in ((1, 0), (2, 1)))
    if name == 'resnet101' and width > in_group:
        name = {(256, 8): 'resnext101_32x8d', (256, 4): 'resnext101_64x4d'}.get((width, in_group))
        return _named(name), ['model.backbone.stride_in_1x1=false', 'model.pixel_std=[57.375,57.12,58.395]']
    return _named(name if width == in_group == 64 else None), []


def _named(name: str | None) -> str:
    if name is None:
        raise WeightsError('the backbone is not a ResNet-50, ResNet-101, ResNeXt-101 32x8d or 64x4d of Detectron2')
    return name


def _backbone_prefix(state: State) -> str:
    for prefix in ('backbone.bottom_up.', 'backbone.'):
        if f'{prefix}stem.conv1.weight' in state:
            return prefix
    raise WeightsError('these are not the parameters of an RPN or an R-CNN of Detectron2 with a ResNet')


def _get(state: State, name: str) -> np.ndarray:
    if name not in state:
        raise WeightsError(f'no parameter {name}')
    return np.asarray(state[name])


def correspondence(model: Detector) -> Iterator[Rule]:
    """Yield a rule for each variable of the model."""
    maps = model.settings.backbone.maps
    yield from _backbone_rules(model, 'backbone.bottom_up.' if maps == 'fpn' else 'backbone.')
    if maps == 'fpn':
        for level, (lateral, output) in enumerate(
                zip(model.backbone.pyramid.laterals, model.backbone.pyramid.outputs, strict=True), start=2):
            yield from rules.conv_norm(lateral, f'backbone.fpn_lateral{level}', f'backbone.fpn_lateral{level}.norm')
            yield from rules.conv_norm(output, f'backbone.fpn_output{level}', f'backbone.fpn_output{level}.norm')
    if model.proposer.head:
        yield from _rpn_head(model.proposer.head)
    if model.box:
        yield from _box_heads(model.box)
    for branch in model.branches:
        yield from _mask_head(branch.head)


def _rpn_head(head: RPNHead) -> Iterator[Rule]:
    prefix = 'proposal_generator.rpn_head'
    yield from rules.biased(head.convs[0], f'{prefix}.conv', rules.KERNEL)
    yield from rules.biased(head.objectness, f'{prefix}.objectness_logits', rules.KERNEL)
    yield from rules.biased(head.deltas, f'{prefix}.anchor_deltas', rules.YX.then(rules.KERNEL), rules.YX)


def _backbone_rules(model: Detector, prefix: str) -> Iterator[Rule]:
    backbone = model.backbone.body
    yield from rules.conv_norm(backbone.stem, f'{prefix}stem.conv1', f'{prefix}stem.conv1.norm')
    for stage, blocks in enumerate(backbone.stages, start=2):
        for number, block in enumerate(blocks):
            yield from _block(block, f'{prefix}res{stage}.{number}')


def _block(block: ResidualBlock, prefix: str) -> Iterator[Rule]:
    for index, conv in enumerate(block.convs, start=1):
        yield from rules.conv_norm(conv, f'{prefix}.conv{index}', f'{prefix}.conv{index}.norm')
    if block.shortcut:
        yield from rules.conv_norm(block.shortcut, f'{prefix}.shortcut', f'{prefix}.shortcut.norm')


def _box_heads(branch: BoxBranch) -> Iterator[Rule]:
    """Yield the rules of the box heads, which Detectron2 numbers in a cascade, and of res5 with C4."""
    res5_head = branch.roi_features.res5_head
    for number, block in enumerate(res5_head.blocks if res5_head else ()):
        yield from _block(block, f'roi_heads.res5.{number}')
    for number, head in enumerate(branch.heads):
        stage = f'.{number}' if len(branch.heads) > 1 else ''
        for index, layer in enumerate(head.hidden):
            yield from rules.biased(layer, f'roi_heads.box_head{stage}.fc{index + 1}',
                                    rules.DENSE if index else rules.channels_last(branch.roi_features.roi_layer.size))
        predictor = f'roi_heads.box_predictor{stage}'
        yield from rules.biased(head.classes, f'{predictor}.cls_score', _BACKGROUND_FIRST.then(rules.DENSE),
                                _BACKGROUND_FIRST)
        yield from rules.biased(head.deltas, f'{predictor}.bbox_pred', rules.YX.then(rules.DENSE), rules.YX)


def _mask_head(head: MaskHead) -> Iterator[Rule]:
    for index, conv in enumerate(head.convs, start=1):
        name = f'roi_heads.mask_head.mask_fcn{index}'
        yield from rules.conv_norm(conv, name, f'{name}.norm')
    yield from rules.biased(head.upsample, 'roi_heads.mask_head.deconv', rules.KERNEL)
    yield from rules.biased(head.masks, 'roi_heads.mask_head.predictor', rules.KERNEL, rules.SAME)
