"""The config that Detectron2's parameters determine, and a rule for each variable."""
from __future__ import annotations

import numpy as np
import pytest

from mrcnn_tf import config
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.weights import detectron2
from mrcnn_tf.weights.rules import WeightsError

NONE = np.zeros(0)
SMALL = ['model.backbone.name=resnet18', 'model.backbone.fpn_channels=8', 'model.box_head.width=8']


def names(maps: str, depth: int, width: int = 64, in_group: int = 64, agnostic: bool = False) -> dict[str, np.ndarray]:
    """Return the parameters that determine the architecture."""
    prefix = 'backbone.bottom_up.' if maps == 'fpn' else 'backbone.'
    state = {f'{prefix}res4.{i}.conv1.weight': NONE for i in range(depth)}
    state.update({
        f'{prefix}stem.conv1.weight': NONE, f'{prefix}res2.0.conv1.weight': np.zeros([width, 64, 1, 1]),
        f'{prefix}res2.0.conv2.weight': np.zeros([width, in_group, 3, 3]),
        'proposal_generator.rpn_head.conv.weight': NONE, 'roi_heads.box_predictor.cls_score.bias': np.zeros(81),
        'roi_heads.box_predictor.bbox_pred.bias': np.zeros(4 if agnostic else 320)})
    state['roi_heads.res5.0.conv1.weight' if maps == 'c4' else f'{prefix}res5.0.conv1.weight'] = NONE
    return state


@pytest.mark.parametrize(('state', 'config', 'expected'), [
    (names('fpn', 6), 'mask_rcnn_r50_fpn_1x', 'resnet50'), (names('c4', 6), 'mask_rcnn_r50_c4_1x', 'resnet50'),
    (names('c5', 23), 'mask_rcnn_r50_dc5_1x', 'resnet101'),
    (names('fpn', 23, 256, 8), 'mask_rcnn_r50_fpn_1x', 'resnext101_32x8d'),
    (names('fpn', 23, 256, 4), 'mask_rcnn_r50_fpn_1x', 'resnext101_64x4d')])
def test_settings_of_each_architecture(state, config, expected) -> None:
    source, overrides = detectron2.settings(state)
    assert source == config and f'model.backbone.name={expected}' in overrides
    assert 'model.kind=faster_rcnn' in overrides and 'model.num_classes=80' in overrides
    assert ('model.backbone.stride_in_1x1=false' in overrides) is expected.startswith('resnext')


def test_masks_and_class_agnostic_boxes() -> None:
    state = {**names('fpn', 6, agnostic=True), 'roi_heads.mask_head.predictor.weight': NONE}
    overrides = detectron2.settings(state)[1]
    assert 'model.kind=mask_rcnn' in overrides and 'model.box_head.class_agnostic=true' in overrides


def test_every_variable_of_a_cascade_has_a_parameter() -> None:
    """The heads are numbered; each variable has one parameter and each parameter one variable."""
    one = names('fpn', 6, agnostic=True)
    state = {name.replace('box_predictor.', 'box_predictor.0.'): value for name, value in one.items()}
    source, overrides = detectron2.settings({**state, 'roi_heads.mask_head.predictor.weight': NONE})
    assert source == 'cascade_mask_rcnn_r50_fpn_1x' and 'model.num_classes=80' in overrides
    model = build_detector(config.load(source, [*overrides, *SMALL, 'model.mask_head.width=8']).model)
    rules = list(detectron2.correspondence(model))
    assert {id(rule.variable) for rule in rules} == {id(variable) for variable in model.variables}
    box = {rule.name for rule in rules if rule.name.startswith('roi_heads.box')}
    assert len(rules) == len({rule.name for rule in rules}) and box == {
        f'roi_heads.{layer[0]}.{stage}.{layer[1]}.{kind}' for stage in range(3) for kind in ('weight', 'bias')
        for layer in (('box_head', 'fc1'), ('box_head', 'fc2'), ('box_predictor', 'cls_score'),
                      ('box_predictor', 'bbox_pred'))}


@pytest.mark.parametrize(('maps', 'kind', 'left_out'), [
    ('fpn', 'rpn', 'roi_heads.'), ('c4', 'fast_rcnn', 'proposal_generator.')])
def test_an_rpn_and_a_fast_rcnn_have_part_of_the_parameters(maps: str, kind: str, left_out: str) -> None:
    whole = names(maps, 6)
    source, overrides = detectron2.settings({name: whole[name] for name in whole if not name.startswith(left_out)})
    assert f'model.kind={kind}' in overrides and source == f'mask_rcnn_r50_{maps}_1x'
    part, faster = (build_detector(config.load(source, [*overrides, *SMALL, f'model.kind={each}']).model)
                    for each in (kind, 'faster_rcnn'))
    rules = list(detectron2.correspondence(part))
    assert {id(rule.variable) for rule in rules} == {id(variable) for variable in part.variables}
    assert {rule.name for rule in rules} == {
        rule.name for rule in detectron2.correspondence(faster) if not rule.name.startswith(left_out)}


@pytest.mark.parametrize('state', [{}, {'backbone.body.conv1.weight': NONE}, names('fpn', 7), names('fpn', 6, 128, 64),
                                   {'backbone.bottom_up.stem.conv1.weight': NONE}],
                         ids=['empty', 'torchvision', '7 blocks in res4', 'wide', 'stem only'])
def test_another_architecture_is_refused(state) -> None:
    with pytest.raises(WeightsError) as error:
        detectron2.settings(state)
    assert '\n' not in str(error.value)
