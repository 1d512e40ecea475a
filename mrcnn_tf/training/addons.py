"""SGDW and LAMB of tensorflow-addons, on the stack that has them: TensorFlow 2.15.

They are optimizers of Keras' legacy kind. The classes here give them the interface of the others: `build`, and
`variables` as a property.
"""
from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from mrcnn_tf.config import ConfigError, SolverConfig

_SERVED = ('sgdw', 'lamb')


def serves(optimizer: str) -> bool:
    """Return whether this stack takes an optimizer from tensorflow-addons."""
    return optimizer in _SERVED and keras.__version__.startswith('2')


def build(solver: SolverConfig, schedule: LearningRateSchedule, variables: Sequence[Any], exempt: Sequence[Any]) -> Any:
    """Return SGDW or LAMB with slots.

    Args:
        solver: the settings.
        schedule: of the learning rate.
        variables: to train.
        exempt: those without weight decay; LAMB does not adapt their rate either.

    Raises:
        ConfigError: tensorflow-addons is not installed.
    """
    tfa = _import(solver.optimizer)
    # The variable of another replica has the suffix /replica_1.
    names = [f'^{re.escape(v.name.split(":")[0])}(/replica_[0-9]+)?(:[0-9]+)?$' for v in exempt]
    decay: Any = solver.weight_decay

    class Optimizer(tfa.optimizers.SGDW if solver.optimizer == 'sgdw' else tfa.optimizers.LAMB):    # type: ignore[misc]
        """The optimizer with Keras' present interface."""

        def build(self, variables: Sequence[Any]) -> None:
            """Create the slots."""
            self._create_all_weights(variables)

        @property
        def variables(self) -> list[Any]:
            """The number of updates, and the slots."""
            return self.weights

        def _do_use_weight_decay(self, variable: Any) -> bool:
            # SGDW of tensorflow-addons recognizes variables only of the first replica.
            return not any(re.search(name, variable.name) for name in names)

    if solver.optimizer == 'sgdw':
        optimizer = Optimizer(_Scaled(schedule, decay), learning_rate=schedule, momentum=solver.momentum, name='sgdw')
    else:
        optimizer = Optimizer(schedule, weight_decay=decay, epsilon=1e-6, exclude_from_layer_adaptation=names,
                              name='lamb')
    optimizer.build(variables)
    return optimizer


class _Scaled(LearningRateSchedule):
    """A schedule times a factor: tensorflow-addons does not scale the decay of SGDW by the rate, as Keras does."""

    def __init__(self, schedule: LearningRateSchedule, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Any) -> Any:
        return self.factor * self.schedule(step)

    def get_config(self) -> dict[str, Any]:
        return {'schedule': keras.optimizers.schedules.serialize(self.schedule), 'factor': self.factor}


def _import(optimizer: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')    # it says that its development has ended
            import tensorflow_addons
    except ImportError:
        raise ConfigError(f"solver.optimizer is {optimizer}: on TensorFlow 2.15 it needs tensorflow-addons; install it "
                          "with pip install 'mrcnn-tf[addons]', or choose sgd, adamw or lars") from None
    return tensorflow_addons
