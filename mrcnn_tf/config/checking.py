"""What a config's values may be: each alone, and beside the others."""
from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

from mrcnn_tf.config.backbones import BACKBONES
from mrcnn_tf.config.schema import Config, ConfigError

_LIMITS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ('at least 1', lambda x: x >= 1, """
        data.batch_size data.evaluation_batch_size data.short_sides data.long_side data.test_short_side
        data.test_long_side data.test_scales data.canvases data.max_pixels data.max_objects data.max_proposals
        data.mask_size data.shuffle_buffer data.pad_multiple model.num_classes
        model.backbone.fpn_channels model.backbone.tdm_channels model.rpn.batch_per_image
        model.rpn.pre_nms_train model.rpn.pre_nms_test
        model.rpn.post_nms_train model.rpn.post_nms_test model.roi.batch_per_image model.rpn.convolutions
        model.box_head.pool_size model.box_head.convolution_width model.box_head.width model.mask_head.pool_size
        model.mask_head.width model.detections.max_detections model.detections.pre_nms solver.steps solver.milestones
        solver.reference_batch train.checkpoint_every train.keep_checkpoints train.log_every"""),
    ('0 or more', lambda x: x >= 0, """
        model.backbone.norm_epsilon model.rpn.min_side model.rpn.smooth_l1_beta model.roi.sampling_ratio
        model.box_head.smooth_l1_beta model.box_head.convolutions model.box_head.fully_connected
        model.mask_head.convolutions model.detections.min_side model.detections.refinements
        solver.weight_decay solver.warmup_steps train.seed train.stop_without_positives"""),
    ('above 0', lambda x: x > 0, """
        model.pixel_std model.anchors.sizes model.anchors.ratios model.roi.canonical_size model.rpn.box_loss_weight
        model.box_head.box_weights model.cascade.box_weights solver.learning_rate solver.gamma solver.clip_norm"""),
    ('0 to 1', lambda x: 0 <= x <= 1, """
        data.flip_horizontal data.flip_vertical model.backbone.norm_momentum model.rpn.positive_iou
        model.rpn.negative_iou model.rpn.positive_fraction model.rpn.nms_iou model.rpn.crowd_iof
        model.roi.positive_iou model.roi.negative_iou model.roi.background_iou model.roi.ohem_nms_iou
        model.roi.positive_fraction model.roi.crowd_iof model.cascade.positive_iou model.detections.score_threshold
        model.detections.nms_iou model.detections.box_voting_iou solver.momentum solver.warmup_factor"""),
    ('0 or more and below 1', lambda x: 0 <= x < 1, 'model.box_head.dropout'),
    ('0 to 5', lambda x: 0 <= x <= 5, 'model.backbone.frozen_stages'),
    ('4 or 8', lambda x: x in (4, 8), 'model.backbone.tdm_stride'),
    ('1 to 4', lambda x: 1 <= x <= 4, 'alternating.steps'),
    ('one of the levels 2 to 5', lambda x: 2 <= x <= 5, 'model.roi.canonical_level'),
    ('a finite number', math.isfinite, 'model.pixel_mean model.anchors.offset'),
)


def validate(config: Config) -> None:
    """Raises ConfigError for the first field whose value is impossible, alone or beside another."""
    _check_choices(config, '')
    for expected, holds, names in _LIMITS:
        for name in names.split():
            value = _value(config, name)
            if not all(math.isfinite(number) and holds(number) for number in _numbers(value)):
                raise ConfigError(f'{name} is {value}: expected {expected}')
    for name, fits, expected in _relations(config):
        if not fits:
            raise ConfigError(f'{name} is {_value(config, name)}: expected {expected}')


def _check_choices(node: Any, prefix: str) -> None:
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            _check_choices(value, f'{prefix}{f.name}.')
        choices = f.metadata.get('choices')
        if choices and value not in choices:
            close = difflib.get_close_matches(str(value), choices, 1, 0.5)
            hint = f'did you mean {close[0]}?' if close else f'expected one of {", ".join(choices)}'
            raise ConfigError(f'{prefix}{f.name} is {value!r}; {hint}')


