"""A model of two small layers that trains as the detector does, with the detector's five losses.

A step depends on the batch, the ids of its images, the seed and the step, so a resume that loses one of them gives
other weights. Images with an even id have two samples, those with an odd id none.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.detectors.trainable import TrainableModel
from mrcnn_tf.ops import rng

NAMES = ('loss_objectness', 'loss_rpn_box_reg', 'loss_classifier', 'loss_box_reg', 'loss_mask')


def batches(start_step: int = 0, batch: int = 4, rows: slice = slice(None)) -> tf.data.Dataset:
    """Return an infinite dataset from batch `start_step` on: `rows` of images [batch, 1, 1, 3] and ids [batch]."""
    def batch_of(step: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.random.stateless_uniform([batch, 1, 1, 3], [1, step], maxval=255.0)
        return {'images': images[rows], 'image_ids': (step * batch + tf.range(batch, dtype=tf.int64))[rows]}
    return tf.data.Dataset.counter(start_step).map(batch_of)


class ToyModel(TrainableModel):
    """images [B, H, W, 3], 0..255 -> [B, 2], trained to match noise by five losses of different weight."""

    classifies = True
    needs = ('masks',)

    def __init__(self, width: int = 4) -> None:
        super().__init__('op', name='toy')
        self.first = keras.layers.Dense(width, activation='tanh', name='first')
        self.rest = [keras.layers.Dense(2, name='second')]    # in a list, as the blocks of the detector are
        self.positives = 1.                                   # positive RoIs of each step
        self.poison_at = self.overflow_at = -1                # the step (from 0) of an infinite loss, gradient
        self.before_step: dict[int, Callable[[], None]] = {}  # called at the beginning of a step
        self(tf.zeros([1, 1, 1, 3]))

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(self.rest[0](self.first(tf.reduce_mean(images, axis=[1, 2]) / 255.0)), tf.float32)

    def losses_and_counts(self, batch: dict[str, tf.Tensor], seed: tf.Tensor, training: bool = True
                          ) -> dict[str, tf.Tensor]:
        noise = rng.uniform([batch['images'].shape[0], 2], rng.of_images(seed, batch['image_ids']))
        samples = tf.cast(batch['image_ids'] % 2 == 0, tf.float32)[:, None] * [1., 1.]
        errors = _infinite_gradient(tf.square(self(batch['images'], training=training) - noise),
                                    seed[1] == self.overflow_at)
        count = tf.reduce_sum(samples)
        error = tf.reduce_sum(errors * samples) / tf.maximum(count, 1.)
        losses = {name: error * (i + 1) for i, name in enumerate(NAMES[1:])}
        losses['loss_mask'] /= tf.where(seed[1] == self.poison_at, 0., 1.)
        return {'loss_objectness': tf.reduce_mean(errors), **losses,
                'positive_rois': tf.constant(self.positives),
                **{name.replace('loss_', 'normalizer_'): count for name in NAMES[1:]}}

    def make_train_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        if not force and self.train_function is not None:
            return self.train_function
        function = super().make_train_function(force)

        def train_function(iterator: Any) -> dict[str, tf.Tensor]:
            self.before_step.get(int(self.optimizer.iterations.numpy()), lambda: None)()
            return function(iterator)
        self.train_function = train_function
        return train_function


def _infinite_gradient(x: tf.Tensor, infinite: tf.Tensor) -> tf.Tensor:
    """Return `x`; its gradient is infinite where `infinite` says so."""
    @tf.custom_gradient
    def identity(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(x), lambda gradient: tf.where(infinite, float('inf'), gradient)

    return identity(x)
