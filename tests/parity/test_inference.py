"""Inference against the reference, stage by stage and along the whole chain, on every case of the kit."""
from __future__ import annotations

from tests.parity import inference_stages
from tests.parity.reference import Case


def test_pieces(kit, hold, infer_case, engine, jit) -> None:
    """What has no weights, from the reference's own numbers: anchors, proposals, levels, selection, pasted masks."""
    case = Case(kit, infer_case)
    hold(inference_stages.pieces(case, case.settings(), engine, jit), infer_case, engine, 'jit' if jit else 'graph')


def test_network(network, hold, infer_case, engine, jit) -> None:
    """Every stored stage, forced and along the chain."""
    case, model = network(infer_case, engine)
    hold(inference_stages.stages(case, model, jit), infer_case, engine, 'jit' if jit else 'graph')
