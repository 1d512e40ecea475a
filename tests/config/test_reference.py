"""The reference of all settings: every field has a description, and defaults, limits and comments are read."""
from __future__ import annotations

import pytest

from mrcnn_tf.config import reference
from mrcnn_tf.config.reference import Setting

_SETTINGS = {setting.name: setting for section in reference.sections() for setting in section.settings}


@pytest.mark.parametrize('name', _SETTINGS)
def test_every_setting_has_a_description(name: str) -> None:
    assert _SETTINGS[name].description, f'{name}: say in a comment of mrcnn_tf/config/schema.py what it sets'


@pytest.mark.parametrize('expected', [
    Setting('model.rpn.negative_iou', 'float', .3, '≥ 0, ≤ 1',
            'anchors of less than this IoU are negative (Faster 3.1.2)'),
    Setting('model.channel_order', 'str', 'bgr', 'bgr, rgb',
            'dialect: order of colors that the weights were trained with'),
    Setting('model.pixel_mean', 'list[float]', [103.53, 116.28, 123.675], 'three numbers',
            'subtracted, in channel_order, from pixels in 0..255')], ids=['limits', 'choices', 'rule of a list'])
def test_type_default_permitted_values_and_description_are_those_of_the_schema(expected: Setting) -> None:
    assert _SETTINGS[expected.name] == expected


def test_sections_follow_the_schema_and_hold_their_own_settings_only() -> None:
    names = [section.name for section in reference.sections()]
    assert names[:4] == ['data', 'data.augment', 'model', 'model.backbone'] and '' not in names
    assert all(setting.name.rpartition('.')[0] == section.name
               for section in reference.sections() for setting in section.settings)


def test_a_comment_belongs_to_the_field_on_its_line_or_directly_below_it() -> None:
    source = ('class A:\n    """# no comment."""\n    # over two\n    # lines\n    x: int = f(1,   # first\n'
              '               2)  # second\n    # of nothing\n\n    y: str = "# text"\n    z = 3  # of no field\n')
    assert reference.field_comments(source) == {('A', 'x'): 'over two lines; first second', ('A', 'y'): ''}


def test_the_legend_explains_the_sources() -> None:
    assert 'D2 = Detectron2' in reference.legend()