def _relations(config: Config) -> tuple[tuple[str, bool, str], ...]:
    """(field, whether it fits, what is expected) where one number alone does not tell."""
    data, model, solver = config.data, config.model, config.solver
    anchors, backbone = model.anchors, model.backbone
    levels = 5 if backbone.maps == 'fpn' else 1
    shared = model.kind == 'mask_rcnn' and backbone.maps == 'c4'
    return (
        ('data.short_sides', bool(data.short_sides), 'at least one side'),
        ('data.test_scales', len(set(data.test_scales)) == len(data.test_scales), 'short sides that differ'),
        ('data.evaluation_batch_size', data.evaluation_batch_size == 1 or len(data.test_scales) < 2,
         '1 with several data.test_scales, in each of which other images share a canvas'),
        ('data.canvases', bool(data.canvases) and all(
            len(canvas) == 2 and canvas[0] % 32 == 0 and canvas[1] % 32 == 0 for canvas in data.canvases),
         '[height, width] pairs that 32 divides'),
        ('data.pad_multiple', data.pad_multiple % 32 == 0 or backbone.maps in ('c4', 'c5'),
         f'a multiple of 32 with model.backbone.maps={backbone.maps}, whose levels halve the one before'),
        ('model.pixel_mean', len(model.pixel_mean) == 3, 'three numbers'),
        ('model.pixel_std', len(model.pixel_std) == 3, 'three numbers'),
        ('model.backbone.maps', backbone.maps in BACKBONES[backbone.name].maps,
         f'{" or ".join(BACKBONES[backbone.name].maps)} with model.backbone.name={backbone.name}'),
        ('model.backbone.norm', backbone.norm != 'group' or BACKBONES[backbone.name].group_norm,
         f'frozen, batch or sync with model.backbone.name={backbone.name}, whose widths do not come in groups of 32'),
        ('model.backbone.fpn_norm', backbone.fpn_norm == 'none' or backbone.maps == 'fpn',
         f'none with model.backbone.maps={backbone.maps}, one map without an FPN'),
        ('model.anchors.sizes', len(anchors.sizes) == levels and bool(anchors.sizes[0]) and all(
            len(sizes) == len(anchors.sizes[0]) for sizes in anchors.sizes),
         'one list of sizes for each of P2..P6, all of one length: the levels share the RPN head' if levels > 1 else
         f'one list of all sizes, for the one map of model.backbone.maps={backbone.maps}'),
        ('model.anchors.ratios', bool(anchors.ratios), 'at least one ratio'),
        ('model.roi.aggregate', model.roi.aggregate == 'max' or model.roi.layer != 'pool',
         'max with model.roi.layer=pool'),
        ('model.roi.sampling_ratio', model.roi.sampling_ratio == 1 or model.roi.layer != 'pool',
         '1 with model.roi.layer=pool, which reads cells and takes no samples'),
        ('model.rpn.positive_fraction', int(model.rpn.batch_per_image * model.rpn.positive_fraction) >= 1,
         'at least 1 / model.rpn.batch_per_image, or no anchor is ever positive'),
        ('model.roi.positive_fraction', model.roi.sampling == 'ohem' or int(
            model.roi.batch_per_image * model.roi.positive_fraction) >= 1,
         'at least 1 / model.roi.batch_per_image, or no RoI is ever positive'),
        ('model.rpn.negative_iou', model.rpn.negative_iou <= model.rpn.positive_iou, 'at most model.rpn.positive_iou'),
        ('model.mask_head.pool_size', not shared or model.mask_head.pool_size == model.box_head.pool_size,
         'model.box_head.pool_size with model.backbone.maps=c4, whose last stage both share'),
        ('model.box_head.pool_size', not shared or model.box_head.pool_size % 2 == 0,
         'an even number with model.backbone.maps=c4, whose last stage halves it'),
        ('model.roi.negative_iou', model.roi.negative_iou is None or model.roi.negative_iou <= model.roi.positive_iou,
         'at most model.roi.positive_iou'),
        ('model.roi.background_iou', model.roi.background_iou <= (
            model.roi.positive_iou if model.roi.negative_iou is None else model.roi.negative_iou),
         'at most the IoU below which RoIs are negative, model.roi.negative_iou or else positive_iou'),
        ('model.box_head.dropout', not model.box_head.dropout or model.box_head.fully_connected > 0,
         '0 with model.box_head.fully_connected=0, which leaves no layer to drop from'),
        ('model.mask_head.class_agnostic',
         not model.mask_head.class_agnostic or model.mask_head.classifier == 'sigmoid',
         'false with model.mask_head.classifier=softmax, where classes compete'),
        ('model.cascade.box_weights', [len(weights) for weights in model.cascade.box_weights] == [4] * len(
            model.cascade.positive_iou), 'four numbers for each of model.cascade.positive_iou'),
        ('model.box_head.class_agnostic', model.box_head.class_agnostic or not model.cascade.positive_iou,
         'true with model.cascade, whose stages hand on one box of each RoI'),
        ('model.box_head.box_weights', len(model.box_head.box_weights) == 4, 'four numbers'),
        ('solver.milestones', solver.milestones == sorted(set(solver.milestones)), 'steps in ascending order'),
    )


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split('.'):
        value = getattr(value, part)
    return value


def _numbers(value: Any) -> Iterator[float]:
    """The numbers of a field: itself, or those of its (nested) list; none where it is null."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif value is not None:
        yield value
