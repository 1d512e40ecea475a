"""Compares SavedModels of the engines op and xla, on a server without XLA and on one that compiles with XLA.

    python -m benchmarks.exported_engines MODEL_DIR IMAGES

exports the model with each engine and asks it for the images of a folder, in a process of its own: three times without
XLA, and three times with TensorFlow's flags for XLA. Prints the size on disk, the largest memory, and user CPU seconds:
of loading and the first image, of the slowest later image (XLA compiles what has a new shape), and the median of the
third time. Then the largest differences from the engine op without XLA, between detections in equal places; `other`
counts the detections in other places. All processes run twice, in turns; the smaller value counts.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

import mrcnn_tf as m
from mrcnn_tf.serving.server_kit import XLA_FLAGS

WAYS = [(engine, flags) for flags in ('', XLA_FLAGS) for engine in ('op', 'xla')]
ROUNDS, REPEATS = 3, 2


def main() -> None:
    """Compare the ways, or measure one of them in a process that this script has started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model_dir', help='model directory')
    parser.add_argument('images', help='directory of image files')
    parser.add_argument('--measure', metavar='OUTPUT', help='of the processes that this script starts')
    given = parser.parse_args()
    if given.measure:
        measure(given.model_dir, given.images, given.measure)
    else:
        compare(given.model_dir, given.images)


def compare(model_dir: str, images: str) -> None:
    """Print a row for each way."""
    print('| engine | server | MB on disk | peak MB | first image | slowest later one | usual one | boxes, px | '
          'scores | masks | other |\n' + 11 * '|---' + '|', flush=True)
    with tempfile.TemporaryDirectory() as folder:
        saved = {engine: m.export(model_dir, f'{folder}/{engine}', engine=engine) for engine in ('op', 'xla')}
        found = [[run(saved[engine], flags, images, f'{folder}/{number}.npz')
                  for number, (engine, flags) in enumerate(WAYS)] for _ in range(REPEATS)]
        expected = np.load(f'{folder}/0.npz')
        for number, (engine, flags) in enumerate(WAYS):
            seconds = [f'{min(each[number][name] for each in found):.2f} s' for name in ('first', 'slowest', 'usual')]
            size = sum(file.stat().st_size for file in saved[engine].rglob('*') if file.is_file())
            print(f'| {engine} | {"XLA" if flags else "no XLA"} | {size / 1e6:.1f} | {found[0][number]["peak"]:.0f} | '
                  f'{" | ".join([*seconds, *differences(expected, np.load(f"{folder}/{number}.npz"))])} |', flush=True)


def run(saved: pathlib.Path, flags: str, images: str, output: str) -> dict[str, float]:
    """Return what `measure` prints in a process of its own."""
    command = [sys.executable, '-m', 'benchmarks.exported_engines', str(saved), images, '--measure', output]
    done = subprocess.run(command, env={**os.environ, 'TF_XLA_FLAGS': flags}, check=True, stdout=subprocess.PIPE)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure(saved: str, images: str, output: str) -> None:
    """Ask a SavedModel for all images several times; print the CPU seconds and the memory as JSON."""
    files = [path.read_bytes() for path in sorted(pathlib.Path(images).iterdir())]
    begin = user_seconds()
    loaded = tf.saved_model.load(saved)
    times: list[list[float]] = []
    answers: dict[str, Any] = {}
    for _ in range(ROUNDS):
        times.append([])
        for number, file in enumerate(files):
            found = loaded.signatures['detect'](image_bytes=tf.constant([file]))
            answers |= {f'{name}_{number}': value[0].numpy() for name, value in found.items()}
            times[-1].append(user_seconds() - begin)
            begin = user_seconds()
    np.savez(output, **answers)
    print(json.dumps({'first': times[0][0], 'slowest': max(times[0][1:] + times[1]),
                      'usual': statistics.median(times[-1]),
                      'peak': peak()}))


def peak() -> float:
    """Return the largest memory of this process, MB; `ru_maxrss` would include that of the process that started it."""
    line, = (each for each in pathlib.Path('/proc/self/status').read_text().splitlines() if each.startswith('VmHWM'))
    return int(line.split()[1]) * 1024 / 1e6


def user_seconds() -> float:
    """Return the user CPU time of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def differences(expected: Any, found: Any) -> list[str]:
    """Return the largest differences of boxes, scores and masks in equal places, and the number of other detections."""
    largest, other = np.zeros(3), 0
    for number in range(sum(name.startswith('valid_') for name in expected)):
        a, b = ({name: file[f'{name}_{number}'] for name in ('valid', 'labels', 'boxes', 'scores', 'masks')}
                for file in (expected, found))
        either, both = a['valid'] | b['valid'], a['valid'] & b['valid']
        same = both & (a['labels'] == b['labels']) & (np.abs(a['boxes'] - b['boxes']).max(axis=1) < 2)
        other += int(either.sum() - same.sum())
        if same.any():
            names = ('boxes', 'scores', 'masks')
            largest = np.maximum(largest, [np.abs(a[name] - b[name])[same].max() for name in names])
    return [*(f'{each:.2g}' for each in largest), str(other)]


if __name__ == '__main__':
    main()
