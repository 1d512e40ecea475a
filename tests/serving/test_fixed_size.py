"""The network of a fixed size: sizes of canvases, and an image on one."""
from __future__ import annotations

import types

import numpy as np
import pytest

from mrcnn_tf.config import DataConfig
from mrcnn_tf.serving import fixed_size
from mrcnn_tf.serving.network import ExportError

DATA = DataConfig(test_short_side=32, test_long_side=64)


@pytest.mark.parametrize('image, canvas, expected', [
    ((40, 80), (64, 64), (32, 64)), ((80, 40), (64, 64), (64, 32)), ((16, 16), (64, 64), (32, 32)),
    ((40, 80), (32, 32), (16, 32)), ((30, 90), (64, 32), (10, 32)), ((90, 30), (32, 64), (32, 10)),
    ((1, 300), (32, 32), (1, 32))],
    ids=['landscape', 'portrait', 'enlarged', 'smaller canvas', 'narrow canvas', 'low canvas', 'a line'])
def test_an_image_is_resized_by_the_rule_and_then_to_fit(
        image: tuple[int, int], canvas: tuple[int, int], expected: tuple[int, int]) -> None:
    batch = fixed_size.batch_of_one(np.full([*image, 3], 200, np.uint8), DATA, canvas)
    assert batch['images'].shape == [1, *canvas, 3] and batch['original_sizes'].numpy().tolist() == [list(image)]
    assert batch['sizes'].numpy().tolist() == [list(expected)]
    filled = np.zeros(canvas)
    filled[:expected[0], :expected[1]] = 200
    np.testing.assert_array_equal(batch['images'][0, :, :, 1], filled)


def test_the_default_canvas_holds_every_image() -> None:
    assert fixed_size.default_size(DATA) == (64, 64)
    assert fixed_size.default_size(DataConfig(test_short_side=800, test_long_side=1333)) == (1344, 1344)


def test_the_resize_rule_survives_json() -> None:
    assert fixed_size.data_config(fixed_size.resize_rule(DATA)).test_long_side == 64
    with pytest.raises(TypeError):
        fixed_size.data_config({'new': 1})


@pytest.mark.parametrize('size, message', [
    ((100, 64), 'size 100 64: height and width must be multiples of 32, such as 96 64'),
    ((64, 0), 'size 64 0: .* such as 64 32')], ids=['no multiple', 'zero'])
def test_a_size_that_does_not_fit_the_strides(size: tuple[int, int], message: str) -> None:
    detector = types.SimpleNamespace(inputs_read=(), engine='xla')
    with pytest.raises(ExportError, match=message):
        fixed_size.fixed_network(detector, size, 32)


def test_another_engine() -> None:
    detector = types.SimpleNamespace(inputs_read=(), engine='op')
    with pytest.raises(ExportError, match="has the 'op' engine; build it with engine='xla' for images of fixed size"):
        fixed_size.fixed_network(detector, (64, 64), 32)
