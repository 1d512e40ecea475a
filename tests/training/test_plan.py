"""FLOPs of operations by hand, and the parts of a prediction."""
from __future__ import annotations

import pytest
import tensorflow as tf

from mrcnn_tf.config import Config, load
from mrcnn_tf.training import plan


def test_flops_of_convolutions_and_products_by_hand() -> None:
    @tf.function(autograph=False)
    def function(image: tf.Tensor, kernel: tf.Tensor, left: tf.Tensor, right: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([image, kernel])
            total = tf.reduce_sum(tf.nn.conv2d(image, kernel, 2, 'SAME'))
        return [*tape.gradient(total, [image, kernel]), tf.matmul(left, right, transpose_a=True)]

    graph = function.get_concrete_function(*map(tf.TensorSpec, ([1, 8, 6, 3], [3, 3, 3, 5], [7, 2], [7, 4]))).graph
    found = {each.type: plan.flops(each) for each in graph.get_operations() if plan.flops(each)}
    convolution = 2 * (4 * 3 * 5) * (3 * 3 * 3)        # values of the result, products for each
    assert found == {'Conv2D': convolution, 'Conv2DBackpropInput': convolution, 'Conv2DBackpropFilter': convolution,
                     'MatMul': 2 * (2 * 4) * 7}


def test_the_work_of_the_mask_head_by_hand() -> None:
    """32 RoIs, 64 channels: four 3 x 3 convolutions, and one of 1 x 1 to 4 x 64, each forward and for two gradients."""
    of_masks, without = (plan.count(load('mask_rcnn_r18_fpn_cpu_demo', [f'model.kind={kind}']), (128, 128)).flops
                         for kind in ('mask_rcnn', 'faster_rcnn'))
    convolutions = 3 * 2 * 32 * 14 * 14 * 64 * (4 * 9 * 64 + 4 * 64)
    assert convolutions < of_masks - without < 1.01 * convolutions


def test_a_prediction_by_hand() -> None:
    gpu = plan.Gpu(flops=1e12, half_flops=4e12, bandwidth=1e11, memory=1e10, link=1e10)
    work = plan.Work(flops=8e10, traffic=4e9, kept=5e8, parameters=2_000_000, trained=1_000_000)
    config = Config()
    config.data.batch_size, config.solver.optimizer = 8, 'sgd'
    found = plan.predict(work, config, gpu, count=2)
    # 4 images each; 0.8 of the peaks; the ring sends each of 4 MB once to each side; 1.6 x as much stays as on one GPU.
    assert (found.compute, found.memory, found.network) == pytest.approx((.4, .2, .0005))
    assert found.bytes == pytest.approx(4 * (2e6 + 2 * 1e6) + 4 * 1.6 * 5e8 + 1.5e9) and found.bound == 'arithmetic'
    assert found.images_per_second == pytest.approx((8 / .7005, 8 / .6005))
    config.train.precision = 'mixed_bfloat16'
    half = plan.predict(work, config, gpu, count=2, network=1e8)
    assert (half.compute, half.memory, half.network) == pytest.approx((.1, .1, .05))
    lines = list(plan.describe(found, work, gpu, (64, 64), seconds=.01))
    assert lines[-1].endswith('1 to 1 cores of its kind for all GPUs') and ': fits' in lines[-2]
