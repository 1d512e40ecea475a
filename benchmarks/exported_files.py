"""Compare exported LiteRT and ONNX files with the model that they came from: detections, AP, size, time of an image.

    python -m benchmarks.exported_files MODEL_DIR MANIFEST [FORMAT:QUANTIZE ...]

exports the model in all formats, or those given, such as tflite:int8, to a temporary directory. Differences are the
largest over all images, between detections that the model and the file have in the same place; `other` counts the
detections that have another class or are missing in one.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf

import mrcnn_tf as m
from mrcnn_tf.serving.fixed_size import QUANTIZED
from mrcnn_tf.serving.predictor import Predictor

FILES = [f'{suffix}:{quantize}' for suffix in ('tflite', 'onnx') for quantize in QUANTIZED]


def main() -> None:
    """Print a row for the model and for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model_dir', help='model directory')
    parser.add_argument('manifest', help='of a converted set')
    # The default is a choice, because Python 3.11 checks an empty list, too.
    parser.add_argument('files', nargs='*', metavar='FORMAT:QUANTIZE', choices=[*FILES, 'all'], default='all',
                        help=f'of {", ".join(FILES)}; default: all')
    given = parser.parse_args()
    model_dir, manifest = given.model_dir, given.manifest
    images = images_of(manifest)
    print('| file | MB | boxes, px | scores | masks | other | box AP | mask AP | s an image |\n' + 9 * '|---' + '|')
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        expected, seconds = predict(m.load_predictor(model_dir), images)
        row('the model', '', '', '', '', '', *metrics(expected, images, manifest, folder), seconds)
        for each in FILES if 'all' in given.files else given.files:
            suffix, quantize = each.split(':')
            path = m.export_file(model_dir, folder / f'{quantize}.{suffix}', quantize=quantize)
            found, seconds = predict(m.load_predictor(path), images)
            row(each, path.stat().st_size / 1e6, *differences(expected, found),
                *metrics(found, images, manifest, folder), seconds)


def images_of(manifest: str) -> dict[int, bytes]:
    """Return the files of a set by image id."""
    features = {'image/encoded': tf.io.FixedLenFeature([], tf.string), 'image/id': tf.io.FixedLenFeature([], tf.int64)}
    paths = m.Manifest.read(manifest).shard_paths(manifest)
    parsed = [tf.io.parse_single_example(record, features) for record in tf.data.TFRecordDataset(paths)]
    return {int(each['image/id']): each['image/encoded'].numpy() for each in parsed}


def predict(predictor: Predictor, images: dict[int, bytes]) -> tuple[list[m.Prediction], float]:
    """Return the predictions, and the seconds of one without the first."""
    first, *others = images.values()
    predictions = [predictor(first)]
    begin = time.perf_counter()
    predictions += [predictor(each) for each in others]
    return predictions, (time.perf_counter() - begin) / len(others)


def differences(expected: list[m.Prediction], found: list[m.Prediction]) -> tuple[float, float, float, int]:
    """Return the largest differences of boxes, scores and masks in equal places, and the number of other detections."""
    largest, other = np.zeros(3), 0
    for a, b in zip(expected, found, strict=True):
        n = min(len(a), len(b))
        same = (a.labels[:n] == b.labels[:n]) & (np.abs(a.boxes[:n] - b.boxes[:n]).max(1) < 2)
        other += max(len(a), len(b)) - int(same.sum())
        if same.any():
            pairs = ((a.boxes, b.boxes), (a.scores, b.scores), (a.instances.masks, b.instances.masks))
            largest = np.maximum(largest, [np.abs(x[:n][same] - y[:n][same]).max() for x, y in pairs])
    return (*largest, other)


def metrics(found: list[m.Prediction], images: dict[int, bytes], manifest: str, folder: pathlib.Path
            ) -> tuple[float, float]:
    """Return COCO's AP of boxes and masks."""
    results = [each for number, one in zip(images, found, strict=True) for each in one.to_coco(number)]
    (folder / 'detections.json').write_text(json.dumps(results))
    measured = m.evaluate_results(folder / 'detections.json', manifest)
    return measured['bbox/AP'], measured['segm/AP']


def row(*cells: object) -> None:
    """Print a row of the table."""
    texts = [f'{each:.3g}' if isinstance(each, float) else str(each) for each in cells]
    print(f'| {" | ".join(texts)} |', flush=True)


if __name__ == '__main__':
    main()
