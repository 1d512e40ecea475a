"""Optimizers, and the variables to which weight decay applies.

g: gradient, p: parameter, v: momentum.
"""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from mrcnn_tf.config import SolverConfig


def build_optimizer(solver: SolverConfig, schedule: LearningRateSchedule, model: keras.Model
                    ) -> keras.optimizers.Optimizer:
    """Return SGD or AdamW with slots for the trainable variables of a built model.

    Call it in the strategy's scope.
    """
    if solver.optimizer == 'adamw':
        # 1e-8 is the published epsilon (arXiv 1412.6980) and PyTorch's default; Keras' default is 1e-7.
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=solver.weight_decay, epsilon=1e-8,
                                           name='adamw')    # fixed: the name is part of the checkpoint's keys
    else:
        optimizer = SGD(schedule, momentum=solver.momentum, weight_decay=solver.weight_decay, name='sgd')
    variables = model.trainable_variables
    optimizer.exclude_from_weight_decay([v for v in variables if not is_decayed(v, solver.decay_biases)])
    optimizer.build(variables)
    return optimizer


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
        momentum = self.momentums[self._index(variable)]
        if self._use_weight_decay(variable):
            gradient += self.weight_decay * tf.convert_to_tensor(variable)
        momentum.assign(self.momentum * tf.convert_to_tensor(momentum) + gradient)
        variable.assign_sub(rate * tf.convert_to_tensor(momentum))

    def _index(self, variable: tf.Variable) -> int:
        keras_3 = hasattr(self, '_trainable_variables_indices')
        return (self._trainable_variables_indices if keras_3 else self._index_dict)[self._var_key(variable)]

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: weight decay is part of the gradient, and Keras must not apply it again."""
