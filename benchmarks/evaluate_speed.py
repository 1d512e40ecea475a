"""Compares the CPU time of our COCO evaluation, from arrays to metrics, with that of pycocotools alone.

    python -m benchmarks.evaluate_speed annotations/instances_val2017.json --images 500

The work of `ours` is that of `mrcnn benchmark evaluate`: it pastes masks, encodes them, and computes all box and mask
metrics. `pycocotools` starts from the written detections.json. Both include reading the annotations. Prints one JSON
line with CPU seconds, and whether the 24 metrics are equal to the last bit.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import tempfile

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_tf.cli.benchmark.data import metrics_of

NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')


def by_pycocotools(annotations: pathlib.Path, detections: pathlib.Path) -> dict[str, np.ndarray]:
    """Return pycocotools' 12 metrics of boxes and of masks."""
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth, results = COCO(str(annotations)), json.loads(detections.read_bytes())
        for kind, other in (('bbox', 'segmentation'), ('segm', 'bbox')):
            chosen = [{key: value for key, value in each.items() if key != other} for each in results]
            evaluation = COCOeval(truth, truth.loadRes(chosen), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            found[kind] = evaluation.stats
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=pathlib.Path)
    parser.add_argument('--images', type=int, default=500)
    parser.add_argument('--workers', type=int, default=1, help='processes of ours')
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        ours, said = metrics_of(given.annotations, given.images, folder, given.workers)
        begun = seconds()
        ours()
        between = seconds()
        metrics = json.loads((folder / 'metrics.json').read_text())
        reference = by_pycocotools(folder / 'annotations.json', folder / 'detections.json')
        end = seconds()
    equal = all(metrics[f'{kind}/{name}'] == value for kind, values in reference.items()
                for name, value in zip(NAMES, values, strict=True))
    print(json.dumps({**said, 'ours': round(between - begun, 2), 'pycocotools': round(end - between, 2),
                      'ratio': round((between - begun) / (end - between), 2), 'equal': equal}))


def seconds() -> float:
    """Return the CPU seconds of this process and of those that it has started."""
    times = os.times()
    return sum(times[:4])


if __name__ == '__main__':
    main()
