"""Small converted sets for tests. All pixels of image i have the value i, which shows where it is in a batch."""
from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from mrcnn_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Shard, Source
from mrcnn_tf.input.records import Annotated, ObjectAnnotation

Batch = dict[str, np.ndarray]


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


def thing(box: Sequence[float] = (1, 2, 5, 8), label: int = 1, crowd: bool = False, size: tuple[int, int] = (8, 16),
          ) -> ObjectAnnotation:
    """An object whose mask is the upper half of its box."""
    y1, x1, y2, x2 = box
    mask = np.zeros(size)
    mask[int(y1):int(y1 + y2) // 2, int(x1):int(x2)] = 1
    area = (y2 - y1) * (x2 - x1) / 2
    return ObjectAnnotation((y1, x1, y2, x2), label, 'thing', area, crowd, 1000 + label, records.encode_mask(mask))


def example(number: int, objects: Sequence[ObjectAnnotation] | None = None, size: tuple[int, int] = (8, 16),
            ) -> Annotated:
    """An image of one value, `number`, with these objects, or with one object."""
    pixels = np.full(size, number, np.uint8)
    return Annotated(png(pixels), 'png', f'{number}.png', str(number), number, *size,
                     [thing(size=size)] if objects is None else list(objects))


def write_set(folder: pathlib.Path, examples: Sequence[Annotated], shards: int = 3, **changes: Any) -> str:
    """Write shards and manifest without the converter; record i goes to shard i modulo `shards`.

    Args:
        folder: created if it is missing.
        examples: the images in order of their records.
        shards: number of shards.
        changes: fields of the manifest that differ from the default.

    Returns:
        The path of the manifest.
    """
    folder.mkdir(exist_ok=True)
    written = []
    for index in range(shards):
        path = folder / f'set-{index:05d}-of-{shards:05d}.tfrecord'
        part = examples[index::shards]
        with tf.io.TFRecordWriter(str(path)) as writer:
            for each in part:
                writer.write(records.encode(each))
        content = path.read_bytes()
        written.append(Shard(path.name, len(part), len(content), hashlib.sha256(content).hexdigest()))
    objects = [o for each in examples for o in each.objects]
    without, crowds = sum(not p.objects for p in examples), sum(o.crowd for o in objects)
    manifest = Manifest(
        'set', [Category(k, 10 * k, f'class {k}') for k in (1, 2)],
        Counts(len(examples), without, len(objects), crowds), max([0, *(len(p.objects) for p in examples)]),
        {}, {}, written, True, Source('coco', 'a.json', 'images'))
    path = folder / 'set.json'
    dataclasses.replace(manifest, **changes).write(path)
    return str(path)


def config(seed: int = 0, classes: int = 2, **data: Any) -> Config:
    """A config for sets of 8 x 16 px images, which it doubles in size; data: fields of `data` that differ."""
    settings = {
        'batch_size': 4, 'short_sides': [16], 'long_side': 32, 'test_short_side': 16, 'test_long_side': 32,
        'canvases': [[32, 32]], 'flip_horizontal': 0., 'max_objects': 3, 'mask_size': 4, 'shuffle_buffer': 8, **data}
    return Config(data=DataConfig(**settings), model=ModelConfig(num_classes=classes), train=TrainConfig(seed=seed))


def take(dataset: tf.data.Dataset, count: int) -> list[Batch]:
    return list(dataset.take(count).as_numpy_iterator())


def ids(batches: Sequence[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch['image_ids']]


def assert_equal(first: Sequence[Batch], second: Sequence[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], key)
