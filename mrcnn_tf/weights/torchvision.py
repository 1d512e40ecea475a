"""Import of torchvision's weights: Faster and Mask R-CNN with FPN.

Their predictors have a box and a mask for the background, ours do not. `rules.py` converts the layouts.
"""
from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.layers.heads import BoxHead, MaskHead
from mrcnn_tf.weights import rules
from mrcnn_tf.weights.rules import ClassMap, Convert, Line, Rule, State, WeightsError

# Names of layers in older releases and their published files, and the current names.
_OLDER = ((r'(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$', r'\1.0.\2'),
          (r'rpn\.head\.conv\.(weight|bias)$', r'rpn.head.conv.0.0.\1'),
          (r'roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$',
           lambda match: f'roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}'))
_TRACKED = 'num_batches_tracked'    # a counter that frozen batch normalization does not have
_UNUSED = f'{_TRACKED}$'
_BLOCKS = {(2, False): 'resnet18', (6, False): 'resnet34', (6, True): 'resnet50', (23, True): 'resnet101'}
_FOREGROUND = Convert('background left out', lambda rows: rows[1:])
_FOREGROUND_BOXES = Convert('background left out', lambda rows: rows[4:])


def load_state_dict(model: Detector, state: State, classes: ClassMap | None = None) -> list[Line]:
    """Fill every weight of `model`, with `classes` for its predictors, and return the report.

    Raises:
        WeightsError: a parameter is missing, unused, of another shape or not finite. The model is unchanged.
    """
    return rules.fill_detector(model, list(correspondence(model)), renamed(state), classes, _UNUSED)


def renamed(state: State) -> dict[str, np.ndarray]:
    """Return the parameters under their names in current releases."""
    current = {}
    for name, value in state.items():
        for pattern, replacement in _OLDER:
            name = re.sub(f'^{pattern}', replacement, name)
        current[name] = value
    return current


def settings(state: State) -> tuple[str, list[str]]:
    """Return the packaged config of the model of these weights, and overrides for it.

    Raises:
        WeightsError: the parameters are not those of a Faster or Mask R-CNN with ResNet and FPN.
    """
    state = renamed(state)
    matches = (re.match(r'backbone\.body\.layer3\.(\d+)\.', name) for name in state)
    numbers = [int(match[1]) for match in matches if match]
    kind = (max(numbers, default=-1) + 1, 'backbone.body.layer1.0.conv3.weight' in state)
    if kind not in _BLOCKS or 'roi_heads.box_predictor.cls_score.bias' not in state:
        raise WeightsError('these are not the parameters of a Faster or Mask R-CNN of torchvision with ResNet and FPN')
    version = '_v2' if 'backbone.fpn.inner_blocks.0.1.weight' in state else ''
    detector = 'mask_rcnn' if 'roi_heads.mask_predictor.conv5_mask.weight' in state else 'faster_rcnn'
    return f'torchvision_mask_rcnn_r50_fpn{version}', [
        f'model.kind={detector}', f'model.backbone.name={_BLOCKS[kind]}',
        f'model.num_classes={len(state["roi_heads.box_predictor.cls_score.bias"]) - 1}',
        *(['model.backbone.norm_epsilon=1e-5'] if _reason_for_epsilon(state) else [])]


def epsilon_note(state: State) -> str:
    """Return a note about the epsilon of batch normalization that `settings` chooses; '' for the second recipe.

    torchvision sets it to 0 for its published weights of the first recipe, and uses 1e-5 in all other models.
    """
    if settings(state)[0].endswith('_v2'):
        return ''
    reason = _reason_for_epsilon(state)
    if reason:
        return f'The epsilon of batch normalization is 1e-5: {reason}.'
    return ('The file does not contain the epsilon of batch normalization. 0 is used, as in the published COCO '
            'weights and models fine-tuned from them. For a model trained from an ImageNet backbone, import the file '
            'again with --norm-epsilon 1e-5.')


def _reason_for_epsilon(state: State) -> str:
    """Return why the epsilon must be 1e-5; '' if it may be 0."""
    tracked = next((name for name in state if name.startswith('backbone.body.') and name.endswith(_TRACKED)), '')
    if tracked:
        return f'{tracked} shows that batch normalization was trained, and torchvision uses 0 only if it is frozen'
    vanishing = rules.vanishing_variance(state, 0.)
    return f'with 0, {vanishing}' if vanishing else ''


def correspondence(model: Detector) -> Iterator[Rule]:
    """Yield a rule for each variable of the model."""
    backbone, pyramid = model.backbone.body, model.backbone.pyramid
    yield from rules.conv_norm(backbone.stem, 'backbone.body.conv1', 'backbone.body.bn1')
    for stage, blocks in enumerate(backbone.stages, start=1):
        for number, block in enumerate(blocks):
            prefix = f'backbone.body.layer{stage}.{number}'
            for index, conv in enumerate(block.convs, start=1):
                yield from rules.conv_norm(conv, f'{prefix}.conv{index}', f'{prefix}.bn{index}')
            if block.shortcut:
                yield from rules.conv_norm(block.shortcut, f'{prefix}.downsample.0', f'{prefix}.downsample.1')
    for index in range(4):
        for conv, kind in ((pyramid.laterals[index], 'inner'), (pyramid.outputs[index], 'layer')):
            name = f'backbone.fpn.{kind}_blocks.{index}'
            yield from rules.conv_norm(conv, f'{name}.0', f'{name}.1')
    rpn_head = model.proposer.head
    for index, conv in enumerate(rpn_head.convs):
        yield from rules.biased(conv, f'rpn.head.conv.{index}.0', rules.KERNEL)
    yield from rules.biased(rpn_head.objectness, 'rpn.head.cls_logits', rules.KERNEL)
    yield from rules.biased(rpn_head.deltas, 'rpn.head.bbox_pred', rules.YX.then(rules.KERNEL), rules.YX)
    for head in model.box.heads:
        yield from _box_head(head, model.box.roi_features.roi_layer.size)
    for branch in model.branches:
        yield from _mask_head(branch.head)


def _box_head(head: BoxHead, side: int) -> Iterator[Rule]:
    # The first recipe names its two dense layers; the second one counts convolutions, a flattening and a dense layer.
    names = [f'{len(head.convs) + 1 + i}' for i in range(len(head.hidden))] if head.convs else ['fc6', 'fc7']
    for index, conv in enumerate(head.convs):
        yield from rules.conv_norm(conv, f'roi_heads.box_head.{index}.0', f'roi_heads.box_head.{index}.1')
    for index, (layer, name) in enumerate(zip(head.hidden, names, strict=True)):
        kernel = rules.DENSE if index else rules.channels_last(side)
        yield from rules.biased(layer, f'roi_heads.box_head.{name}', kernel)
    yield from rules.biased(head.classes, 'roi_heads.box_predictor.cls_score', rules.DENSE)
    deltas = _FOREGROUND_BOXES.then(rules.YX)
    yield from rules.biased(head.deltas, 'roi_heads.box_predictor.bbox_pred', deltas.then(rules.DENSE), deltas)


def _mask_head(head: MaskHead) -> Iterator[Rule]:
    for index, conv in enumerate(head.convs):
        yield from rules.conv_norm(conv, f'roi_heads.mask_head.{index}.0', f'roi_heads.mask_head.{index}.1')
    yield from rules.biased(head.upsample, 'roi_heads.mask_predictor.conv5_mask', rules.KERNEL)
    yield from rules.biased(head.masks, 'roi_heads.mask_predictor.mask_fcn_logits', _FOREGROUND.then(rules.KERNEL),
                      _FOREGROUND.then(rules.SAME))
