"""Training against the references: labels, losses, gradients, SGD steps, on every case of the kits."""
from __future__ import annotations

import numpy as np
import pytest

from tests.parity.cases import load


def test_pieces(kit_of_case, hold, train_case, engine, jit) -> None:
    """What has no weights, from the reference's own numbers: labels of anchors and RoIs, matches, box targets."""
    case, module = load(kit_of_case, train_case)
    hold(module.pieces(case, case.settings(), engine, jit), train_case, engine, 'jit' if jit else 'graph')


@pytest.mark.large
def test_network(network, kit_of_case, hold, train_case, engine, jit) -> None:
    """Losses, gradients, steps; what is not trained stays as it was."""
    network.cache_clear()                                     # a model that trained is not what it was
    case, module, model = network(kit_of_case, train_case, engine)
    fixed = [(v, v.numpy()) for v in model.non_trainable_variables]
    hold(module.stages(case, model, jit), train_case, engine, 'jit' if jit else 'graph')
    network.cache_clear()
    for variable, before in fixed:
        np.testing.assert_array_equal(variable.numpy(), before)
