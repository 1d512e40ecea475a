"""Which cases of the kits run in which modes, and where their differences are noted down."""
from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import KITS, NO_KIT, forget_graphs
from tests.parity.kit import Kit

MODES = (('op', False), ('xla', False), ('xla', True))      # engine, compiled by XLA
KINDS = {'infer_case': 'infer', 'train_case': 'train'}
# Without all modes these run once, by the engine 'op'. They are large, and what is special about them is a backbone or
# a size.
LARGE = ('infer_faster_r101_fpn_0', 'infer_mask_x101_fpn_0', 'infer_mask_r50_fpn_1')
# Of the slow runs, .ci/run makes only these on TensorFlow 2.15 too: one of each kit, engine and mode.
BOTH_STACKS = ('infer_maskrcnn_resnet18_fpn_1-xla', 'infer_maskrcnn_resnet18_fpn_2-xla-jit', 'infer_mask_r50_c4_0-op',
               'train_maskrcnn_resnet50_fpn_0-xla')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `infer_case` or `train_case` run for every case of torchvision's kit; with `engine` and `jit`, of
    both kits and in modes; then they take `kit_of_case` too. Tests that take `each_kit` run for both kits."""
    config = metafunc.config
    if 'each_kit' in metafunc.fixturenames:
        kits = [pytest.param(kit, id=kit.framework) for kit in config.stash[KITS]]
        metafunc.parametrize('each_kit', kits or [_none('no kit', None)])
    for fixture, kind in KINDS.items():
        if fixture in metafunc.fixturenames and 'engine' in metafunc.fixturenames:
            _check_both_stacks(config)
            names = 'kit_of_case', fixture, 'engine', 'jit'
            runs = [run for kit in config.stash[KITS] for run in _runs(config, kit, kind, 'network' in
                                                                       metafunc.fixturenames)]
            metafunc.parametrize(names, runs or [_none(kind, None, None, 'op', False)])
        elif fixture in metafunc.fixturenames:
            cases = [name for kit in config.stash[KITS] if kit.framework == 'torchvision' for name in kit.cases(kind)]
            chosen = cases if _every(config) else dict.fromkeys([*cases[:1], *cases[-1:]])    # R18 and R50
            metafunc.parametrize(fixture, list(chosen) or [_none(kind, None)])


def _check_both_stacks(config: pytest.Config) -> None:
    """Raise an error if a name in BOTH_STACKS is of no run that is made, which would go unnoticed."""
    kits = config.stash[KITS]
    runs = [run.id for kit in kits for kind in KINDS.values() for run in _runs(config, kit, kind, True)]
    if len(kits) > 1 and (odd := set(BOTH_STACKS) - set(runs)):
        raise pytest.UsageError(f'BOTH_STACKS names {min(odd)}, which does not run; choose another run')


def _every(config: pytest.Config) -> bool:
    return bool(config.getoption('--kit') or config.getoption('--all-modes'))


def _none(kind: str, *values: Any) -> Any:
    """In place of the cases where there are none."""
    return pytest.param(*values, marks=pytest.mark.skip(reason=f'{NO_KIT} with {kind}_*.npz'), id='no kit')


def _runs(config: pytest.Config, kit: Kit, kind: str, whole: bool) -> Iterator[Any]:
    for number, name in enumerate(kit.cases(kind)):
        first = (kit.framework, number) == ('torchvision', 0)
        for place, (engine, jit) in enumerate(MODES):
            # Without all modes one mode, in turn. Of training in the other direction: of torchvision's cases, XLA then
            # compiles a step of R18, not that of R50, which takes more than 3 GB.
            chosen = 0 if name in LARGE else (number if kind == 'infer' else -number) % len(MODES)
            if _every(config) or place == chosen:
                run = f'{name}-{engine}{"-jit" * jit}'
                quick = not whole or (first and (place, kind) == (0, 'infer'))
                marks = [] if quick else [pytest.mark.slow]
                yield pytest.param(kit, name, engine, jit, id=run,
                                   marks=marks + [pytest.mark.both_stacks] * (run in BOTH_STACKS))


@pytest.fixture(scope='session')
def network() -> Callable[[Kit, str, str], Any]:
    """(kit, case, engine) -> the case, the module of its stages and our model; the last one made is kept."""
    from tests.parity.cases import load

    @functools.lru_cache(maxsize=1)
    def make(kit: Kit, name: str, engine: str) -> tuple[Any, Any, Any]:
        case, module = load(kit, name)
        return case, module, case.model(engine)

    return make


@pytest.fixture(autouse=True)
def _forget_after_a_case(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.node.get_closest_marker('slow'):
        forget_graphs()


@pytest.fixture
def hold(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Notes differences down and asserts that all hold. Arguments: the differences, then what ran, for the table."""
    path = request.config.getoption('--differences')

    def check(differences: Iterable[Any], case: str, engine: str, mode: str) -> None:
        found = list(differences)
        if path:
            _append(pathlib.Path(path), found, case, engine, mode)
        assert found, f'{case}: nothing was compared'
        wrong = [str(difference) for difference in found if not difference.held]
        assert not wrong, f'{case}: {len(wrong)} of {len(found)} stages differ, first {wrong[0]}'

    return check


def _append(path: pathlib.Path, found: list[Any], case: str, engine: str, mode: str) -> None:
    from importlib import metadata

    stack = f'TF {metadata.version("tensorflow")}, Keras {metadata.version("keras")}'
    lines = [json.dumps({'stack': stack, 'case': case, 'engine': engine, 'mode': mode, 'stage': d.stage,
                         'size': float(d.size), 'limit': float(d.limit)}) + '\n' for d in found]
    with path.open('a', encoding='utf-8') as stream:        # several processes append: each test in one write
        stream.write(''.join(lines))


@pytest.fixture
def held(hold: Callable[..., None], kit: Kit) -> Callable[..., None]:
    """Holds one table of operators: its name, ours and the reference's values, then what ran."""
    from tests.parity.reference import Difference, farthest

    def check(name: str, ours: Any, theirs: Any, mode: str = 'eager', engine: str = '-') -> None:
        scale = max(1., np.abs(np.asarray(theirs, np.float64)).max(initial=0.))
        limit = 0. if np.asarray(theirs).dtype.kind in 'iub' else kit.limit('ops', 'ops') * scale
        hold([Difference(name, farthest(ours, theirs), limit)], 'ops', engine, mode)

    return check
