"""A model of two small layers with the interface that the trainer uses: compile, fit, last_image_ids, five losses.

As in the detector, a step depends on the batch, the seed and the step, so a resume that loses one of them gives other
weights.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

NAMES = ('loss_objectness', 'loss_rpn_box_reg', 'loss_classifier', 'loss_box_reg', 'loss_mask')


def batches(start_step: int = 0, batch: int = 4, rows: slice = slice(None)) -> tf.data.Dataset:
    """Return an infinite dataset from batch `start_step` on: `rows` of images [batch, 1, 1, 3] and ids [batch]."""
    def batch_of(step: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.random.stateless_uniform([batch, 1, 1, 3], [1, step], maxval=255.0)
        return {'images': images[rows], 'image_ids': (step * batch + tf.range(batch, dtype=tf.int64))[rows]}
    return tf.data.Dataset.counter(start_step).map(batch_of)


class ToyModel(keras.Model):
    """images [B, H, W, 3], 0..255 -> [B, 2], trained to match noise by five losses of different weight."""

    classifies = True
    engine = 'op'
    needs = ('masks',)

    def __init__(self, width: int = 4) -> None:
        super().__init__(name='toy')
        self.first = keras.layers.Dense(width, activation='tanh', name='first')
        self.rest = [keras.layers.Dense(2, name='second')]    # in a list, as the blocks of the detector are
        self.input_seconds = 0.
        self.positives = 1.                                   # positive RoIs of each step
        self.poison_at = -1                                   # the step (from 0) with an infinite loss
        self.before_step: dict[int, Callable[[], None]] = {}  # called at the beginning of a step
        self(tf.zeros([1, 1, 1, 3]))

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(self.rest[0](self.first(tf.reduce_mean(images, axis=[1, 2]) / 255.0)), tf.float32)

    def compile(self, optimizer: keras.optimizers.Optimizer, clip_norm: float | None = None, seed: int = 0,
                jit_compile: bool = False) -> None:
        super().compile(optimizer=optimizer, jit_compile=jit_compile)
        self.seed = seed

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Do nothing: the model is built, and Keras 3 cannot trace a batch that is a dictionary."""

    def make_train_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        step = tf.function(self._step)

        def train_function(iterator: Any) -> dict[str, tf.Tensor]:
            batch = next(iterator)
            self.before_step.get(int(self.optimizer.iterations.numpy()), lambda: None)()
            self.last_image_ids = batch['image_ids']
            return step(batch)
        self.train_function = train_function
        return train_function

    def _step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        logs = self.distribute_strategy.run(self._replica_step, args=(batch,))
        return {name: self.distribute_strategy.reduce('SUM', value, axis=None) for name, value in logs.items()}

    def _replica_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        step = tf.convert_to_tensor(self.optimizer.iterations)
        noise = tf.random.stateless_uniform([], [self.seed, tf.cast(step, tf.int32)])
        replicas = self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(self(batch['images'], training=True) - noise)) / replicas
            losses = {name: error * (i + 1) for i, name in enumerate(NAMES)}
            losses['loss_mask'] /= tf.where(tf.equal(step, self.poison_at), 0.0, 1.0)
            losses['loss'] = tf.add_n([losses[name] for name in NAMES])
            losses['positive_rois'] = tf.constant(self.positives)
        gradients = tape.gradient(losses['loss'], self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return losses
