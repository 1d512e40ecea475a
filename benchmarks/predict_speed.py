"""Images per second of `mrcnn predict --output NAME.json`, by the size of batches and the number of threads.

    python -m benchmarks.predict_speed MODEL IMAGE...

Each setting runs three times, in turn, after one run for tracing; the best is printed.
"""
from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import mrcnn_tf as m
from mrcnn_tf.serving.coco_file import CocoFile
from mrcnn_tf.serving.predict_set import find, predict_set

SETTINGS = [(batch, threads) for batch in (1, 4) for threads in (1, 2)]
REPEATS = 3


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='model directory or exported model')
    parser.add_argument('images', nargs='+', help='image files, directories of them, or one manifest')
    given = parser.parse_args()
    predictor, rates = m.load_predictor(given.model), dict.fromkeys(SETTINGS, 0.)
    with tempfile.TemporaryDirectory() as directory:
        for repeat in range(REPEATS + 1):
            for batch, threads in SETTINGS:
                total, images = find(given.images)
                file = CocoFile(pathlib.Path(directory) / f'{repeat}-{batch}-{threads}.json', given.model, .5)
                begin = time.perf_counter()
                predict_set(images, predictor, file, batch, threads)
                rate = total / (time.perf_counter() - begin)
                rates[batch, threads] = max(rates[batch, threads], rate) if repeat else 0.
    print('| images in a batch | threads | images/s |\n|---|---|---|')
    for (batch, threads), rate in rates.items():
        print(f'| {batch} | {threads} | {rate:.2f} |')


if __name__ == '__main__':
    main()
