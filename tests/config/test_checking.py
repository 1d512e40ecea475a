"""Values outside their limits, and settings that contradict each other, are refused."""
from __future__ import annotations

import pytest

from mrcnn_tf import config as settings
from mrcnn_tf.config import ConfigError
from tests.config.refusal import refusal


@pytest.mark.parametrize(('override', 'expected'), [
    ('solver.schedule=cosin', "solver.schedule is 'cosin'; did you mean cosine?"),
    ('solver.optimizer=zzz', "solver.optimizer is 'zzz': expected one of sgd, sgdw, adamw, lamb, lars"),
    ('model.backbone.name=resnet', "model.backbone.name is 'resnet'; did you mean resnet"),
    ('model.rpn.loss_normalizer=3', "model.rpn.loss_normalizer is '3': expected one of batch, sampled"),
])
def test_an_unknown_choice_suggests_a_valid_one(override: str, expected: str) -> None:
    assert refusal('base', override).startswith(expected)


@pytest.mark.parametrize(('override', 'expected'), [
    ('data.short_sides=[]', 'at least one number'),
    ('data.canvases=[]', '[height, width] pairs that 32 divides'),
    ('data.canvases=[[384]]', '[height, width] pairs that 32 divides'),
    ('data.canvases=[[384,400]]', '[height, width] pairs that 32 divides'),
    ('data.canvases=[[384,0]]', 'at least 1'),
    ('data.test_scales=[400,0]', 'at least 1'),
    ('data.test_scales=[400,800,400]', 'numbers that differ'),
    ('data.flip_horizontal=1.5', 'at least 0 and at most 1'),
    ('model.pixel_mean=[0,0]', 'three numbers'),
    ('model.pixel_std=[1,0,1]', 'above 0'),
    ('model.pixel_std=[1]', 'three numbers'),
    ('model.backbone.frozen_stages=6', 'at least 0 and at most 5'),
    ('model.backbone.tdm_stride=16', 'expected one of 4, 8'),
    ('model.anchors.sizes=[[8],[16],[32],[64]]', 'one list of sizes for each of P2..P6'),
    ('model.anchors.sizes=[[8],[16],[32],[64],[128,256]]', 'all of one length'),
    ('model.anchors.sizes=[[],[],[],[],[]]', 'one list of sizes for each of P2..P6'),
    ('model.anchors.ratios=[]', 'at least one number'),
    ('model.rpn.negative_iou=0.8', 'at most model.rpn.positive_iou'),
    ('model.rpn.positive_fraction=0', 'at least 1 / model.rpn.batch_per_image'),
    ('model.roi.positive_fraction=0.001', 'at least 1 / model.roi.batch_per_image'),
    ('model.roi.background_iou=0.6', 'at most model.roi.negative_iou, or model.roi.positive_iou'),
    ('model.box_head.dropout=1', 'at least 0 and below 1'),
    ('model.roi.canonical_level=6', 'at least 2 and at most 5'),
    ('model.box_head.box_weights=[1,1]', 'four numbers'),
    ('solver.milestones=[8,4]', 'numbers in ascending order'),
    ('solver.milestones=[4,4]', 'numbers in ascending order'),
    ('train.input_servers=[host]', 'host:port addresses, each once'),
    ('train.input_servers=[host:1,host:1]', 'host:port addresses, each once'),
    ('train.input_servers=[host:1]', 'none with train.input=local; set train.input=service'),
])
def test_an_impossible_value_is_refused(override: str, expected: str) -> None:
    message = refusal('base', override)
    assert message.startswith(f'{override.split("=")[0]} is ') and expected in message


@pytest.mark.parametrize(('source', 'overrides', 'expected'), [
    ('base', ['model.backbone.name=vgg16'], 'model.backbone.maps is fpn: expected tdm or c5 with .*vgg16'),
    ('base', ['model.backbone.name=inception_resnet_v2', 'model.backbone.norm=group'], 'model.backbone.norm is group'),
    ('base', ['model.backbone.maps=c4', 'model.anchors.sizes=[[8]]', 'model.mask_head.pool_size=7'],
     'model.box_head.pool_size is 7: expected an even number'),
    ('base', ['train.accumulation_steps=2', 'model.backbone.norm=sync'],
     'train.accumulation_steps is 2: expected 1 with the norm sync'),
    ('base', ['train.input=service'], r'train.input_servers is \[\]: expected host:port of each `mrcnn input-server`'),
    ('base', ['train.recompute=true', 'model.backbone.norm=batch'],
     'train.recompute is True: expected false with the norm batch'),
    ('base', ['model.backbone.maps=tdm'], 'model.anchors.sizes is .* one list of all sizes'),
    ('base', ['data.test_scales=[400,800]', 'data.evaluation_batch_size=2'], 'evaluation_batch_size is 2: expected 1'),
    ('base', ['model.backbone.maps=c4'], 'model.anchors.sizes is .* one list of all sizes'),
    ('mask_rcnn_r50_c4_1x', ['model.backbone.fpn_norm=group'], 'model.backbone.fpn_norm is group: expected none with'),
    ('base', ['model.roi.layer=pool', 'model.roi.sampling_ratio=1'], 'model.roi.aggregate is average: expected max'),
    ('base', ['model.roi.layer=pool', 'model.roi.aggregate=max'], 'model.roi.sampling_ratio is 0: expected 1 with'),
    ('base', ['model.cascade.positive_iou=[0.6]'], r'cascade.box_weights is \[\]: expected four numbers for each'),
    ('cascade_mask_rcnn_r50_fpn_1x', ['model.cascade.box_weights=[[1,1,1,1],[1]]'], 'expected four numbers for each'),
    ('cascade_mask_rcnn_r50_fpn_1x', ['model.box_head.class_agnostic=false'], 'is False: expected true with model.cas'),
    ('mask_rcnn_r50_c4_1x', ['model.box_head.dropout=0.5'], 'model.box_head.dropout is 0.5: expected 0 with'),
    ('mask_rcnn_r50_c4_1x', ['model.mask_head.pool_size=7'], 'model.mask_head.pool_size is 7: expected model.box_head'),
    ('mask_rcnn_r50_c4_softmax', ['model.mask_head.class_agnostic=true'], 'class_agnostic is True: expected false')])
def test_contradicting_settings_are_refused(source: str, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as error:
        settings.load(source, overrides)
    assert '\n' not in str(error.value)
