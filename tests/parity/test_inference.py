"""Inference against the references, stage by stage and along the whole chain, on every case of the kits."""
from __future__ import annotations

import pytest

from tests.parity.cases import load


def test_pieces(kit_of_case, hold, infer_case, engine, jit) -> None:
    """What has no weights, from the reference's own numbers: anchors, boxes, proposals, levels, pasted masks."""
    case, module = load(kit_of_case, infer_case)
    hold(module.pieces(case, case.settings(), engine, jit), infer_case, engine, 'jit' if jit else 'graph')


@pytest.mark.large
def test_network(network, kit_of_case, hold, infer_case, engine, jit) -> None:
    """Every stored stage, forced and along the chain."""
    case, module, model = network(kit_of_case, infer_case, engine)
    hold(module.stages(case, model, jit), infer_case, engine, 'jit' if jit else 'graph')
