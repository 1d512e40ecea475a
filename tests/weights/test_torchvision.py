"""The config that torchvision's parameters determine, and the names of older releases."""
from __future__ import annotations

import re

import numpy as np
import pytest

from mrcnn_tf.weights import torchvision
from mrcnn_tf.weights.rules import WeightsError

NONE = np.zeros(0)


def names(depth: int, bottleneck: bool, masks: bool) -> dict[str, np.ndarray]:
    """Return the parameters that determine the architecture."""
    state = {f'backbone.body.layer3.{i}.conv1.weight': NONE for i in range(depth)}
    state['roi_heads.box_predictor.cls_score.bias'] = np.zeros(21)
    if bottleneck:
        state['backbone.body.layer1.0.conv3.weight'] = NONE
    if masks:
        state['roi_heads.mask_predictor.conv5_mask.weight'] = NONE
    return state


@pytest.mark.parametrize(('depth', 'bottleneck', 'masks', 'expected'), [
    (2, False, True, ['mask_rcnn', 'resnet18']), (6, False, False, ['faster_rcnn', 'resnet34']),
    (6, True, True, ['mask_rcnn', 'resnet50']), (23, True, False, ['faster_rcnn', 'resnet101'])])
def test_settings_of_each_architecture(depth, bottleneck, masks, expected) -> None:
    assert torchvision.settings(names(depth, bottleneck, masks)) == ('torchvision_mask_rcnn_r50_fpn', [
        f'model.kind={expected[0]}', f'model.backbone.name={expected[1]}', 'model.num_classes=20'])


def test_normalization_in_the_fpn_means_the_second_recipe() -> None:
    state = {**names(6, True, True), 'backbone.fpn.inner_blocks.0.1.weight': NONE}
    assert torchvision.settings(state)[0] == 'torchvision_mask_rcnn_r50_fpn_v2'


def test_another_architecture_is_refused() -> None:
    for state in ({}, {'backbone.body.0.conv.weight': NONE}, names(7, True, True)):
        with pytest.raises(WeightsError, match='not the parameters of'):
            torchvision.settings(state)


def test_older_names_are_renamed() -> None:
    """The pairs are those in the README of the parity kit."""
    older = {'backbone.fpn.inner_blocks.2.weight': 'backbone.fpn.inner_blocks.2.0.weight',
             'backbone.fpn.layer_blocks.0.bias': 'backbone.fpn.layer_blocks.0.0.bias',
             'rpn.head.conv.bias': 'rpn.head.conv.0.0.bias',
             'roi_heads.mask_head.mask_fcn4.weight': 'roi_heads.mask_head.3.0.weight'}
    assert list(torchvision.renamed(dict.fromkeys(older, NONE))) == list(older.values())
    newer = {**dict.fromkeys(older.values(), NONE), 'rpn.head.conv.1.0.weight': NONE,
             'backbone.fpn.inner_blocks.2.1.weight': NONE, 'backbone.body.layer1.0.conv1.weight': NONE}
    assert torchvision.renamed(newer).keys() == newer.keys()


UNKNOWN, TRACKED, VARIANCE = {}, {'backbone.body.bn1.num_batches_tracked': NONE}, 'backbone.body.bn1.running_var'


@pytest.mark.parametrize(('more', 'epsilon', 'note'), [
    (UNKNOWN, None, 'does not contain .* 0 is used, .* published COCO .* ImageNet backbone, .* --norm-epsilon 1e-5'),
    (TRACKED, '1e-5', 'is 1e-5: backbone.body.bn1.num_batches_tracked shows that .* was trained'),
    ({VARIANCE: np.float32([.1, 0., 1e-12])}, '1e-5', f'with 0, 1 of 3 channels of {VARIANCE} would be divided by 0'),
    ({VARIANCE: np.float32([1e-39, 1e-39])}, '1e-5', 'with 0, 2 of 2 channels of'),
    ({VARIANCE: np.float32([1e-37])}, None, 'does not contain'),
], ids=['unknown', 'trained', 'zero', 'denormal', 'tiny'])
def test_the_epsilon_of_a_file_without_one(more, epsilon, note) -> None:
    """0 as published; 1e-5 if 0 is impossible, because the layers were trained or a variance is 0."""
    state = {**names(6, True, True), **more}
    chosen = [setting for setting in torchvision.settings(state)[1] if 'epsilon' in setting]
    assert chosen == ([f'model.backbone.norm_epsilon={epsilon}'] if epsilon else [])
    line = torchvision.epsilon_note(state)
    assert re.search(note, line) and '\n' not in line


def test_the_second_recipe_needs_no_note() -> None:
    assert not torchvision.epsilon_note({**names(6, True, True), 'backbone.fpn.inner_blocks.0.1.weight': NONE})
