"""Which module compares a case: both kits give a list of stages, each with its difference and limit."""
from __future__ import annotations

from types import ModuleType

from tests.parity import detectron2_inference, detectron2_training, inference_stages, training_stages
from tests.parity.detectron2_case import Detectron2Case
from tests.parity.kit import Kit
from tests.parity.reference import Case

_CASES: dict[str, type[Case]] = {'torchvision': Case, 'detectron2': Detectron2Case}
_STAGES = {('torchvision', 'infer'): inference_stages, ('torchvision', 'train'): training_stages,
           ('detectron2', 'infer'): detectron2_inference, ('detectron2', 'train'): detectron2_training}


def load(kit: Kit, name: str) -> tuple[Case, ModuleType]:
    """Return a case and the module whose `pieces(case, settings, engine, jit)` and `stages(case, model, jit)` fit it.

    Raises:
        KitError: the kit has no such case, or it is damaged.
    """
    case = _CASES[kit.framework](kit, name)
    return case, _STAGES[kit.framework, name.partition('_')[0]]
