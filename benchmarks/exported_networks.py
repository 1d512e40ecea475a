"""Compares the network of an export with that of the detector: size, memory, time.

    python -m benchmarks.exported_networks --config mask_rcnn_r50_fpn_1x

Saves the network alone, without decoding and resizing, in three ways: as the detector computes it; with batch
normalization folded into the convolutions; and with constants in place of variables. A process for each loads it and
runs one image of 608 x 800 px several times. Prints the bytes on disk, the resident memory after loading and after
running, and the shortest CPU time of a run, which hardly depends on what else the machine does. The weights are random.
"""
from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import load
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.serving.network import WEIGHTS, network

HEIGHT, WIDTH, REPEATS = 608, 800, 6
WAYS = ('detector', *WEIGHTS)


def save(detector: Detector, way: str, path: str) -> None:
    """Write the network as a SavedModel."""
    module = tf.Module()
    if way == 'detector':
        call = detector.__call__
        module.weights = list(detector.variables)
    else:
        made = network(detector, 'pixel_center', way)
        call, module.weights = (lambda batch: made.call(batch['images'], batch['sizes'])), list(made.variables)
    specs = [tf.TensorSpec([1, None, None, 3], name='images'), tf.TensorSpec([1, 2], name='sizes')]
    serve = tf.function(lambda images, sizes: call({'images': images, 'sizes': sizes}), specs, autograph=False)
    tf.saved_model.save(module, path, serve.get_concrete_function(),
                        tf.saved_model.SaveOptions(experimental_custom_gradients=False))


def resident() -> int:
    """Return the resident memory of this process, MB."""
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4096 // 10 ** 6


def run(path: str) -> None:
    """Print memory and time of a saved network."""
    before = resident()
    loaded = tf.saved_model.load(path)
    after_loading = resident()
    image = tf.constant(np.random.default_rng(1).uniform(0, 255, (1, HEIGHT, WIDTH, 3)), tf.float32)
    times = []
    for _ in range(REPEATS):
        begun = time.process_time()
        loaded.signatures['serving_default'](images=image, sizes=tf.constant([[HEIGHT, WIDTH]], tf.float32))
        times.append(time.process_time() - begun)
    size = sum(file.stat().st_size for file in pathlib.Path(path).rglob('*') if file.is_file())
    print(f'{size / 1e6:8.1f} MB on disk {after_loading - before:6} MB loaded {resident() - before:6} MB after runs '
          f'{min(times):6.2f} s CPU', flush=True)


def main() -> None:
    """Compare the ways for the config of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='mask_rcnn_r50_fpn_1x')
    parser.add_argument('--run', help='of the processes that this script starts')
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        detector = build_detector(load(arguments.config).model)
        for way in WAYS:
            save(detector, way, f'{folder}/{way}')
        for way in WAYS:
            print(f'{way:10}', end=' ', flush=True)
            subprocess.run([sys.executable, '-m', 'benchmarks.exported_networks', '--run', f'{folder}/{way}'],
                           check=True)


if __name__ == '__main__':
    main()
