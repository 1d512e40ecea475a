"""A data set of sixteen images of 64 x 64 px, each with one or two bright rectangles, and a small config for it."""
from __future__ import annotations

import io
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Shard, Source
from mrcnn_tf.input.records import Annotated, ObjectAnnotation

CATEGORIES = [Category(1, 1, 'low'), Category(2, 2, 'high')]
SETTINGS = (
    'model.num_classes=2', 'model.backbone.name=resnet18', 'model.backbone.fpn_channels=8',
    'model.backbone.frozen_stages=0', 'model.backbone.norm=batch', 'model.anchors.sizes=[[8],[16],[32],[64],[128]]',
    'model.rpn.pre_nms_train=50', 'model.rpn.post_nms_train=20', 'model.rpn.batch_per_image=16',
    'model.roi.batch_per_image=8', 'model.roi.sampling_ratio=2', 'model.box_head.width=16',
    'model.mask_head.convolutions=1', 'model.mask_head.width=8',
    'data.short_sides=[64]', 'data.long_side=64', 'data.test_short_side=64', 'data.test_long_side=64',
    'data.canvases=[[64,64]]', 'data.max_objects=2', 'data.mask_size=28',
    'data.batch_size=4', 'data.shuffle_buffer=4', 'solver.reference_batch=4', 'solver.steps=6', 'solver.warmup_steps=2',
    'solver.milestones=[4]', 'solver.learning_rate=0.01', 'train.log_every=2', 'train.checkpoint_every=3',
    'train.strategy=one_device', 'train.jit_compile=off')


def tiny_config(directory: pathlib.Path, *overrides: str) -> Config:
    """Return the small config; an override of model.kind removes the settings of the mask head."""
    other = any(each.startswith('model.kind=') for each in overrides)
    settings = [each for each in SETTINGS if not (other and each.startswith('model.mask_head.'))]
    return configuration.load('base', [*settings, f'data.train={directory}/train.json', *overrides])


def write_data(directory: pathlib.Path) -> None:
    """Write train.json and its shard."""
    examples = [_example(i) for i in range(16)]
    with tf.io.TFRecordWriter(str(directory / 'train-0.tfrecord')) as writer:
        for example in examples:
            writer.write(records.encode(example))
    size = (directory / 'train-0.tfrecord').stat().st_size
    objects = sum(len(example.objects) for example in examples)
    manifest = Manifest(
        'train', CATEGORIES, Counts(16, 0, objects, 0), 2, {}, {},
        [Shard('train-0.tfrecord', 16, size, '')], True, Source('test', '', ''))
    manifest.write(directory / 'train.json')


def _example(index: int) -> Annotated:
    generator = np.random.default_rng(index)
    image, objects = np.full((64, 64, 3), 40, np.uint8), []
    for number in range(1 + index % 2):
        top, left = generator.integers(0, 40, 2).tolist()
        bottom, right = top + 20, left + 12 + 8 * number
        mask = np.zeros((64, 64), bool)
        mask[top:bottom, left:right] = True
        image[mask] = 200
        objects.append(ObjectAnnotation((top, left, bottom, right), 1 + number, 'low', float(mask.sum()),
                                        annotation_id=10 * index + number, mask=records.encode_mask(mask)))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, 'PNG')
    return Annotated(stream.getvalue(), 'png', f'{index}.png', str(index), index, 64, 64, objects)
