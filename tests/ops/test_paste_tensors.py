"""Pasting and COCO's run-length code in a graph, against the numpy functions and pycocotools."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask

from mrcnn_tf.ops import paste, paste_tensors
from mrcnn_tf.ops.paste_tensors import PastedMask

RNG = np.random.default_rng(0)
SIZE = (37, 53)
BOXES = {
    'inside': (3.2, 5.1, 20.7, 41.4), 'one pixel': (8, 9, 9, 10), 'the image': (0, 0, *SIZE),
    'larger': (-9, -7, 60, 70), 'at the corner': (30.4, 50.2, 37, 53), 'without an area': (4, 4, 4, 9),
    'beyond': (50, 60, 70, 80), 'full height': (-80, 10, 99, 20)}


@pytest.fixture(scope='module', params=['pixel_center', 'detectron'])
def pasting(request: pytest.FixtureRequest) -> tuple[str, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
    @tf.function(autograph=False)
    def pasted(mask: tf.Tensor, box: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = paste_tensors.paste(mask, box, tf.constant(SIZE), request.param)
        return paste_tensors.full(found), paste_tensors.run_length_text(paste_tensors.runs(found))

    return request.param, pasted


@pytest.mark.parametrize('box', BOXES.values(), ids=BOXES)
def test_masks_of_an_image(pasting: tuple[str, Callable[..., tuple[tf.Tensor, tf.Tensor]]], box: tuple[float]) -> None:
    dialect, pasted = pasting
    for mask in (RNG.random((28, 28)), np.ones((28, 28)), np.zeros((28, 28))):
        mask, corners = mask.astype(np.float32), np.float32(box)
        found, text = pasted(tf.constant(mask), tf.constant(corners))
        expected, = paste.paste(mask[None], corners[None], *SIZE, dialect)
        np.testing.assert_array_equal(found, expected)
        assert text.numpy().decode() == paste.encode(expected)['counts']


@pytest.mark.parametrize('pixels', [
    np.zeros((1, 1)), np.ones((1, 1)), np.ones((70000, 1)), np.eye(9), RNG.random((40, 70)) < .5,
    RNG.random((300, 1)) < .01, np.arange(12).reshape(3, 4) % 2],
    ids=['zero', 'one', 'a long run', 'a diagonal', 'noise', 'rare', 'stripes'])
def test_the_code_of_any_mask(pixels: np.ndarray) -> None:
    pixels = pixels.astype(np.uint8)
    mask = PastedMask(tf.constant(pixels.T.astype(bool)), tf.constant([0, 0]), tf.constant(pixels.shape))
    text = paste_tensors.run_length_text(paste_tensors.runs(mask))
    assert text.numpy() == coco_mask.encode(np.asfortranarray(pixels))['counts']
