"""Compares predictions of `mrcnn plan` with published training speeds, and prints the table of docs/scaling.md.

python -m benchmarks.published_speeds
"""
from __future__ import annotations

import argparse
import dataclasses
import math

from mrcnn_tf import config as configuration
from mrcnn_tf.training import plan

LARGE, USUAL = (832, 1344), (800, 1088)
# name, kind and number of GPUs, half precision, images per step, canvas, published images/s
PUBLISHED = [
    ('Detectron2', 'v100', 8, False, 16, USUAL, 61.3),
    ('MMDetection', 'v100', 8, False, 16, USUAL, 60.4),
    ('torchvision', 'v100', 8, False, 16, USUAL, 58.6),
    ('tensorpack', 'v100', 8, False, 8, USUAL, 50.),
    ('NVIDIA, TensorFlow 2', 'v100', 1, False, 4, LARGE, 8.5),
    ('NVIDIA, TensorFlow 2', 'v100', 1, True, 4, LARGE, 19.4),
    ('NVIDIA, TensorFlow 2', 'v100', 8, True, 32, LARGE, 58.3),
    ('NVIDIA, TensorFlow 2', 'a100', 1, False, 4, LARGE, 18.4),
    ('NVIDIA, TensorFlow 2', 'a100', 1, True, 4, LARGE, 28.6),
    ('NVIDIA, TensorFlow 2', 'a100', 8, False, 32, LARGE, 103.8),
    ('NVIDIA, TensorFlow 2', 'a100', 8, True, 32, LARGE, 114.5),
    ('NVIDIA, PyTorch', 'v100', 8, True, 96, USUAL, 135.),
    ('NVIDIA, PyTorch', 'a100', 1, True, 12, USUAL, 24.),
    ('NVIDIA, PyTorch', 'a100', 8, True, 96, USUAL, 209.),
    ('MLPerf', 'h100', 8, True, 96, USUAL, 1391.)]


def of_others(work: plan.Work, canvas: tuple[int, int]) -> plan.Work:
    """Return the work of the published implementations, given ours.

    The gradient of the RPN's convolutions runs over all cells, and the mask head gives the masks of all classes.
    """
    cells = sum(math.ceil(canvas[0] / stride) * math.ceil(canvas[1] / stride) for stride in (4, 8, 16, 32, 64))
    rpn = 2 * 2 * cells * 256 * (9 * 256 + 15)
    masks = 3 * 2 * 128 * 28 * 28 * 256 * 79
    return dataclasses.replace(work, flops=work.flops + rpn + masks)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    config = configuration.load('mask_rcnn_r50_fpn_1x', ['model.backbone.weights=none'])
    works = {canvas: of_others(plan.count(config, canvas), canvas) for canvas in (LARGE, USUAL)}
    print('| implementation | GPUs | precision | published | GPUs wait for the host | off by | they never wait | '
          'off by |\n|---|---|---|---|---|---|---|---|')
    for name, kind, count, half, batch, canvas, speed in PUBLISHED:
        config.data.batch_size = batch
        config.train.precision = 'mixed_bfloat16' if half else 'float32'
        predicted = plan.predict(works[canvas], config, plan.GPUS[kind], count).images_per_second
        cells = ' | '.join(f'{each:.0f} | {each / speed - 1:+.0%}' for each in predicted)
        precision = 'half' if half else 'float32' if kind == 'v100' else 'TF32'
        print(f'| {name} | {count} x {kind.upper()} | {precision} | {speed:g} | {cells} |')


if __name__ == '__main__':
    main()
