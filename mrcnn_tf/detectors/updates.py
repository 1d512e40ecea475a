"""From the losses and gradients of parts of a batch, on replicas or one after the other, to an update of the weights.

A loss is a mean over images or over samples. Each part of a batch gives the mean over its own samples; here they become
the mean over the samples of all parts, as if the batch were not split.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

_NORMALIZER, _LOSS, _COUNT = 'normalizer_', 'loss_', 'positive_'


def losses_among(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return the losses among named values."""
    return {name: value for name, value in values.items() if name.startswith(_LOSS)}


def normalizers_among(values: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return the numbers of samples among named values, float32 [n]."""
    return tf.stack([value for name, value in values.items() if name.startswith(_NORMALIZER)] or [tf.zeros([])])


def logged(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return named values without the normalizers."""
    return {name: value for name, value in values.items() if not name.startswith(_NORMALIZER)}


def of_all_parts(values: Mapping[str, tf.Tensor], totals: tf.Tensor, parts: int) -> dict[str, tf.Tensor]:
    """Return the losses and counts of a part, scaled such that their mean over all parts is that of the whole batch.

    Args:
        values: of the part, with normalizers.
        totals: the normalizers summed over all parts, in the order of `normalizers_among`.
        parts: their number.
    """
    total_of = dict(zip([name for name in values if name.startswith(_NORMALIZER)], tf.unstack(totals), strict=False))
    scaled: dict[str, tf.Tensor] = {}
    for name, value in logged(values).items():
        normalizer = _NORMALIZER + name.removeprefix(_LOSS)
        if name.startswith(_COUNT):
            value *= parts
        elif normalizer in total_of:
            value *= parts * tf.maximum(values[normalizer], 1.) / tf.maximum(total_of[normalizer], 1.)
        scaled[name] = value
    return scaled


def sum_over_replicas(tensors: Any) -> Any:
    """Return the sums of tensors over all replicas; call it on a replica."""
    context = tf.distribute.get_replica_context()
    return tensors if context.num_replicas_in_sync == 1 else context.all_reduce('sum', tensors)


def sum_over_parts(function: Callable[[tf.Tensor], Any], parts: int, zeros: Any = None) -> Any:
    """Return the sum of the nested tensors function(0) + ... + function(parts - 1), computed one after the other.

    zeros: of the structure of a result; None: the function is traced once more instead.
    """
    first, start = (1, function(tf.constant(0))) if zeros is None else (0, zeros)
    return tf.while_loop(
        lambda number, _: number < parts,
        lambda number, total: (number + 1, tf.nest.map_structure(tf.add, total, function(number))),
        (first, start), parallel_iterations=1, maximum_iterations=parts - first)[1]


def take_over(optimizer: Any) -> None:
    """Make an optimizer apply gradients as they are: the model sums them over the replicas itself, to clip the sum."""
    # Keras 2 has an argument for this, see `apply`; Keras 3 has none.
    if hasattr(optimizer, '_all_reduce_sum_gradients'):
        optimizer._all_reduce_sum_gradients = list


def apply(optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]) -> None:
    """Update variables by gradients that are summed over replicas, by an optimizer that was taken over."""
    arguments = {} if keras.__version__.startswith('3') else {'experimental_aggregate_gradients': False}
    optimizer.apply_gradients(zip(gradients, variables, strict=True), **arguments)


class LossScale:
    """The dynamic loss scale of float16 (1710.03740, 3.2), under which small gradients do not vanish.

    A step whose gradients are not finite is skipped, and halves the scale. It doubles after 2000 other steps in a row.
    """

    _INITIAL, _LARGEST, _PATIENCE = 2. ** 15, 2. ** 24, 2000

    def __init__(self) -> None:
        def variable(value: float, name: str) -> tf.Variable:
            return tf.Variable(value, trainable=False, dtype=tf.float32, name=name,
                               aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

        self.scale = variable(self._INITIAL, 'scale')
        self._good, self.skipped = variable(0., 'good_steps'), variable(0., 'skipped_steps')

    @property
    def by_name(self) -> dict[str, tf.Variable]:
        """The variables of a checkpoint."""
        return {'scale': self.scale, 'good_steps': self._good, 'skipped_steps': self.skipped}

    def guard(self, gradients: Sequence[tf.Tensor], update: Callable[[Sequence[tf.Tensor]], None],
              skip: Callable[[], Any]) -> None:
        """Call update(gradients) if all are finite, else skip(), and adapt the scale; call it on a replica."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

        def decide(strategy: tf.distribute.Strategy, finite: Any, gradients: Sequence[Any]) -> None:
            def on_replicas(function: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
                def call() -> None:
                    strategy.extended.call_for_each_replica(function, args=arguments)
                return call

            # An update exchanges data between replicas, which is impossible in a branch that each replica takes alone.
            tf.cond(strategy.experimental_local_results(finite)[0], on_replicas(update, gradients), on_replicas(skip))

        tf.distribute.get_replica_context().merge_call(decide, args=(finite, list(gradients)))
        self._adapt(finite)

    def _adapt(self, finite: tf.Tensor) -> None:
        good = tf.where(finite, self._good + 1., 0.)
        grown = tf.where(good == self._PATIENCE, tf.minimum(2. * self.scale, self._LARGEST), self.scale)
        self.scale.assign(tf.where(finite, grown, tf.maximum(self.scale / 2., 1.)))
        self._good.assign(tf.where(good == self._PATIENCE, 0., good))
        self.skipped.assign_add(tf.where(finite, 0., 1.))
