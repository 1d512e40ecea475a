"""Compares the float32 roundings of a detector and of its folded form, on a case of a parity kit.

    python -m benchmarks.folding_rounding ../shared/parity infer_NAME

Four forms compute the feature maps and the detections of the case's images: eager; traced; with batch normalization
folded into the convolutions; and folded in float64, which stands for exact arithmetic. Prints the largest error of the
feature maps relative to their largest value, and how far masks of equal detections are from those of the eager form.
"""
from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.detectors.inference import tracer
from mrcnn_tf.layers.precision import precision_policy
from tests.parity.kit import Kit
from tests.parity.reference import Case

LIMIT = 1e-4


def main() -> None:
    """Print a row for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kit', type=pathlib.Path, help='directory of a parity kit')
    parser.add_argument('case', help='name of a case of inference')
    given = parser.parse_args()
    case = Case(Kit(given.kit), given.case)
    model, batch = case.model('op'), case.batch()
    batch = {key: tf.constant(batch[key]) for key in ('images', 'sizes')}
    with precision_policy('float64'):
        exact = case.model('op')
    for a, b in zip(exact.variables, model.variables, strict=True):
        a.assign(tf.cast(tf.convert_to_tensor(b), a.dtype))

    def features(detector: Any) -> Callable[..., Any]:
        return lambda batch: [tf.identity(each) for each in detector.features(batch)]

    trace, fold = tracer(model, final=False), tracer(model, final=True)
    truth = tracer(exact, final=True)(features(exact), False)(batch)
    forms = {'eager': (features(model), model), 'traced': (trace(features(model), False), trace(model, False)),
             'folded': (fold(features(model), False), fold(model, False))}
    expected = model(batch)
    print('| form | feature maps, relative error | masks | cells beyond 1e-4, of all |\n|---|---|---|---|')
    for form, (maps, detect) in forms.items():
        error = max(float(tf.reduce_max(tf.abs(tf.cast(a, tf.float64) - tf.cast(b, tf.float64))) / tf.cast(
            tf.reduce_max(tf.abs(b)), tf.float64)) for a, b in zip(maps(batch), truth, strict=True))
        found = detect(batch)
        apart = np.abs(found['masks'] - expected['masks'])[np.asarray(expected['valid'])]
        print(f'| {form} | {error:.1e} | {apart.max():.1e} | {(apart > LIMIT).sum()} of {apart.size} |', flush=True)


if __name__ == '__main__':
    main()
