"""The packaged configs: each ablation differs from its neighbour in what it says, and every one trains and detects."""
from __future__ import annotations

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.layers.backbones import inception_resnet
from tests.paths import ROOT

CONFIGS = ROOT / 'configs'
BACKBONE = {'model.backbone.name'}
INCEPTION_RESNET = {
    *BACKBONE, 'model.channel_order', 'model.pixel_mean', 'model.pixel_std', 'model.backbone.norm_epsilon'}
ONE_MAP = {'model.backbone.maps', 'model.anchors.sizes', *(
    f'model.rpn.{when}_nms_{mode}' for when, mode in (('pre', 'train'), ('pre', 'test'), ('post', 'train')))}
# What the others differ from, and what joins several changes for data of its own.
RECIPES = {'base', 'mask_rcnn_r50_fpn_1x', 'faster_rcnn_vgg16', 'torchvision_mask_rcnn_r50_fpn',
           'torchvision_mask_rcnn_r50_fpn_v2', 'nuclei_r18_fpn', 'bccd_faster_r18_fpn', 'shapes_r18_fpn'}
# name: (neighbour, the fields that the row of its table changes)
ABLATIONS = {
    **{f'faster_rcnn_vgg16_anchors_{row}': ('faster_rcnn_vgg16', fields) for row, fields in {
        '1s1r_128': {'model.anchors.sizes', 'model.anchors.ratios'},
        '1s1r_256': {'model.anchors.sizes', 'model.anchors.ratios'},
        '1s3r_128': {'model.anchors.sizes'}, '1s3r_256': {'model.anchors.sizes'},
        '3s1r': {'model.anchors.ratios'}}.items()},
    **{f'faster_rcnn_vgg16_lambda_{value}': ('faster_rcnn_vgg16', {'model.rpn.box_loss_weight'})
       for value in ('01', '1', '100')},
    'fast_rcnn_vgg16': ('faster_rcnn_vgg16', {
        'model.kind', 'model.roi.background_iou', 'solver.steps', 'solver.milestones'}),
    **{f'{kind}_vgg16_{data}': (f'{kind}_vgg16', fields) for kind in ('fast_rcnn', 'faster_rcnn') for data, fields in {
        '07p12': {'data.train', 'data.validation', 'solver.steps', 'solver.milestones'}, '12': {'data.train'},
        '07pp12': {'data.train', 'solver.steps', 'solver.milestones'}}.items()},
    **{f'faster_rcnn_vgg16_coco_{data}': (f'faster_rcnn_vgg16_{data}', {
        'model.anchors.sizes', 'model.backbone.weights'}) for data in ('07p12', '07pp12')},
    'fast_rcnn_vgg16_07p12': ('fast_rcnn_vgg16', {'data.train', 'data.validation', 'solver.steps'}),
    'faster_rcnn_vgg16_coco_trainval': ('faster_rcnn_vgg16_coco', {'data.train'}),
    'fast_rcnn_vgg16_coco': ('faster_rcnn_vgg16_coco', {
        'model.kind', 'data.train', 'data.validation', 'data.batch_size', 'solver.reference_batch'}),
    'fast_rcnn_vgg16_coco_240k': ('fast_rcnn_vgg16_coco', {
        'model.roi.background_iou', 'data.batch_size', 'solver.learning_rate', 'solver.steps', 'solver.milestones',
        'solver.reference_batch'}),
    'faster_rcnn_vgg16_coco': ('faster_rcnn_vgg16', {
        'data.train', 'data.validation', 'data.batch_size', 'model.num_classes', 'model.anchors.sizes',
        'solver.learning_rate', 'solver.steps', 'solver.milestones', 'solver.reference_batch'}),
    'faster_rcnn_r101_fpn_roipool': ('faster_rcnn_r101_fpn_1x', {
        'model.roi.layer', 'model.roi.aggregate', 'model.roi.sampling_ratio'}),
    'bccd_fast_r18_fpn': ('bccd_faster_r18_fpn', {'model.kind'}),
    'rpn_vgg16': ('faster_rcnn_vgg16', {'model.kind', 'data.batch_size', 'solver.reference_batch'}),
    'faster_rcnn_vgg16_alternating': ('faster_rcnn_vgg16', {'alternating.rpn', 'alternating.fast_rcnn'}),
    'faster_rcnn_vgg16_unshared': ('faster_rcnn_vgg16_alternating', {'alternating.steps'}),
    'fast_rcnn_vgg16_ohem': ('fast_rcnn_vgg16', {'model.roi.sampling', 'model.roi.background_iou'}),
    'mask_rcnn_r50_c4_softmax': ('mask_rcnn_r50_c4_1x', {'model.mask_head.classifier'}),
    'mask_rcnn_r50_c4_agnostic': ('mask_rcnn_r50_c4_1x', {'model.mask_head.class_agnostic'}),
    'mask_rcnn_r50_c4_roipool': ('mask_rcnn_r50_c4_1x', {
        'model.roi.layer', 'model.roi.aggregate', 'model.roi.sampling_ratio'}),
    'mask_rcnn_r50_c4_roiwarp': ('mask_rcnn_r50_c4_1x', {'model.roi.layer'}),
    'mask_rcnn_r50_c4_roiwarp_max': ('mask_rcnn_r50_c4_1x', {'model.roi.layer', 'model.roi.aggregate'}),
    'mask_rcnn_r50_c4_roialign_max': ('mask_rcnn_r50_c4_1x', {'model.roi.aggregate'}),
    'mask_rcnn_r50_fpn_cityscapes_coco': ('mask_rcnn_r50_fpn_cityscapes', {
        'model.backbone.weights', 'model.backbone.norm_epsilon', 'solver.steps', 'solver.milestones'}),
    'faster_rcnn_r101_c4_1x': ('mask_rcnn_r50_c4_1x', {'model.kind', *BACKBONE}),
    'faster_rcnn_r101_c4_refined': ('faster_rcnn_r101_c4_1x', {
        'model.detections.refinements', 'model.detections.box_voting_iou', 'model.detections.nms_iou'}),
    'faster_rcnn_r101_c4_refined_multiscale_test': ('faster_rcnn_r101_c4_refined', {'data.test_scales'}),
    'faster_rcnn_r101_fpn_1x': ('mask_rcnn_r50_fpn_1x', {'model.kind', *BACKBONE}),
    'faster_rcnn_r50_fpn_1x': ('mask_rcnn_r50_fpn_1x', {'model.kind'}),
    'faster_rcnn_r50_fpn_small': ('faster_rcnn_r50_fpn_1x', {
        'data.batch_size', 'data.short_sides', 'data.long_side', 'data.test_short_side', 'data.test_long_side',
        'data.canvases'}),
    'mask_rcnn_r50_fpn_finetune': ('mask_rcnn_r50_fpn_1x', {
        'data.batch_size', 'data.keep_empty', 'train.checkpoint_every', *(f'solver.{name}' for name in (
            'learning_rate', 'steps', 'schedule', 'warmup_steps', 'warmup_factor', 'reference_batch', 'clip_norm'))}),
    'mask_rcnn_r18_fpn_cpu_demo': ('nuclei_r18_fpn', {
        'data.short_sides', 'data.long_side', 'data.test_short_side', 'data.test_long_side', 'data.canvases',
        'data.flip_vertical', 'data.max_objects', 'model.anchors.sizes', 'model.detections.max_detections',
        'solver.steps', 'solver.warmup_steps', 'solver.warmup_factor', 'train.checkpoint_every'}),
    'faster_rcnn_r101_tdm': ('faster_rcnn_r101_fpn_1x', ONE_MAP),
    'faster_rcnn_inception_resnet_v2': ('faster_rcnn_r101_c4_1x', {*INCEPTION_RESNET, 'model.box_head.pool_size'}),
    'faster_rcnn_inception_resnet_v2_tdm': ('faster_rcnn_r101_tdm', INCEPTION_RESNET),
    'mask_rcnn_r50_c4_1x': ('mask_rcnn_r50_fpn_1x', {
        'data.pad_multiple', *ONE_MAP, 'model.box_head.pool_size', 'model.box_head.fully_connected',
        'model.mask_head.convolutions'}),
    'mask_rcnn_r50_dc5_1x': ('mask_rcnn_r50_fpn_1x', {'data.pad_multiple', *ONE_MAP}),
    'mask_rcnn_r50_fpn_gn': ('mask_rcnn_r50_fpn_1x', {
        'model.backbone.norm', 'model.backbone.norm_epsilon', 'model.backbone.fpn_norm', 'model.backbone.frozen_stages',
        'model.backbone.weights', 'model.box_head.norm', 'model.box_head.convolutions',
        'model.box_head.fully_connected', 'model.mask_head.norm'}),
    'mask_rcnn_r50_fpn_cityscapes': ('mask_rcnn_r50_fpn_1x', {
        *(f'data.{name}' for name in ('batch_size', 'short_sides', 'long_side', 'test_short_side', 'test_long_side',
                                      'canvases')),
        'model.num_classes', 'solver.learning_rate', 'solver.steps', 'solver.milestones', 'solver.reference_batch'}),
    'mask_rcnn_r101_c4_1x': ('mask_rcnn_r50_c4_1x', BACKBONE),
    'mask_rcnn_r101_fpn_1x': ('mask_rcnn_r50_fpn_1x', BACKBONE),
    'cascade_mask_rcnn_r50_fpn_1x': ('mask_rcnn_r50_fpn_1x', {
        'model.cascade.positive_iou', 'model.cascade.box_weights', 'model.box_head.class_agnostic',
        'model.rpn.post_nms_train'}),
    'mask_rcnn_x101_fpn_1x': ('mask_rcnn_r50_fpn_1x', {
        *BACKBONE, 'model.backbone.stride_in_1x1', 'model.backbone.weights'}),
    'mask_rcnn_x101_fpn_multiscale': ('mask_rcnn_x101_fpn_1x', {'solver.steps', 'solver.milestones'}),
    'mask_rcnn_x101_fpn_multiscale_test': ('mask_rcnn_x101_fpn_multiscale', {'data.test_scales', 'data.test_flip'}),
}


