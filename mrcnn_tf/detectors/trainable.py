"""What `fit` and `evaluate` need of a model that knows its losses: gradients, clipping, replicas, canvases."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

Batch = Mapping[str, tf.Tensor]


class FittedModel(keras.Model):
    """A model that `fit` trains on batches by its named losses.

    Args:
        engine: 'op' (TensorFlow's kernels; fast on a CPU) or 'xla' (arithmetic that XLA compiles).
    """

    train_function: Any    # Keras clears both in `compile`
    test_function: Any

    def __init__(self, engine: str, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.engine = engine
        self.clip_norm: float | None = None
        self.seed, self.jit = 0, False
        self.last_image_ids: Any = None

    def losses_and_counts(self, batch: Batch, seed: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Return the named losses of a batch, and how many of its samples are positive, float32 scalars.

        The name of a loss begins with `loss_`, that of a count with `positive_`.

        Args:
            seed: int32 [2], of the random samples.
        """
        raise NotImplementedError

    def losses_of(self, batch: Batch, seed: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Return the losses of `losses_and_counts` alone."""
        return _losses_among(self.losses_and_counts(batch, seed, training))

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One update on this replica's batch; returns the losses and counts."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        losses, gradients = self._compiled(self._losses_and_gradients)(batch, self._step_seed())
        if self.clip_norm and replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce('sum', gradients)
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
            # The optimizer sums over replicas once more.
            gradients = [g / replicas for g in gradients]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return losses

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """The losses of a batch without an update, normalisation by stored statistics."""
        losses = self.losses_of(batch, tf.zeros([2], tf.int32), training=False)
        return {'loss': tf.add_n(list(losses.values())), **losses}

    def _losses_and_gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            values = self.losses_and_counts(batch, seed)
            total = tf.add_n(list(_losses_among(values).values()))
            # The optimizer sums the replicas' gradients: their mean is what one replica of all images would get.
            scaled = total / self.distribute_strategy.num_replicas_in_sync
        return {'loss': total, **values}, tape.gradient(scaled, self.trainable_variables)

    def _step_seed(self) -> tf.Tensor:
        """int32 [2]: of the run, the step and the replica; a resumed run draws what an uninterrupted one would."""
        step = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int32)
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
        return tf.stack([self.seed + 1000003 * replica, 2 * step])               # the losses draw with this and + 1

    def compile(self, optimizer: Any, clip_norm: float | None = None, seed: int = 0, jit_compile: bool = False,
                **kwargs: Any) -> None:
        """As keras.Model.compile.

        Args:
            clip_norm: largest global norm of the gradient of all replicas.
            seed: of the samples that are drawn in each step.
            jit_compile: by XLA; takes a model with the 'xla' engine. The update of several replicas stays outside.

        Raises:
            ValueError: jit_compile with the 'op' engine.
        """
        if jit_compile and self.engine != 'xla':
            raise ValueError("jit_compile needs a model built with engine='xla'")
        super().compile(optimizer=optimizer, jit_compile=False, **kwargs)
        self.clip_norm, self.seed, self.jit = clip_norm, seed, jit_compile

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True, autograph=False) if self.jit else function

    # Keras traces one function for all batches, whose shapes are then unknown where there are several canvases, and
    # reduces what it returns in ways that differ between its versions. So: take the batch eagerly, trace for
    # each canvas, reduce here.

    def make_train_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        """Used by `fit`; made anew after `compile` only, since tracing and compiling take long."""
        if force or self.train_function is None:
            self.train_function = self._function_of_iterator(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        """Used by `evaluate`; made anew after `compile` only, since tracing and compiling take long."""
        if force or self.test_function is None:
            self.test_function = self._function_of_iterator(self.test_step)
        return self.test_function

    def _function_of_iterator(self, step: Callable[[Batch], dict[str, tf.Tensor]]
                              ) -> Callable[[Any], dict[str, tf.Tensor]]:
        strategy = self.distribute_strategy
        step = self._compiled(step) if strategy.num_replicas_in_sync == 1 else step

        names: list[str] = []

        def on_replica(batch: Batch) -> tf.Tensor:
            logs = step(batch)
            names[:] = logs
            return tf.stack([logs[name] for name in names])

        @tf.function(autograph=False)
        def on_replicas(batch: Batch) -> dict[str, tf.Tensor]:
            # As one vector: one exchange between the replicas, not one a loss.
            mean = strategy.reduce('mean', strategy.run(on_replica, args=(batch,)), axis=None)
            return dict(zip(names, tf.unstack(mean), strict=True))

        def from_iterator(iterator: Any) -> dict[str, tf.Tensor]:
            batch = next(iterator)
            self.last_image_ids = batch['image_ids']
            return on_replicas(batch)

        return from_iterator

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Keras 3 builds a model on a first batch under a strategy; ours is built, and that batch not of its form."""


def _losses_among(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: value for name, value in values.items() if name.startswith('loss_')}
