"""Prints the bytes on the wire and the time of each form of masks of an exported model, for one image.

    python -m benchmarks.mask_forms

The image has 800 x 1333 px and 100 detections: ellipses with soft edges, in boxes of 16 to 512 px. Bytes are those of
the masks alone: the TensorProto of gRPC, and the JSON of TF Serving's REST API. The time is that of the form, the best
of five, without the model.
"""
from __future__ import annotations

import argparse
import base64
import json
import time

import numpy as np
import tensorflow as tf

from mrcnn_tf.serving import mask_forms

SIZE, DETECTIONS, SIDE, REPEATS = (800, 1333), 100, 28, 5


def ellipses() -> mask_forms.Found:
    """Return masks over boxes that lie in the image."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(16), np.log(512), (DETECTIONS, 2)))
    corners = rng.uniform(0, 1, (DETECTIONS, 2)) * (np.array(SIZE) - sides)
    cells = (np.arange(SIDE) + .5) / SIDE * 2 - 1
    turned = cells[:, None] + rng.uniform(-.5, .5, (DETECTIONS, 1, 1)) * cells
    masks = 1 / (1 + np.exp(-12 * (.9 - np.hypot(turned, np.broadcast_to(cells, turned.shape)))))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    return mask_forms.Found(tf.constant(masks, tf.float32), tf.constant(boxes, tf.float32),
                            tf.fill([DETECTIONS], True), tf.constant(SIZE), 'pixel_center')


def as_json(values: np.ndarray, suffix: str) -> str:
    """Return the output as TF Serving's REST API writes it."""
    if values.dtype != object:
        return json.dumps(values.tolist(), separators=(',', ':'))
    texts = [{'b64': base64.b64encode(value).decode()} if suffix == '_bytes' else value.decode() for value in values]
    return json.dumps(texts, separators=(',', ':'))


def main() -> None:
    """Print a row for each form."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = ellipses()
    print(f'{"form":10} {"gRPC kB":>8} {"REST kB":>8} {"ms":>7}')
    for name, form in mask_forms.FORMS.items():
        encode = tf.function(lambda masks, form=form: form.encode(found._replace(masks=masks)), autograph=False)
        values, times = encode(found.masks).numpy(), []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            encode(found.masks)
            times.append(time.perf_counter() - begun)
        sizes = (len(tf.make_tensor_proto(values).SerializeToString()), len(as_json(values, form.suffix)))
        print(f'{name:10} {sizes[0] / 1000:8.1f} {sizes[1] / 1000:8.1f} {1000 * min(times):7.1f}')


if __name__ == '__main__':
    main()
