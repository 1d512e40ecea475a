"""A network of a fixed size with one convolution, which converts in a second, for tests of formats."""
from __future__ import annotations

import numpy as np
import tensorflow as tf

from mrcnn_tf.serving.fixed_size import FixedNetwork

SIZE = (64, 64)


def network() -> FixedNetwork:
    """Finds one object, the whole image; its score and mask depend on the pixels."""
    rng = np.random.default_rng(0)
    kernel, bias = tf.Variable(rng.normal(0, .1, [3, 3, 3, 64]), dtype=tf.float32), tf.Variable(tf.zeros([64]))
    specs = [tf.TensorSpec([1, *SIZE, 3], name='images'), tf.TensorSpec([1, 2], name='sizes')]

    def detect(images: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        maps = tf.nn.relu(tf.nn.conv2d(images / 255., kernel, 1, 'SAME') + bias)
        masks = tf.sigmoid(tf.reduce_mean(tf.nn.avg_pool2d(maps, 16, 16, 'SAME'), axis=3))     # [1, 4, 4]
        return {'boxes': tf.concat([tf.zeros([1, 2]), sizes], axis=1)[:, None], 'masks': masks[:, None],
                'scores': tf.reduce_max(masks, axis=[1, 2])[:, None], 'labels': tf.ones([1, 1], tf.int32),
                'valid': tf.reduce_max(masks, axis=[1, 2])[:, None] > 0}

    call = tf.function(detect, specs, autograph=False)
    call.get_concrete_function()
    return FixedNetwork(call, specs, [kernel, bias])


def sample() -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its size."""
    images = np.random.default_rng(1).uniform(0, 255, [1, *SIZE, 3]).astype(np.float32)
    return images, np.array([[40, 64]], np.float32)


def check(run: object, expected: FixedNetwork, tolerance: float) -> None:
    """Assert that a loaded network answers like another one."""
    found, wanted = run(*sample()), expected.call(*sample())
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.numpy().dtype and found[name].shape == value.shape
        np.testing.assert_allclose(found[name].astype(float), value.numpy().astype(float), atol=tolerance, err_msg=name)
