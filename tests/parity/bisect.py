"""Which stage differs first from the reference, and by how much.

    python -m tests.parity.bisect CASE [--kit PATH] [--engine op|xla] [--jit]

CASE: a file of a kit without its ending, such as infer_maskrcnn_resnet18_fpn_0 of torchvision's or infer_mask_r50_c4_0
of Detectron2's; without --kit it is looked for in ../shared/parity and ../shared/parity_d2. Prints every stage in the
order of the network. A forced stage ('stored ...') is fed with what the reference stored of the one before: the first
that differs is the culprit, not its victim. Exit status: 0 where all hold, 1 where one differs, 2 for a kit that cannot
be used.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tests.parity.kit import Kit, KitError
from tests.paths import SHARED

if TYPE_CHECKING:
    from tests.parity.reference import Change, Difference

DEFAULT_KITS = (SHARED / 'parity', SHARED / 'parity_d2')


def stages(kit: Kit, name: str, engine: str, jit: bool, change: Change = lambda config: None) -> Iterator[Difference]:
    """All stages of a case; `change` alters our config, to see what a mistake does."""
    from tests.parity.cases import load

    case, module = load(kit, name)
    yield from module.stages(case, case.model(engine, change), jit)


def kit_of(case: str) -> pathlib.Path:
    """Return the default kit that has the case; the first kit where none has it."""
    return next((folder for folder in DEFAULT_KITS if (folder / f'{case}.npz').exists()), DEFAULT_KITS[0])


def report(differences: Iterable[Difference]) -> Difference | None:
    """Prints each as it comes; returns the first that does not hold."""
    first = None
    print(f'{"stage":38}{"largest difference":>20}{"limit":>12}')
    for found in differences:
        print(f'{found.stage:38}{found.size:20.3g}{found.limit:12.3g}{"" if found.held else "  DIFFERS"}', flush=True)
        first = first or (None if found.held else found)
    return first


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog='python -m tests.parity.bisect', description=__doc__.splitlines()[0])
    parser.add_argument('case', metavar='CASE')
    parser.add_argument('--kit', type=pathlib.Path)
    parser.add_argument('--engine', choices=['op', 'xla'], default='op')
    parser.add_argument('--jit', action='store_true', help='compile by XLA; takes the engine xla')
    options = parser.parse_args(arguments)
    if options.jit and options.engine != 'xla':
        parser.error('--jit takes --engine xla')
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    try:
        first = report(stages(Kit(options.kit or kit_of(options.case)), options.case, options.engine, options.jit))
    except KitError as error:
        print(error, file=sys.stderr)
        return 2
    print(f'first stage that differs: {first}' if first else 'all stages hold')
    return 1 if first else 0


if __name__ == '__main__':
    sys.exit(main())
