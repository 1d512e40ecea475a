"""Counts what an exported model says of damaged image files, and which damage it does not notice.

    python -m benchmarks.damaged_images --files 12000 --seed 1

The files are those of `tests/data_tools/fuzz.py`: small PNGs and JPEGs of 15 kinds with one to twenty random changes
of their bytes; every other PNG has correct checksums again. Each passes through `decoding.try_decode`, which all
signatures use. Prints for each format and status the number of files. Of those with status 0 it prints how many have
other pixels than the file before the damage, and how many Pillow refuses.
"""
from __future__ import annotations

import argparse
import collections
import io
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image

from mrcnn_tf.input import decoding
from tests.data_tools import fuzz

STATUS = ('ok', 'not an image', 'damaged', 'too large')
RULE = decoding.Rule('apply', 50_000_000)


def damaged(count: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield files before and after the damage."""
    kinds = fuzz._image_sorts()
    for number in range(count):
        rng = random.Random(f'{seed}/image/{number}')
        name = rng.choice(sorted(kinds))
        changed = fuzz._bytes(kinds[name], rng)
        if rng.random() < .5 and name.startswith('png'):
            changed = fuzz._with_checksums(changed)
        yield kinds[name], changed


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
def answers(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the status, int32 [n], and the pixels of each file as bytes, string [n]."""
    def answer(file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decoding.try_decode(file, RULE, lambda pixels: tf.io.serialize_tensor(tf.cast(pixels, tf.float32)), '')

    return tf.map_fn(answer, encoded, fn_output_signature=(tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.string)),
                     parallel_iterations=1)


def accepted_by_pillow(encoded: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
    except Exception:    # Pillow raises nearly all kinds
        return False
    return True


def main() -> None:
    """Count the statuses of the files of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--files', type=int, default=12000)
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()
    pairs = [pair for pair in damaged(arguments.files, arguments.seed) if pair[0] != pair[1]]
    kinds = [*fuzz._image_sorts().values()]
    original = dict(zip(kinds, answers(tf.constant(kinds))[1].numpy(), strict=True))
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    status, pixels = (value.numpy() for value in answers(tf.constant([changed for _, changed in pairs])))
    for (before, changed), code, found in zip(pairs, status, pixels, strict=True):
        kind = 'PNG' if before.startswith(decoding.PNG) else 'JPEG'
        counts[kind, STATUS[code]] += 1
        if code == decoding.OK:
            counts[kind, 'ok, other pixels'] += found != original[before]
            counts[kind, 'ok, Pillow refuses it'] += not accepted_by_pillow(changed)
    for (kind, what), count in sorted(counts.items()):
        print(f'{kind:5} {what:24} {count:6}')
    print(f'{len(pairs)} damaged files, none raised an error; statuses: {np.bincount(status).tolist()}')


if __name__ == '__main__':
    main()
