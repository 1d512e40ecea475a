"""Compares detections on fixed canvases with detections on a canvas of each image's own size.

    python -m benchmarks.canvas_effect --model runs/torchvision images/*.jpg

Each image passes through the model three times:

1. on a canvas of its own size, as in `mrcnn predict`;
2. on the smallest of `data.canvases` that holds it, without the anchors outside its own canvas, as in evaluation
   with the 'xla' engine;
3. on the same fixed canvas with all anchors.

Prints how many detections of the first pass the other two find again: a detection of the same class, with all edges
within half a pixel and the score within 0.01.
"""
from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.input import images
from mrcnn_tf.serving.sources import read_image
from mrcnn_tf.weights.model_directory import restore_model

PIXELS, SCORE = .5, .01


def batches(image: np.ndarray, data: DataConfig) -> tuple[dict[str, tf.Tensor], ...]:
    """Return three batches of one image: on its own canvas; on a fixed one with `padded_sizes`; on it without them."""
    batch = images.batch_of_one(tf.constant(image, tf.float32), data)
    own = {key: batch[key] for key in ('images', 'sizes')}
    canvas = own['images'][0]
    shape = tf.cast(own['sizes'][0], tf.int32)
    padded = images.pad(canvas[:shape[0], :shape[1]], images.choose_canvas(shape, data.canvases))[None]
    fixed = {**own, 'images': padded}
    return own, {**fixed, 'padded_sizes': tf.constant([canvas.shape[:2]], tf.float32)}, fixed


def found_again(expected: Mapping[str, tf.Tensor], other: Mapping[str, tf.Tensor]) -> int:
    """Return how many of the expected detections of an image are among those of the other pass."""
    one, two = ({name: value[0].numpy()[side['valid'][0].numpy()] for name, value in side.items() if name != 'masks'}
                for side in (expected, other))
    if not len(two['boxes']):
        return 0
    near = np.abs(one['boxes'][:, None] - two['boxes']).max(-1) <= PIXELS
    near &= np.abs(one['scores'][:, None] - two['scores']) <= SCORE
    return int((near & (one['labels'][:, None] == two['labels'])).any(1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, help='model directory')
    parser.add_argument('images', nargs='+')
    arguments = parser.parse_args()
    model, config, _ = restore_model(arguments.model)
    images.check_canvases(config.data, training=False)
    detect = tf.function(lambda batch: model(batch, training=False), autograph=False, reduce_retracing=True)
    totals, moved, smallest = np.zeros(3, int), 0, 1.
    for path in arguments.images:
        own, masked, fixed = batches(read_image(path), config.data)
        moved += own['images'].shape != fixed['images'].shape
        expected = detect(own)
        counts = [int(tf.reduce_sum(tf.cast(expected['valid'], tf.int32))),
                  *(found_again(expected, detect(batch)) for batch in (masked, fixed))]
        totals += counts
        smallest = min(smallest, counts[1] / max(counts[0], 1))
    print(f'{len(arguments.images)} images, {moved} on another canvas than their own; {totals[0]} detections')
    print(f'found again on the fixed canvas: {totals[1]} ({totals[1] / totals[0]:.1%}), fewest of one image '
          f'{smallest:.1%}; with all anchors competing: {totals[2]} ({totals[2] / totals[0]:.1%})')


if __name__ == '__main__':
    main()