def leaves(node: Any, prefix: str = '') -> dict[str, Any]:
    """The fields of a config by their dotted names."""
    found = {}
    for name, value in node.items():
        found.update(leaves(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value})
    return found


@pytest.mark.parametrize('name', ABLATIONS)
def test_an_ablation_differs_in_what_it_ablates(name) -> None:
    neighbour, fields = ABLATIONS[name]
    ours, theirs = (leaves(dataclasses.asdict(configuration.load(each))) for each in (name, neighbour))
    assert {field for field in ours if ours[field] != theirs[field]} == fields


def test_every_config_is_a_recipe_or_differs_from_one() -> None:
    assert sorted([*RECIPES, *ABLATIONS]) == configuration.packaged()


@pytest.mark.parametrize('name', [name for name in configuration.packaged() if name != 'base'])
def test_a_config_begins_with_its_command_and_a_number(name) -> None:
    lines = (CONFIGS / f'{name}.yaml').read_text().splitlines()
    comment = ' '.join(line.lstrip('# ') for line in lines[:[line.startswith('#') for line in lines].index(False)])
    assert 'mrcnn ' in comment and f'{name}' in comment + f'mrcnn demo {name}'
    assert any(character.isdigit() for character in comment)


def reduced(config: Config) -> Config:
    """A few small anchors, proposals, RoIs and classes; the architecture stays, but for depth.

    What changes no shape and no operation gets one value, so that few configs differ: see `configs_by_model`.
    """
    model = config.model
    model.num_classes, model.rpn.box_loss_weight, model.roi.background_iou = 3, 1., 0.
    model.backbone.name = model.backbone.name.replace('resnet101', 'resnet50')
    model.backbone.weights, model.backbone.norm_epsilon = 'none', 1e-5
    model.anchors.sizes = [[8. * 2 ** (level + i) for i, _ in enumerate(sizes)]
                           for level, sizes in enumerate(model.anchors.sizes)]
    model.rpn.pre_nms_train = model.rpn.pre_nms_test = 30
    model.rpn.post_nms_train = model.rpn.post_nms_test = 12
    model.rpn.batch_per_image, model.roi.batch_per_image = 16, 4
    model.detections.max_detections = 3
    model.box_head.width = min(model.box_head.width, 32)
    return config


