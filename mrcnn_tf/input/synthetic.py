"""Batches without a data set, to count or measure the work of a training step."""
from __future__ import annotations

from collections.abc import Collection

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import DataConfig


def batch_spec(data: DataConfig, needs: Collection[str], canvas: tuple[int, int], batch_size: int
               ) -> dict[str, tf.TensorSpec]:
    """Return the shapes and dtypes of a training batch.

    Args:
        data: the function reads `max_objects`, `mask_size` and `max_proposals`.
        needs: what the detector needs besides boxes and labels, `Detector.needs`.
        canvas: height and width of the images, px.
        batch_size: images of the batch.
    """
    objects = [batch_size, data.max_objects]
    spec = {'images': tf.TensorSpec([batch_size, *canvas, 3]), 'sizes': tf.TensorSpec([batch_size, 2]),
            'image_ids': tf.TensorSpec([batch_size], tf.int64), 'boxes': tf.TensorSpec([*objects, 4]),
            'labels': tf.TensorSpec(objects, tf.int32)}
    spec |= {name: tf.TensorSpec(objects, tf.bool) for name in ('crowd', 'valid', 'has_mask')}
    if 'masks' in needs:
        spec['masks'] = tf.TensorSpec([*objects, data.mask_size, data.mask_size], tf.uint8)
    if 'proposals' in needs:
        spec['proposals'] = tf.TensorSpec([batch_size, data.max_proposals, 4])
        spec['proposals_valid'] = tf.TensorSpec([batch_size, data.max_proposals], tf.bool)
    return spec


def training_batch(data: DataConfig, needs: Collection[str], canvas: tuple[int, int], batch_size: int, objects: int,
                   classes: int) -> dict[str, tf.Tensor]:
    """Return a batch of noise with boxes of a tenth to half of each side, filled by ellipses; always the same one.

    Args:
        data, needs, canvas, batch_size: as for `batch_spec`.
        objects: in each image, at most `data.max_objects`.
        classes: their labels are 1..classes.
    """
    rng, spec = np.random.default_rng(0), batch_spec(data, needs, canvas, batch_size)
    cells = (np.arange(data.mask_size) + .5) / data.mask_size - .5
    known = {
        'images': rng.uniform(0, 255, [batch_size, *canvas, 3]), 'sizes': np.tile(canvas, [batch_size, 1]),
        'image_ids': np.arange(1, batch_size + 1), 'boxes': _boxes(rng, [batch_size, data.max_objects], canvas),
        'labels': rng.integers(1, classes + 1, [batch_size, data.max_objects]),
        'crowd': np.zeros([batch_size, data.max_objects]), 'valid': np.arange(data.max_objects) < objects,
        'has_mask': np.arange(data.max_objects) < objects, 'masks': cells[:, None] ** 2 + cells ** 2 <= .25,
        'proposals': _boxes(rng, [batch_size, data.max_proposals], canvas),
        'proposals_valid': np.ones([batch_size, data.max_proposals])}
    return {name: tf.constant(np.broadcast_to(known[name], each.shape).astype(each.dtype.as_numpy_dtype))
            for name, each in spec.items()}


def _boxes(rng: np.random.Generator, shape: list[int], canvas: tuple[int, int]) -> np.ndarray:
    sides = rng.uniform(.1, .5, [*shape, 2])
    corner = rng.uniform(0, 1, [*shape, 2]) * (1 - sides)
    return np.concatenate([corner, corner + sides], axis=-1) * np.tile(canvas, 2)
