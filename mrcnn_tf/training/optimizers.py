"""Optimizers, and the variables to which weight decay applies.

g: gradient, p: parameter, v: momentum.

An update waits for its gradient (`tf.control_dependencies`): else TensorFlow computes the products of all parameters
and momenta at the start of the step, and they stay in memory until its end.
"""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.training import addons


def build_optimizer(solver: SolverConfig, schedule: LearningRateSchedule, model: keras.Model
                    ) -> keras.optimizers.Optimizer:
    """Return the optimizer that the settings name, with slots for the trainable variables of a built model.

    On TensorFlow 2.15, SGDW and LAMB are those of tensorflow-addons. Call it in the strategy's scope.

    Raises:
        ValueError: tensorflow-addons is needed and not installed.
    """
    variables = model.trainable_variables
    exempt = [v for v in variables if not is_decayed(v, solver.decay_biases)]
    if addons.serves(solver.optimizer):
        return addons.build(solver, schedule, variables, exempt)
    optimizer = _build(solver, schedule)
    optimizer.exclude_from_weight_decay(exempt)
    optimizer.build(variables)
    return optimizer


def _build(solver: SolverConfig, schedule: LearningRateSchedule) -> keras.optimizers.Optimizer:
    """Return an optimizer without slots. Its name is fixed, because it is part of the keys of a checkpoint."""
    name, decay = solver.optimizer, solver.weight_decay
    if name == 'adamw':
        # 1e-8 is the published epsilon (arXiv 1412.6980) and PyTorch's default; Keras' default is 1e-7.
        return keras.optimizers.AdamW(schedule, weight_decay=decay, epsilon=1e-8, name=name)
    if name == 'lamb':
        return LAMB(schedule, weight_decay=decay, epsilon=1e-6, name=name)
    if name == 'lars':
        return LARS(schedule, solver.momentum, decay, solver.trust_coefficient, name=name)
    # Keras' own SGD decays weights apart from the gradient: it is SGDW.
    return (keras.optimizers.SGD if name == 'sgdw' else SGD)(schedule, momentum=solver.momentum, weight_decay=decay,
                                                             name=name)


def is_decayed(variable: Any, decay_biases: bool) -> bool:
    """Return whether weight decay applies: to kernels always, to biases by choice, to gamma and beta never."""
    is_bias = variable.name.split('/')[-1].split(':')[0] == 'bias'    # Keras 2 names it layer/bias:0, Keras 3 bias
    return decay_biases if is_bias else len(variable.shape) > 1


@keras.saving.register_keras_serializable('mrcnn_tf')
class SGD(keras.optimizers.SGD):
    """SGD with momentum and weight decay as in Caffe and PyTorch, which the published training schedules assume.

    g <- g + weight_decay p;  v <- momentum v + g;  p <- p - rate v.

    Keras' SGD multiplies the rate into v, so a lower rate takes full effect only after the momentum has decayed. It
    also subtracts the weight decay from p directly instead of adding it to g.
    """

    def __init__(self, learning_rate: Any, momentum: float = 0.9, weight_decay: float = 0.0, **kwargs: Any) -> None:
        super().__init__(learning_rate, momentum=momentum, weight_decay=weight_decay, **kwargs)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any = None) -> None:
        """Update one variable. Keras 3 passes the learning rate; Keras 2 keeps it in the optimizer."""
        rate = tf.cast(self.learning_rate if learning_rate is None else learning_rate, variable.dtype)
        momentum = self.momentums[_index(self, variable)]
        with tf.control_dependencies([gradient]):    # see above
            if self._use_weight_decay(variable):
                # A subtraction: if the gradient is a sum, TensorFlow would add all terms in the order in which threads
                # compute them, and round otherwise in each run and on each worker.
                gradient -= -self.weight_decay * tf.convert_to_tensor(variable)
            tf.raw_ops.ResourceApplyMomentum(var=variable.handle, accum=momentum.handle, lr=rate, grad=gradient,
                                             momentum=self.momentum)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: weight decay is part of the gradient, and Keras must not apply it again."""


@keras.saving.register_keras_serializable('mrcnn_tf')
class LARS(SGD):
    """Layer-wise adaptive rate scaling for large batches (arXiv 1708.03888, algorithm 1).

    r = trust_coefficient |p| / (|g| + weight_decay |p|);  v <- momentum v + rate r (g + weight_decay p);  p <- p - v.

    r is 1 for parameters without weight decay, and where a norm is 0.
    """

    def __init__(self, learning_rate: Any, momentum: float = 0.9, weight_decay: float = 0.0,
                 trust_coefficient: float = 0.001, **kwargs: Any) -> None:
        super().__init__(learning_rate, momentum, weight_decay, **kwargs)
        self.trust_coefficient = trust_coefficient

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any = None) -> None:
        rate = tf.cast(self.learning_rate if learning_rate is None else learning_rate, variable.dtype)
        momentum = self.momentums[_index(self, variable)]
        with tf.control_dependencies([gradient]):
            p = tf.convert_to_tensor(variable)
            if self._use_weight_decay(variable):
                norm = tf.norm(p)
                rate = rate * trust_ratio(self.trust_coefficient * norm, tf.norm(gradient) + self.weight_decay * norm)
                gradient -= -self.weight_decay * p                  # see SGD
            momentum.assign(self.momentum * tf.convert_to_tensor(momentum) + rate * gradient)
            variable.assign_sub(tf.convert_to_tensor(momentum))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'trust_coefficient': self.trust_coefficient}


@keras.saving.register_keras_serializable('mrcnn_tf')
class LAMB(keras.optimizers.Adam):
    """Layer-wise adaptive moments for large batches (arXiv 1904.00962, algorithm 2), as tensorflow-addons has it.

    u = Adam's update without the rate + weight_decay p;  p <- p - rate |p| / |u| u.

    The ratio is 1 for parameters without weight decay, and where a norm is 0. Keras 3's Lamb leaves the decay out of u.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        rate, step = tf.cast(learning_rate, variable.dtype), tf.cast(self.iterations + 1, variable.dtype)
        index = _index(self, variable)
        m, v = self._momentums[index], self._velocities[index]
        with tf.control_dependencies([gradient]):
            p = tf.convert_to_tensor(variable)
            m.assign(self.beta_1 * tf.convert_to_tensor(m) + (1 - self.beta_1) * gradient)
            v.assign(self.beta_2 * tf.convert_to_tensor(v) + (1 - self.beta_2) * tf.square(gradient))
            mean, square = (tf.convert_to_tensor(moment) / (1 - tf.pow(beta, step))
                            for moment, beta in ((m, self.beta_1), (v, self.beta_2)))
            update = mean / (tf.sqrt(square) + self.epsilon)
            if self._use_weight_decay(variable):
                update += self.weight_decay * p
                rate = rate * trust_ratio(tf.norm(p), tf.norm(update))
            variable.assign_sub(rate * update)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: weight decay is part of the update, and Keras must not apply it again."""


def trust_ratio(weights: tf.Tensor, update: tf.Tensor) -> tf.Tensor:
    """Return weights / update of two norms; 1 where one of them is 0."""
    return tf.where((weights > 0) & (update > 0), tf.math.divide_no_nan(weights, update), 1.)


def _index(optimizer: Any, variable: tf.Variable) -> int:
    """Return the place of a variable among the slots of a Keras optimizer."""
    keras_3 = hasattr(optimizer, '_trainable_variables_indices')
    indices = optimizer._trainable_variables_indices if keras_3 else optimizer._index_dict
    return indices[optimizer._var_key(variable)]