def batch_of_one(classes: int) -> dict[str, tf.Tensor]:
    """A faint picture: behind frozen norms with random weights, what differs from the mean grows with every block."""
    rng = np.random.default_rng(0)
    boxes = np.zeros([1, 3, 4], np.float32)
    boxes[0, :2] = [[4, 4, 40, 50], [20, 10, 60, 60]]
    proposals = boxes + np.float32([1, 2, -1, 0]) * (boxes[..., 2:3] > 0)
    values = {'images': (115 + rng.uniform(-5, 5, (1, 64, 64, 3))).astype(np.float32), 'sizes': np.float32([[64, 64]]),
              'boxes': boxes, 'labels': np.int32([[1, classes, 0]]), 'crowd': np.zeros([1, 3], bool),
              'valid': boxes.any(-1), 'masks': rng.integers(0, 256, (1, 3, 14, 14)).astype(np.uint8),
              'proposals': proposals, 'proposals_valid': proposals.any(-1)}
    return {name: tf.constant(value) for name, value in values.items()}


@functools.cache
def configs_by_model() -> dict[str, str]:
    """Return one packaged config for each model: many differ only in data, schedule or a number."""
    return {repr(reduced(configuration.load(name)).model): name for name in configuration.packaged()}


@pytest.fixture
def _shallow_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_resnet, 'REPEATS', (1, 1, 1))


@pytest.mark.slow
@pytest.mark.usefixtures('shallow_resnets', '_shallow_inception')
@pytest.mark.parametrize('name', configuration.packaged())
def test_every_config_trains_and_detects(name) -> None:
    """One step of each at 64 px, random weights: finite losses, a gradient for all that is trained, detections."""
    keras.utils.set_random_seed(0)
    config = reduced(configuration.load(name))
    if (other := configs_by_model()[repr(config.model)]) != name:
        pytest.skip(f'{other} has the same model')
    model, batch = build_detector(config.model), batch_of_one(config.model.num_classes)
    with tf.GradientTape() as tape:
        losses = model.losses(batch, tf.constant([0, 0]))
        total = tf.add_n(list(losses.values()))
    gradients = tape.gradient(total, model.trainable_variables)
    assert np.isfinite(total) and total > 0
    assert all(np.isfinite(tf.convert_to_tensor(each)).all() for each in gradients)     # None cannot be converted
    found = model(batch)
    assert found['boxes'].shape[1:] == model.output_spec()['boxes'].shape and np.isfinite(found['boxes']).all()
