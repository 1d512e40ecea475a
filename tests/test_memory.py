"""The memory that docstrings promise, by XLA's own analysis."""
from __future__ import annotations

import pytest
import tensorflow as tf

from mrcnn_tf.layers import roi
from mrcnn_tf.layers.normalization import NO_NORM, ConvNorm
from mrcnn_tf.layers.recomputation import recomputation, run_stage
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import targets
from tests.xla_memory import compile_only, temporary_bytes

ANCHORS, OBJECTS = 279279, 100
MAPS = [(2, 800 // stride, 1344 // stride, 256) for stride in (4, 8, 16, 32)]
MAP_BYTES = sum(4 * b * h * w * c for b, h, w, c in MAPS)


@pytest.fixture(scope='module')
def planned(tmp_path_factory) -> dict[str, int]:
    return temporary_bytes(__name__, tmp_path_factory.mktemp('dump'))


@pytest.mark.slow
@pytest.mark.parametrize('batch', [2, 16])
@pytest.mark.both_stacks
def test_matching_holds_a_few_arrays_of_a_number_per_anchor(planned, batch) -> None:
    """Less than ten float32 [B, A], 22 MB at batch 2; an array [B, G, A] alone is a hundred."""
    assert ANCHORS * batch < planned[f'match_{batch}'] < 10 * 4 * batch * ANCHORS


@pytest.mark.slow
@pytest.mark.both_stacks
def test_roi_align_does_not_grow_with_the_samples(planned) -> None:
    """Forward and backward of 512 boxes an image: the gradient of all maps as one table, a copy, and little more."""
    assert all(MAP_BYTES <= planned[f'align_{ratio}'] < 380e6 for ratio in (2, 3, 0))
    assert planned['align_3'] == pytest.approx(planned['align_2'], rel=1e-3)
    assert planned['align_0'] <= planned['align_2'] + MAP_BYTES     # TF 2.15 copies the table of adaptive samples alone


@pytest.mark.slow
@pytest.mark.both_stacks
def test_roi_align_of_one_feature_map_holds_a_few_buckets(planned) -> None:
    """The result of C4's 1024 boxes is 822 MB; a bucket's, of which the gradient holds a few, is 26 MB."""
    assert planned['align_c4'] < 10 * 26e6


@pytest.mark.slow
@pytest.mark.both_stacks
def test_nms_holds_the_overlaps_of_a_tile(planned) -> None:
    """All overlaps of twice 12,000 boxes are 1152 MB as float32, 288 MB as bool."""
    assert planned['nms'] < 130e6


@pytest.mark.slow
def test_recomputation_keeps_the_input_of_each_segment(planned) -> None:
    """Of eight convolutions, whose results are 8.4 MB each, kept are two, and at the end those of one segment."""
    assert planned['recomputed_1'] < .7 * planned['recomputed_0']
    assert planned['recomputed_0'] > 8 * 8.4e6


def _compile_stage(active: bool) -> None:
    stage = [ConvNorm(NO_NORM, 32, 3) for _ in range(8)]
    shape = [2, 128, 256, 32]
    for layer in stage:
        layer(tf.zeros([1, 1, 1, 32]))

    def gradient(x: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape, recomputation(active):
            y = run_stage(stage, x, training=True)
        return tape.gradient(y, [layer.conv.kernel for layer in stage], upstream)

    compile_only(f'recomputed_{active:d}', gradient, [tf.TensorSpec(shape)] * 2)


def _compile_match(batch: int) -> None:
    flags = tf.TensorSpec([batch, OBJECTS], tf.bool)
    compile_only(f'match_{batch}', lambda *args: targets.match.python_function(*args, .7, .3, True, .7),
                 [tf.TensorSpec([ANCHORS, 4]), tf.TensorSpec([batch, OBJECTS, 4]), flags, flags])


def _compile_align(name: str, layer: roi.RoIAlign, maps: list[tuple[int, ...]]) -> None:
    def forward_and_backward(boxes: tf.Tensor, upstream: tf.Tensor, *maps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch(maps)
            out = layer(list(maps), boxes)
        return out, *tape.gradient(out, maps, upstream)

    compile_only(name, forward_and_backward, [
        tf.TensorSpec([2, 512, 4]), tf.TensorSpec([2, 512, layer.size, layer.size, maps[0][-1]]),
        *map(tf.TensorSpec, maps)])


if __name__ == '__main__':
    _compile_stage(False)
    _compile_stage(True)
    for size in (2, 16):
        _compile_match(size)
    for samples in (0, 2, 3):
        _compile_align(f'align_{samples}', roi.RoIAlign(7, (4, 8, 16, 32), samples, True, 'xla'), MAPS)
    _compile_align('align_c4', roi.RoIAlign(14, (16,), 0, True, 'xla'), [(2, 50, 84, 1024)])
    compile_only('nms', lambda boxes, scores: box_ops.nms(boxes, scores, .7, 2000, 'xla'),
                 [tf.TensorSpec([2, 12000, 4]), tf.TensorSpec([2, 12000])])
