"""Every number of the schema has a limit, and the defaults are those of the published recipe."""
from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from mrcnn_tf import config as settings
from mrcnn_tf.config import Config, ModelConfig
from tests.config.refusal import refusal


def _numeric(schema: Any, prefix: str = '') -> dict[str, str]:
    """Dotted name and declared type of every field that holds numbers."""
    fields = {}
    for f in dataclasses.fields(schema):
        inner: Any = f.default_factory
        if dataclasses.is_dataclass(inner):
            fields.update(_numeric(inner, f'{prefix}{f.name}.'))
        elif 'int' in str(f.type) or 'float' in str(f.type):
            fields[prefix + f.name] = str(f.type)
    return fields


def _out_of_range(value: str, kind: str) -> str:
    depth = kind.count('list')
    return '[' * depth + value + ']' * depth


_NUMERIC = _numeric(Config)
_MAY_BE_NEGATIVE = ('model.pixel_mean', 'model.anchors.offset')


def test_numeric_fields_of_every_depth_are_found() -> None:
    assert {'solver.steps': 'int', 'solver.clip_norm': 'float | None', 'model.anchors.sizes': 'list[list[float]]'
            }.items() <= _NUMERIC.items()


@pytest.mark.parametrize('name', [name for name in _NUMERIC if name not in _MAY_BE_NEGATIVE])
def test_every_number_has_a_limit(name: str) -> None:
    text = _out_of_range('-1', _NUMERIC[name])
    assert re.match(rf'{re.escape(name)} is \[*-1(\.0)?\]*: expected ', refusal('base', f'{name}={text}'))


@pytest.mark.parametrize('name', [name for name, kind in _NUMERIC.items() if 'float' in kind])
@pytest.mark.parametrize('text', ['.nan', '.inf'])
def test_every_float_is_finite(name: str, text: str) -> None:
    assert refusal('base', f'{name}={_out_of_range(text, _NUMERIC[name])}').startswith(f'{name} is ')


def test_mask_rcnn_r50_fpn_1x_has_the_numbers_of_detectron2() -> None:
    """Numbers of Detectron2's Base-RCNN-FPN.yaml and mask_rcnn_R_50_FPN_1x.yaml."""
    config = settings.load('mask_rcnn_r50_fpn_1x')
    solver, model, data = config.solver, config.model, config.data
    assert (solver.optimizer, solver.learning_rate, solver.momentum, solver.weight_decay) == ('sgd', 0.02, 0.9, 1e-4)
    assert (solver.steps, solver.milestones, solver.gamma, solver.schedule) == (90000, [60000, 80000], 0.1, 'step')
    assert (solver.warmup_steps, solver.warmup_factor, solver.reference_batch) == (1000, 0.001, 16)
    assert solver.decay_biases and solver.clip_norm is None
    assert (model.rpn.pre_nms_train, model.rpn.pre_nms_test) == (2000, 1000)
    assert (model.rpn.post_nms_train, model.rpn.post_nms_test, model.rpn.smooth_l1_beta) == (1000, 1000, 0.0)
    assert (model.roi.batch_per_image, model.roi.aligned, model.roi.sampling_ratio) == (512, True, 0)
    assert (model.backbone.frozen_stages, model.backbone.norm, model.backbone.weights) == (2, 'frozen', 'imagenet')
    assert (data.short_sides, data.long_side) == ([640, 672, 704, 736, 768, 800], 1333)


def test_canvases_of_mask_rcnn_r50_fpn_1x_fit_every_aspect_ratio() -> None:
    """Sides of an 800/1333 resize: the short one at most 800, the long one at most 1333, either way round."""
    canvases = settings.load('mask_rcnn_r50_fpn_1x').data.canvases
    for height, width in [(800, 1333), (1333, 800), (800, 800), (800, 1067), (1067, 800), (444, 1333)]:
        assert any(canvas[0] >= height and canvas[1] >= width for canvas in canvases)


@pytest.mark.parametrize(('kind', 'needs'), [
    ('mask_rcnn', ('masks',)), ('fast_rcnn', ('proposals',)), ('faster_rcnn', ()), ('rpn', ())])
def test_optional_keys_of_a_training_batch(kind: str, needs: tuple[str, ...]) -> None:
    assert ModelConfig(kind=kind).needs == needs
