"""The stages of an inference on a CPU, each against the time that its arithmetic takes at the machine's peak rate.

    python -m benchmarks.stages --precision bfloat16

Every stage is a graph of its own, with batch normalization folded, and gets the results of those before it. The peak is
the faster of a product of matrices and a 3x3 convolution, measured before and after the stages. Prints a table: the
arithmetic of each stage as TensorFlow's profiler counts it, the floor in seconds, the median of the runs and its ratio
to the floor, if that is above 10 ms. In float32 a stage may take less, because Winograd's algorithm needs fewer
products. The whole network in one graph may take less than the sum, because stages overlap there.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mrcnn_tf.cli.benchmark.measuring import OthersLoad
from mrcnn_tf.cli.benchmark.networks import random_detector
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.layers.normalization import FoldedWeights, folded_normalization, folded_weights
from mrcnn_tf.layers.winograd import winograd_convolutions
from mrcnn_tf.ops import detections as detection_ops
from mrcnn_tf.ops import proposals as proposal_ops


def seconds(work: Callable[[], Any], runs: int) -> list[float]:
    """Return the times of `work`, without those of two calls before, in which TensorFlow prepares itself."""
    times = []
    for _ in range(runs + 2):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times[2:]


def peak(precision: str) -> float:
    """Return FLOP/s of the faster of a product of matrices and a convolution, the best of five runs each."""
    dtype = tf.as_dtype(precision)
    square, image = tf.ones([4096, 4096], dtype), tf.ones([1, 100, 152, 256], dtype)
    kernel = tf.ones([3, 3, 256, 256], dtype)
    product = tf.function(lambda: tf.matmul(square, square))
    convolution = tf.function(lambda: tf.nn.conv2d(image, kernel, 1, 'SAME'))
    return max(2 * 4096 ** 3 / min(seconds(product, 5)),
               2 * 100 * 152 * 9 * 256 ** 2 / min(seconds(convolution, 5)))


def flops(graph: tf.Graph) -> int:
    """Return the floating-point operations that TensorFlow's profiler counts in a graph."""
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    found = tf.compat.v1.profiler.profile(graph, cmd='op', options=options.with_empty_output().build())
    return int(found.total_float_ops)


class Stages:
    """Runs functions of the detector one after the other and measures each.

    Attributes:
        rows: name, FLOPs and median in seconds of each.
    """

    def __init__(self, folded: FoldedWeights, runs: int) -> None:
        self.rows: list[tuple[str, int, float]] = []
        self._folded, self._runs = folded, runs

    def __call__(self, name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        graph = tf.function(function, autograph=False)
        with folded_normalization(self._folded):
            # The arithmetic of the network, not that of Winograd's algorithm, which does the same with fewer products.
            arithmetic = flops(tf.function(function, autograph=False).get_concrete_function(*inputs).graph)
            with winograd_convolutions('op', training=False):
                times = seconds(lambda: graph(*inputs), self._runs)
                result = graph(*inputs)
        self.rows.append((name, arithmetic, statistics.median(times)))
        return result


def run(detector: Detector, size: tuple[int, int], runs: int) -> Stages:
    """Return the measured stages of a detector with masks on one image of noise."""
    stages = Stages(folded_weights(detector), runs)
    images = tf.random.stateless_uniform([1, *size, 3], [1, 2], 0., 255.)
    sizes = tf.constant([size], tf.float32)
    proposer, box, mask = detector.proposer, detector.box, detector.branches[0]
    normalized = stages('normalize', detector.normalize, images, sizes)
    features = stages('backbone and FPN', detector.backbone, normalized)
    scores = stages('RPN head', proposer.head, features)
    anchors = proposer.anchors(features, canvas=size)
    proposals = stages('proposals', lambda scores: proposal_ops.propose(
        *scores, anchors, sizes, proposer.config, False, proposer.engine), scores)
    pooled = stages('box RoIAlign', box.roi_features.pool, features, proposals.boxes)
    logits, deltas = stages('box head', box.stages[0].head, pooled)
    detections = stages('selection', lambda logits, deltas: box.select(detection_ops.candidates(
        proposals.boxes, proposals.valid, logits, deltas, sizes, box.stages[0].box_weights)), logits, deltas)
    pooled = stages('mask RoIAlign', mask.roi_features.pool, features, detections['boxes'])
    stages('mask head', lambda pooled, labels: tf.sigmoid(mask.head(pooled, labels=labels)), pooled,
           detections['labels'])
    return stages


def main() -> None:
    """Print the table of the command line's config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='mask_rcnn_r50_fpn_1x', help='with an FPN and masks')
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1216])
    parser.add_argument('--runs', type=int, default=7)
    given = parser.parse_args()
    detector, _ = random_detector(given.config, [], tuple(given.size), given.precision)
    with OthersLoad() as load:
        before = peak(given.precision)
        stages = run(detector, tuple(given.size), given.runs)
        rate = max(before, peak(given.precision))
    print(f'{given.precision}: peak {rate / 1e9:.0f} GFLOP/s, other processes used {load.cores:.2f} cores\n')
    print('| stage | GFLOP | floor, s | median, s | ratio |\n|---|---|---|---|---|')
    total = 'sum', sum(row[1] for row in stages.rows), sum(row[2] for row in stages.rows)
    for name, count, median in [*stages.rows, total]:
        floor = count / rate
        ratio = f'{median / floor:.2f}' if floor > .01 else ''
        print(f'| {name} | {count / 1e9:.1f} | {floor:.3f} | {median:.3f} | {ratio} |')


if __name__ == '__main__':
    main()
