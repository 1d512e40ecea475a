"""Compares the answers of a trained detector as a graph, with and without folding, with those of the eager detector.

    python -m benchmarks.folded_answers runs/mine photos/*.png

A detection's partner is the one whose box is nearest, within 0.01 px. Prints the largest differences of partners.
"""
from __future__ import annotations

import argparse
import pathlib

import numpy as np
import tensorflow as tf

import mrcnn_tf as m
from mrcnn_tf.detectors.inference import tracer
from mrcnn_tf.input import decoding
from mrcnn_tf.input.images import batch_of_one

NEAR, LIMIT = 0.01, 1e-4


def detections(found: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Return the valid detections of a batch of one image."""
    arrays = {name: np.asarray(value)[0] for name, value in found.items()}
    return {name: value[arrays['valid']] for name, value in arrays.items()}


def main() -> None:
    """Print a row for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model_dir', help='model directory')
    parser.add_argument('images', nargs='+', help='image files')
    given = parser.parse_args()
    detector, config, _ = m.load_detector(given.model_dir)
    forms = {'traced': tracer(detector, final=False)(detector, False),
             'folded': tracer(detector, final=True)(detector, False)}
    apart: dict[str, dict[str, list[np.ndarray]]] = {form: {'boxes': [], 'scores': [], 'masks': []} for form in forms}
    alone = dict.fromkeys(forms, 0)
    for image in given.images:
        batch = batch_of_one(decoding.decode(tf.constant(pathlib.Path(image).read_bytes())), config.data)
        batch = {key: batch[key] for key in ('images', 'sizes')}
        expected = detections(detector(batch))
        for form, detect in forms.items():
            found = detections(detect(batch))
            distance = np.abs(expected['boxes'][:, None] - found['boxes']).max(-1, initial=0)
            partner, near = distance.argmin(1), distance.min(1, initial=np.inf) < NEAR
            alone[form] += int((~near).sum())
            for name, differences in apart[form].items():
                differences.append(np.abs(expected[name] - found[name][partner])[near].ravel())
    print('| form | detections without a partner, of all | boxes, px | scores | masks | cells beyond 1e-4, of all |')
    print('|---|---|---|---|---|---|')
    for form, differences in apart.items():
        boxes, scores, masks = (np.concatenate(differences[name]) for name in ('boxes', 'scores', 'masks'))
        print(f'| {form} | {alone[form]} of {alone[form] + len(scores)} | {boxes.max():.1e} | {scores.max():.1e} | '
              f'{masks.max():.1e} | {(masks > LIMIT).sum()} of {masks.size} |')


if __name__ == '__main__':
    main()
