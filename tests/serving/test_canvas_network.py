"""A network on several canvases: a detector that reports what it is given."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import ConfigError, DataConfig
from mrcnn_tf.serving.canvas_network import canvas_network
from mrcnn_tf.serving.network import ExportError
from mrcnn_tf.serving.signatures import Network

DATA = DataConfig(test_short_side=32, test_long_side=64, canvases=[[32, 32], [32, 64], [64, 32]])


class Reporter:
    """A detector whose box has the sides of the canvas and those of the image's own canvas; its score is a sum."""

    def __init__(self, engine: str = 'xla') -> None:
        self.engine, self.inputs_read, self.factor = engine, ('images', 'sizes'), tf.Variable(2.)

    def __call__(self, batch: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        assert batch['images'].shape.is_fully_defined() and not training
        canvas = tf.constant([[float(side) for side in batch['images'].shape[1:3]]])
        return {'boxes': tf.concat([canvas, batch['padded_sizes']], axis=1)[:, None],
                'scores': self.factor * tf.reduce_sum(batch['images'])[None, None]}

    def _flatten_layers(self) -> list[tf.Module]:
        return []

    def output_spec(self) -> dict[str, tf.TensorSpec]:
        return {'boxes': tf.TensorSpec([1, 4]), 'scores': tf.TensorSpec([1])}


@pytest.fixture(scope='module')
def network() -> Network:
    return canvas_network(Reporter(), DATA, 'pixel_center')


@pytest.mark.parametrize('size, own, canvas', [
    ((20, 30), (32, 32), (32, 32)), ((32, 32), (32, 32), (32, 32)), ((32, 33), (32, 64), (32, 64)),
    ((64, 1), (64, 32), (64, 32)), ((5, 40), (64, 64), (32, 64))],
    ids=['padded', 'exact', 'landscape', 'portrait', 'on a larger canvas before'])
def test_the_smallest_canvas_that_holds_the_image(
        network: Network, size: tuple[int, int], own: tuple[int, int], canvas: tuple[int, int]) -> None:
    image = np.zeros([1, *own, 3], np.float32)
    image[:, :size[0], :size[1]] = 1.
    found = tf.function(network.call)(tf.constant(image), tf.constant([size], tf.float32))
    alone = [-(-side // 32) * 32 for side in size]
    assert found['boxes'].numpy().tolist() == [[[*canvas, *alone]]]
    assert found['scores'].numpy().tolist() == [[2. * 3 * size[0] * size[1]]]


def test_the_canvases_share_the_weights(network: Network) -> None:
    assert len(network.variables) == 1


def test_what_xla_cannot_compile() -> None:
    with pytest.raises(ConfigError, match=r'none of \[\[32, 32\]\] holds an image of 32 x 64'):
        canvas_network(Reporter(), DataConfig(test_short_side=32, test_long_side=64, canvases=[[32, 32]]), '')
    with pytest.raises(ExportError, match="the detector has the 'op' engine; build it with engine='xla'"):
        canvas_network(Reporter('op'), DATA, '')
