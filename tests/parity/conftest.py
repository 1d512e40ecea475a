"""Which cases of the kit run in which modes, and where their differences are noted down."""
from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import KIT, NO_KIT, forget_graphs
from tests.parity.kit import Kit

MODES = (('op', False), ('xla', False), ('xla', True))      # engine, compiled by XLA
KINDS = {'infer_case': 'infer', 'train_case': 'train'}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `infer_case` or `train_case` run for every case of the kit; with `engine` and `jit`, in modes."""
    for fixture, kind in KINDS.items():
        if fixture in metafunc.fixturenames and 'engine' in metafunc.fixturenames:
            names = fixture, 'engine', 'jit'
            metafunc.parametrize(names, list(_runs(metafunc.config, kind, 'network' in metafunc.fixturenames)))
        elif fixture in metafunc.fixturenames:
            cases = _cases(metafunc.config, kind)
            chosen = cases if _every(metafunc.config) else dict.fromkeys([*cases[:1], *cases[-1:]])    # R18 and R50
            metafunc.parametrize(fixture, list(chosen) or [_none(metafunc.config, kind, None)])


def _every(config: pytest.Config) -> bool:
    return bool(config.getoption('--kit') or config.getoption('--all-modes'))


def _cases(config: pytest.Config, kind: str) -> list[str]:
    kit: Kit | None = config.stash[KIT]
    return kit.cases(kind) if kit else []


def _none(config: pytest.Config, kind: str, *values: Any) -> Any:
    """In place of the cases where there are none."""
    kit: Kit | None = config.stash[KIT]
    reason = f'{kit.folder} has no {kind}_*.npz' if kit else NO_KIT
    return pytest.param(*values, marks=pytest.mark.skip(reason=reason), id='no kit')


def _runs(config: pytest.Config, kind: str, whole: bool) -> Iterator[Any]:
    cases = _cases(config, kind)
    if not cases:
        yield _none(config, kind, None, 'op', False)
    for number, name in enumerate(cases):
        # Without all modes: the first case runs in the two that share least, every other in one, in turn.
        for place, (engine, jit) in enumerate(MODES):
            if _every(config) or place == number % len(MODES) or (number, place) == (0, len(MODES) - 1):
                quick = not whole or (number, place, kind) == (0, 0, 'infer')
                marks = [] if quick else [pytest.mark.slow]
                yield pytest.param(name, engine, jit, marks=marks, id=f'{name}-{engine}{"-jit" * jit}')


@pytest.fixture(scope='session')
def network(kit: Kit) -> Callable[[str, str], Any]:
    """(case, engine) -> the case and our model with its weights; the last one made is kept."""
    from tests.parity.reference import Case

    @functools.lru_cache(maxsize=1)
    def make(name: str, engine: str) -> tuple[Any, Any]:
        case = Case(kit, name)
        return case, case.model(engine)

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
