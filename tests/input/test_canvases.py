"""Canvases from the sizes of images, worked out by hand."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.config import DataConfig
from mrcnn_tf.input import canvases
from tests.input.small_sets import example, write_set

COCO = DataConfig(short_sides=[640, 800], long_side=1333)


def test_sizes_are_counted_without_decoding(tmp_path: pathlib.Path) -> None:
    manifest = write_set(tmp_path, [example(1), example(2), example(3, size=(9, 4), objects=[])])
    assert canvases.image_sizes(manifest) == {(8, 16): 2, (9, 4): 1}
    assert sum(canvases.image_sizes(manifest, most=2).values()) == 2


@pytest.mark.parametrize(('sizes', 'expected'), [
    ({(480, 640): 5, (640, 480): 5}, [[800, 1088], [800, 1344], [1088, 800], [1344, 800]]),
    ({(480, 640): 99, (640, 480): 1}, [[800, 1088], [800, 1344], [1344, 800]]),      # too few portraits are worth it
    ({(500, 500): 5}, [[800, 800], [800, 1344], [1344, 800]]),
    ({(1000, 2000): 3}, [[672, 1344], [800, 1344], [1344, 800]])],
    ids=['both orientations', 'nearly all landscape', 'square', 'wide'])
def test_proposed_canvases(sizes: dict[tuple[int, int], int], expected: list[list[int]]) -> None:
    assert canvases.propose(sizes, COCO) == expected


def test_one_canvas_where_the_rule_gives_one_size() -> None:
    data = DataConfig(short_sides=[384], long_side=384, test_short_side=384, test_long_side=384)
    assert canvases.propose({(256, 256): 4}, data) == [[384, 384]]


def test_padding_is_relative_to_the_resized_images() -> None:
    cost = canvases.padding({(100, 100): 1, (100, 200): 3}, DataConfig(short_sides=[64], long_side=128),
                            [[64, 128]])
    assert cost.area == pytest.approx(4 * 2 / (1 + 3 * 2)) and cost.scale == .64
