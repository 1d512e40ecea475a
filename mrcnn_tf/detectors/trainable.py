"""The training step behind `fit` and `evaluate`: gradients, clipping, replicas, a trace per canvas."""
from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.detectors import updates
from mrcnn_tf.detectors.branch import Batch, Detections, Losses
from mrcnn_tf.layers import tracing


class TrainableModel(keras.Model):
    """A model that `fit` trains on batches by its named losses.

    Args:
        engine: 'op' (TensorFlow's kernels; fast on a CPU) or 'xla' (arithmetic that XLA compiles).
    """

    optimizer: Any
    train_function: Any    # Keras clears these in `compile`
    test_function: Any
    predict_function: Any

    def __init__(self, engine: str, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.engine = engine
        self.clip_norm: float | None = None
        self.seed, self.jit, self.parts, self.recompute = 0, False, 1, False
        self.loss_scale: updates.LossScale | None = None    # of mixed_float16
        self._half = keras.mixed_precision.global_policy().compute_dtype == 'float16'
        self.last_image_ids: Any = None
        self.input_seconds = 0.0    # the time in which steps have waited for their batches
        self.input_context: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext    # around each wait
        self.take_batch: Callable[[Any], Any] = next    # from the iterator of a dataset
        # around each step; the argument says whether it compiles, as the first one of each canvas
        self.step_context: Callable[[bool], AbstractContextManager[Any]] = contextlib.nullcontext

    def losses_and_counts(self, batch: Batch, seed: tf.Tensor, training: bool = True) -> Losses:
        """Return the named losses of a batch, their normalizers, and the numbers of positive samples: float32 scalars.

        The name of a loss begins with `loss_`, that of a count with `positive_`. A loss that is a mean over samples has
        a `normalizer_`, the number of these samples.

        Args:
            batch: with ground truth.
            seed: int32 [2]. The random samples of an image depend on it and on the image's id.
            training: False for the losses of an evaluation.
        """
        raise NotImplementedError

    def losses(self, batch: Batch, seed: int | tf.Tensor = 0, training: bool = True) -> Losses:
        """Return the named losses of a batch, float32 scalars, for a training loop of your own.

        The gradient of their sum is that of a training step. With the engine 'xla', compile losses and gradient in one
        function: if the losses are compiled alone, they return all that the gradient needs. Replaces Keras's list of
        added losses, which a detector does not have.

        Args:
            batch: with ground truth.
            seed: of random samples: a whole number, or int32 [2]. Give each step another one.
            training: False for the losses of an evaluation.
        """
        seed = tf.cast(seed, tf.int32)
        seed = seed if seed.shape.rank else tf.stack([0, seed])
        return updates.losses_among(self.losses_and_counts(batch, seed, training))

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Update the weights on this replica's batch, whose images may be uint8; return losses and counts."""
        batch = {**batch, 'images': tf.cast(batch['images'], tf.float32)}
        values, gradients = self._values_and_gradients(batch, self._step_seed())
        self.apply_clipped(gradients)
        return {**values, 'skipped_steps': tf.identity(self.loss_scale.skipped)} if self.loss_scale else values

    def apply_clipped(self, gradients: Sequence[tf.Tensor]) -> None:
        """Apply this replica's gradients, after clipping the sum over all replicas to the global norm `clip_norm`.

        The loss that they come from must be divided by the number of replicas. With mixed_float16, a step whose
        gradients are not finite counts as a step and changes no weight.
        """
        gradients = updates.sum_over_replicas(gradients)
        if self.loss_scale:
            self.loss_scale.guard(gradients, self._apply, lambda: self.optimizer.iterations.assign_add(1))
        else:
            self._apply(gradients)

    def _apply(self, gradients: Sequence[tf.Tensor]) -> None:
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        updates.apply(self.optimizer, gradients, self.trainable_variables)

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Return the losses of a batch without an update, with stored statistics of normalization."""
        losses = self.losses(batch, tf.zeros([2], tf.int32), training=False)
        return {'loss': tf.add_n(list(losses.values())), **losses}

    def fit(self, *args: Any, shuffle: bool = False, **kwargs: Any) -> Any:
        """Train, as keras.Model.fit. A `training_dataset` is shuffled already, so `shuffle` is False by default."""
        return super().fit(*args, shuffle=shuffle, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Return the losses of a dataset, as keras.Model.evaluate."""
        with _finite_data():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the detections of a dataset or of images, as keras.Model.predict."""
        with _finite_data():
            return super().predict(*args, **kwargs)

    def predict_step(self, data: Any) -> Detections:
        """Return the detections of a batch or of images [B, H, W, 3]."""
        detections: Detections = self(data, training=False)
        return detections

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError: Keras' export knows neither the preprocessing of images nor the categories."""
        raise ValueError(f'{self.name}: Keras cannot export a detector; call '
                         'mrcnn_tf.export_detector(detector, config, categories, output)')

    def _values_and_gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Return losses and counts whose mean over replicas, and gradients whose sum over them, are the batch's."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self.parts > 1:
            return self._of_parts(batch, seed, replicas)
        if replicas == 1:
            return self._compiled(lambda batch, seed: self._with_gradients(
                lambda: self.losses_and_counts(batch, seed)))(batch, seed)

        def losses() -> dict[str, tf.Tensor]:
            # XLA cannot compile an exchange between replicas, so it compiles the passes before and after it.
            with tracing.within(tracing.apart, self.jit):
                values = self._compiled(self.losses_and_counts)(batch, seed)
            totals = updates.sum_over_replicas(updates.normalizers_among(values))
            return updates.of_all_parts(values, totals, replicas)

        return self._with_gradients(losses)

    def _of_parts(self, batch: Batch, seed: tf.Tensor, replicas: int
                  ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """As `_values_and_gradients`, of a batch whose parts are computed one after the other.

        A first pass over the parts counts samples, by which the second one divides.
        """
        batch = {name: tf.reshape(value, [self.parts, value.shape[0] // self.parts, *value.shape[1:]])
                 for name, value in batch.items()}

        def values_of(number: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.losses_and_counts({name: value[number] for name, value in batch.items()}, seed)

        names: list[str] = []

        def normalizers(number: tf.Tensor) -> tf.Tensor:
            values = values_of(number)
            names[:] = ['loss', *updates.logged(values)]
            return updates.normalizers_among(values)

        def gradients(totals: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
            def of_part(number: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
                return self._with_gradients(lambda: updates.of_all_parts(values_of(number), totals, parts))

            zeros = ({name: tf.zeros([]) for name in names}, [tf.zeros(v.shape) for v in self.trainable_variables])
            values, total = updates.sum_over_parts(of_part, self.parts, zeros)
            return {name: value / self.parts for name, value in values.items()}, total

        parts = self.parts * replicas
        totals = updates.sum_over_replicas(self._compiled(lambda: updates.sum_over_parts(normalizers, self.parts))())
        return self._compiled(gradients)(totals)

    def _with_gradients(self, values: Callable[[], dict[str, tf.Tensor]]
                        ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Return named losses and counts with their total, and this part's share of the gradient of the total."""
        with tf.GradientTape() as tape:
            named = updates.logged(values())
            total = tf.add_n(list(updates.losses_among(named).values()))
            # The gradients of all parts are summed: the mean of the losses is the loss of all images.
            scaled = total / (self.parts * self.distribute_strategy.num_replicas_in_sync)
            if self.loss_scale:
                scaled *= self.loss_scale.scale
        gradients = tape.gradient(scaled, self.trainable_variables)
        if self.loss_scale:
            gradients = [gradient / self.loss_scale.scale for gradient in gradients]
        return {'loss': total, **named}, gradients

    def _step_seed(self) -> tf.Tensor:
        """Return int32 [2] from run and step: a resumed run samples as an uninterrupted one would."""
        return tf.stack([self.seed, tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int32)])

    def compile(self, optimizer: Any, clip_norm: float | None = None, seed: int = 0, jit_compile: bool = False,
                accumulation_steps: int = 1, recompute: bool = False, **kwargs: Any) -> None:
        """Configure training, as keras.Model.compile.

        Args:
            optimizer: a Keras optimizer, or its name.
            clip_norm: largest global norm of the gradient of all replicas.
            seed: of the random samples of each step.
            jit_compile: compile with XLA; needs a model with the 'xla' engine. With several replicas, the update is not
                compiled.
            accumulation_steps: number of equal parts in which each replica computes its part of a batch, one after the
                other, to save memory. Weights are updated once, as for the whole batch.
            recompute: compute the trained stages of the backbone again for the gradient instead of keeping their
                results, to save memory. Not for batch normalization, whose averages would be updated twice.

        Raises:
            ValueError: jit_compile with the 'op' engine.
        """
        if jit_compile and self.engine != 'xla':
            raise ValueError("jit_compile needs a model built with engine='xla'")
        super().compile(optimizer=optimizer, jit_compile=False, **kwargs)
        # With mixed_float16, Keras has put the optimizer into one of its own that unscales gradients.
        self.optimizer = getattr(self.optimizer, 'inner_optimizer', self.optimizer)
        updates.take_over(self.optimizer)
        if self._half:
            with self.distribute_strategy.scope():
                self.loss_scale = updates.LossScale()
        self.clip_norm, self.seed, self.jit, self.parts = clip_norm, seed, jit_compile, accumulation_steps
        self.recompute = recompute

    def get_compile_config(self) -> dict[str, Any] | None:
        """Return the arguments of `compile`, which a .keras file holds; None before `compile`."""
        if not getattr(self, 'optimizer', None):
            return None
        return {'optimizer': keras.saving.serialize_keras_object(self.optimizer), 'clip_norm': self.clip_norm,
                'seed': self.seed, 'jit_compile': self.jit, 'accumulation_steps': self.parts,
                'recompute': self.recompute}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as `get_compile_config` says, with the slots of the optimizer."""
        self.compile(**{**config, 'optimizer': keras.saving.deserialize_keras_object(config['optimizer'])})
        self.optimizer.build(self.trainable_variables)

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True, autograph=False) if self.jit else function

    # Keras traces one function for all batches; with several canvases their shapes are then unknown. It also reduces
    # the results in ways that differ between its versions. So these functions take the batch eagerly, trace for each
    # canvas and reduce themselves.

    def make_train_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        """Return the function that `fit` calls. It is made again only after `compile`: tracing takes long."""
        if force or self.train_function is None:
            self.train_function = self._function_of_iterator(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Callable[[Any], dict[str, tf.Tensor]]:
        """Return the function that `evaluate` calls. It is made again only after `compile`."""
        if force or self.test_function is None:
            self.test_function = self._function_of_iterator(self.test_step)
        return self.test_function

    def make_predict_function(self, force: bool = False) -> Callable[[Any], Detections]:
        """Return the function that `predict` calls: Keras 3 gives it a list of a batch, Keras 2 an iterator."""
        if self.distribute_strategy.num_replicas_in_sync > 1:
            return super().make_predict_function(force)
        if force or self.predict_function is None:
            step = traced(self.predict_step, each_shape=self.engine == 'xla')
            self.predict_function = lambda data: step(_batch_of(data[0] if isinstance(data, list) else next(data)))
        return self.predict_function

    def _function_of_iterator(self, step: Callable[[Batch], dict[str, tf.Tensor]]
                              ) -> Callable[[Any], dict[str, tf.Tensor]]:
        strategy = self.distribute_strategy
        step = self._compiled(step) if strategy.num_replicas_in_sync == 1 else step

        names: list[str] = []
        shapes: set[tf.TensorShape] = set()    # of images of the steps before

        def on_replica(batch: Batch) -> tf.Tensor:
            logs = step(batch)
            names[:] = logs
            return tf.stack([logs[name] for name in names])

        @tf.function(autograph=False)
        def on_replicas(batch: Batch) -> dict[str, tf.Tensor]:
            # As one vector, for one exchange between the replicas instead of one per loss.
            mean = strategy.reduce('mean', strategy.run(on_replica, args=(batch,)), axis=None)
            return dict(zip(names, tf.unstack(mean), strict=True))

        def from_iterator(iterator: Any) -> dict[str, tf.Tensor]:
            begun = time.perf_counter()
            with self.input_context():
                batch = _batch_of(self.take_batch(iterator))
            self.input_seconds += time.perf_counter() - begun
            self.last_image_ids = batch.get('image_ids')
            shape = strategy.experimental_local_results(batch['images'])[0].shape
            with self.step_context(shape not in shapes):
                shapes.add(shape)
                return on_replicas(batch)

        return from_iterator

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Skip Keras 3's build on a first batch under a strategy: a detector is built, and takes batches of its own."""


def traced(function: Callable[..., Any], each_shape: bool) -> Callable[..., Any]:
    """Return the function as a graph, traced for each shape of its arguments, or once for all heights and widths."""
    graph = tf.function(function, autograph=False)
    if each_shape:
        return graph
    return lambda *args: graph.get_concrete_function(*tf.nest.map_structure(_any_height_and_width, args))(*args)


def _any_height_and_width(x: tf.Tensor) -> tf.TensorSpec:
    """Return the spec of a tensor, without the height and width of images and feature maps [B, H, W, C]."""
    return tf.TensorSpec([x.shape[0], None, None, x.shape[3]] if x.shape.rank == 4 else x.shape, x.dtype)


@contextlib.contextmanager
def _finite_data() -> Iterator[None]:
    """Silence Keras 3's warning at the end of a dataset whose length is unknown, as that of `evaluation_dataset` is."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Your input ran out of data', UserWarning)
        yield


def _batch_of(data: Any) -> Any:
    """Return the batch of what Keras passes on: x of a dataset, (x,) or (x, y, sample_weight) of arrays."""
    return data[0] if isinstance(data, tuple) else data
