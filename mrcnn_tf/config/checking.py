"""Validation of a config: each value against the limits of its field, then the relations between settings."""
from __future__ import annotations

from typing import Any

from mrcnn_tf.config.backbones import BACKBONES
from mrcnn_tf.config.fields import ConfigError, check_fields
from mrcnn_tf.config.schema import Config, ModelConfig, TrainConfig


def validate(config: Config) -> None:
    """Check a config.

    Raises:
        ConfigError: the first field whose value is impossible, alone or together with another field.
    """
    check_fields(config)
    for name, fits, expected in _relations(config):
        if not fits:
            raise ConfigError(f'{name} is {_value(config, name)}: expected {expected}')


def _relations(config: Config) -> tuple[tuple[str, bool, str], ...]:
    """Return (field, whether its value fits the other fields, the expected value) for each relation."""
    return (_accumulation_relation(config), _recompute_relation(config), _service_relation(config.train),
            *_data_relations(config), *_backbone_relations(config.model), *_sampling_relations(config.model),
            *_head_relations(config.model))


def _accumulation_relation(config: Config) -> tuple[str, bool, str]:
    by_batch = sorted({'batch', 'sync'} & set(config.model.norms))
    return ('train.accumulation_steps', config.train.accumulation_steps == 1 or not by_batch,
            f'1 with the norm {" and ".join(by_batch)}, which needs the whole batch at once; or use group or frozen')


def _service_relation(train: TrainConfig) -> tuple[str, bool, str]:
    service = train.input == 'service'
    return ('train.input_servers', bool(train.input_servers) == service,
            'host:port of each `mrcnn input-server` with train.input=service' if service else
            'none with train.input=local; set train.input=service to use them')


def _recompute_relation(config: Config) -> tuple[str, bool, str]:
    norm = config.model.backbone.norm
    return ('train.recompute', not config.train.recompute or norm not in ('batch', 'sync'),
            f'false with the norm {norm}, whose moving averages would be updated twice; or use group or frozen')


def _data_relations(config: Config) -> tuple[tuple[str, bool, str], ...]:
    data, maps = config.data, config.model.backbone.maps
    return (
        ('data.evaluation_batch_size', data.evaluation_batch_size == 1 or len(data.test_scales) < 2,
         '1 with several data.test_scales, because images that share a canvas at one scale may not at another'),
        ('data.pad_multiple', data.pad_multiple % 32 == 0 or maps in ('c4', 'c5'),
         f'a multiple of 32 with model.backbone.maps={maps}, whose feature maps have strides of up to 32'),
    )


def _backbone_relations(model: ModelConfig) -> tuple[tuple[str, bool, str], ...]:
    config, sizes = model.backbone, model.anchors.sizes
    backbone, levels = BACKBONES[config.name], 5 if config.maps == 'fpn' else 1
    return (
        ('model.backbone.maps', config.maps in backbone.maps,
         f'{" or ".join(backbone.maps)} with model.backbone.name={config.name}'),
        ('model.backbone.norm', config.norm != 'group' or backbone.group_norm,
         f'frozen, batch or sync with model.backbone.name={config.name}, whose channels 32 groups do not divide'),
        ('model.backbone.fpn_norm', config.fpn_norm == 'none' or config.maps == 'fpn',
         f'none with model.backbone.maps={config.maps}, which has no FPN'),
        ('model.anchors.sizes', len(sizes) == levels and bool(sizes[0]) and len(set(map(len, sizes))) == 1,
         'one list of sizes for each of P2..P6, all of one length because the levels share the RPN head'
         if levels > 1 else f'one list of all sizes, for the one feature map of model.backbone.maps={config.maps}'),
    )


def _sampling_relations(model: ModelConfig) -> tuple[tuple[str, bool, str], ...]:
    rpn, roi = model.rpn, model.roi
    negative_iou = roi.positive_iou if roi.negative_iou is None else roi.negative_iou
    return (
        ('model.rpn.positive_fraction', int(rpn.batch_per_image * rpn.positive_fraction) >= 1,
         'at least 1 / model.rpn.batch_per_image, or no anchor is ever positive'),
        ('model.roi.positive_fraction', roi.sampling == 'ohem' or int(
            roi.batch_per_image * roi.positive_fraction) >= 1,
         'at least 1 / model.roi.batch_per_image, or no RoI is ever positive'),
        ('model.rpn.negative_iou', rpn.negative_iou <= rpn.positive_iou, 'at most model.rpn.positive_iou'),
        ('model.roi.negative_iou', negative_iou <= roi.positive_iou, 'at most model.roi.positive_iou'),
        ('model.roi.background_iou', roi.background_iou <= negative_iou,
         'at most model.roi.negative_iou, or model.roi.positive_iou where that is null'),
        ('model.roi.aggregate', roi.aggregate == 'max' or roi.layer != 'pool', 'max with model.roi.layer=pool'),
        ('model.roi.sampling_ratio', roi.sampling_ratio == 1 or roi.layer != 'pool',
         '1 with model.roi.layer=pool, which pools cells without sampling'),
    )


def _head_relations(model: ModelConfig) -> tuple[tuple[str, bool, str], ...]:
    box, mask, cascade = model.box_head, model.mask_head, model.cascade
    shared = model.kind == 'mask_rcnn' and model.backbone.maps == 'c4'
    return (
        ('model.mask_head.pool_size', not shared or mask.pool_size == box.pool_size,
         'model.box_head.pool_size with model.backbone.maps=c4, because the two heads share the last stage'),
        ('model.box_head.pool_size', not shared or box.pool_size % 2 == 0,
         'an even number with model.backbone.maps=c4, whose last stage halves it'),
        ('model.box_head.dropout', not box.dropout or box.fully_connected > 0,
         '0 with model.box_head.fully_connected=0, because dropout follows the fully connected layers'),
        ('model.mask_head.class_agnostic', not mask.class_agnostic or mask.classifier == 'sigmoid',
         'false with model.mask_head.classifier=softmax, where classes compete'),
        ('model.cascade.box_weights',
         [len(weights) for weights in cascade.box_weights] == [4] * len(cascade.positive_iou),
         'four numbers for each of model.cascade.positive_iou'),
        ('model.box_head.class_agnostic', box.class_agnostic or not cascade.positive_iou,
         'true with model.cascade, whose heads pass on one box per RoI'),
    )


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split('.'):
        value = getattr(value, part)
    return value
