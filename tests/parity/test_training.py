"""Training against the reference: labels, losses, gradients and three SGD steps, on every case of the kit."""
from __future__ import annotations

import numpy as np

from tests.parity import training_stages
from tests.parity.reference import Case


def test_pieces(kit, hold, train_case, engine, jit) -> None:
    """What has no weights, from the reference's own numbers: labels of anchors and RoIs, matches, box targets."""
    case = Case(kit, train_case)
    hold(training_stages.pieces(case, case.settings(), jit), train_case, engine, 'jit' if jit else 'graph')


def test_network(kit, network, hold, train_case, engine, jit) -> None:
    """Losses, gradients, steps; what is not trained stays as it was."""
    network.cache_clear()                                     # a model that trained is not what it was
    case, model = network(train_case, engine)
    fixed = [(v, v.numpy()) for v in model.non_trainable_variables]
    hold(training_stages.stages(case, model, jit), train_case, engine, 'jit' if jit else 'graph')
    network.cache_clear()
    for variable, before in fixed:
        np.testing.assert_array_equal(variable.numpy(), before)
