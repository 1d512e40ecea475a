"""ARCHITECTURE.md's table of packages is the order of imports: a module imports only its own package and those above.

A row is a file, a package (`backbones/`) or several files; inside a row imports are free unless they form a circle.
"""
from __future__ import annotations

import ast
import graphlib
import pathlib
import re

import pytest

from tests.paths import ROOT

_PACKAGES = ('mrcnn_tf', 'data_tools')
_MAY_IMPORT_DATA_TOOLS = ('mrcnn_tf.training.alternating', 'mrcnn_tf.cli')     # packages, or modules of them


def rows(architecture: str) -> dict[str, int]:
    """Row number of every path in the first column of the table of packages, such as `mrcnn_tf/boxes.py`."""
    table = re.search(r'^\| package \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)', architecture, re.MULTILINE)
    assert table, 'ARCHITECTURE.md has no table that starts with | package |'
    cells = [line.split('|')[1] for line in table[1].splitlines()]
    return {path: number for number, cell in enumerate(cells) for path in re.findall(r'`([^`]+)`', cell)}


def modules(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Dotted name to path below `root`; a package goes by its own name."""
    found = {}
    for package in _PACKAGES:
        for path in sorted((root / package).rglob('*.py')):
            relative = path.relative_to(root)
            parts = relative.parent.parts if relative.name == '__init__.py' else relative.with_suffix('').parts
            found['.'.join(parts)] = relative
    return found


def imports(source: str, name: str, known: dict[str, pathlib.Path]) -> set[str]:
    """Which of the `known` modules the source of module `name` imports, inside functions too."""
    package = name if known[name].name == '__init__.py' else name.rpartition('.')[0]
    wanted = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wanted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
            origin = '.'.join([*parts, *([node.module] if node.module else [])])
            wanted += [f'{origin}.{alias.name}' for alias in node.names]
    return {_module(dotted, known) for dotted in wanted if dotted.split('.')[0] in _PACKAGES}


def _module(dotted: str, known: dict[str, pathlib.Path]) -> str:
    """The module that `dotted`, a module or a name inside of one, comes from."""
    while dotted not in known and '.' in dotted:
        dotted = dotted.rpartition('.')[0]
    return dotted


def row_of(path: pathlib.Path, numbers: dict[str, int]) -> int | None:
    """The row of a file: its own or its package's; an `__init__.py` outside of all rows stands above them."""
    names = [path.as_posix(), *(f'{parent.as_posix()}/' for parent in path.parents)]
    return next((numbers[name] for name in names if name in numbers), -1 if path.name == '__init__.py' else None)


def violations(root: pathlib.Path) -> list[str]:
    """One line for each module outside the table, row without a file, import of what stands below, and circle."""
    numbers, known = rows((root / 'ARCHITECTURE.md').read_text()), modules(root)
    places = {name: row_of(path, numbers) for name, path in known.items()}
    found = [f'{known[name]} is not in the table' for name, row in places.items() if row is None]
    found += [f'{path} is in the table only' for path in numbers if not (root / path).exists()]
    graph = {name: imports((root / path).read_text(), name, known) for name, path in known.items()}
    for name, targets in graph.items():
        for target in sorted(targets):
            here, there = places[name], places.get(target)
            if here is not None and there is not None and there > here:
                found.append(f'{known[name]} imports {target}, which stands below it')
            if target.startswith('data_tools') and name.startswith('mrcnn_tf') and not name.startswith(
                    _MAY_IMPORT_DATA_TOOLS):
                found.append(f'{known[name]} imports {target}; only what joins all parts may')
    return found + _circles(graph)


def _circles(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return ['circle: ' + ' <- '.join(error.args[1])]
    return []


def test_every_module_imports_only_what_stands_above_it() -> None:
    assert violations(ROOT) == []


_TABLE = """# Sample

| package | contains |
|---|---|
| `mrcnn_tf/config.py` | settings |
| `mrcnn_tf/input/records.py` | records |
| `mrcnn_tf/backbones/` | backbones |
| `data_tools/` | converters |
| `mrcnn_tf/cli/demo.py`, `mrcnn_tf/cli/main.py` | commands |

| other | table |
|---|---|
| `mrcnn_tf/other.py` | no module |
"""
_SOURCES = {
    'mrcnn_tf/__init__.py': '',
    'mrcnn_tf/config.py': 'import os',
    'mrcnn_tf/input/__init__.py': '',
    'mrcnn_tf/input/records.py': 'from mrcnn_tf import __version__, config',
    'mrcnn_tf/backbones/__init__.py': '',
    'mrcnn_tf/backbones/fpn.py': 'from . import resnet\nfrom ..input.records import encode\nimport mrcnn_tf.config',
    'mrcnn_tf/backbones/resnet.py': 'from mrcnn_tf.config import Config',
    'data_tools/__init__.py': '',
    'data_tools/coco.py': 'from mrcnn_tf.input import records',
    'mrcnn_tf/cli/demo.py': 'import data_tools.coco',
    'mrcnn_tf/cli/main.py': 'def main():\n    from mrcnn_tf.cli import demo',
}


def _tree(root: pathlib.Path, **changes: str) -> pathlib.Path:
    for name, source in {'ARCHITECTURE.md': _TABLE, **_SOURCES, **changes}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    return root


def test_a_sound_tree_passes(tmp_path: pathlib.Path) -> None:
    assert violations(_tree(tmp_path)) == []


@pytest.mark.parametrize(('path', 'source', 'expected'), [
    ('mrcnn_tf/config.py', 'import mrcnn_tf.input.records',
     ['mrcnn_tf/config.py imports mrcnn_tf.input.records, which stands below it']),
    ('mrcnn_tf/config.py', 'def f():\n    from .input import records as r',
     ['mrcnn_tf/config.py imports mrcnn_tf.input.records, which stands below it']),
    ('mrcnn_tf/input/records.py', 'from ..backbones.fpn import FPN',
     ['mrcnn_tf/input/records.py imports mrcnn_tf.backbones.fpn, which stands below it']),
    ('mrcnn_tf/backbones/resnet.py', 'if True:\n    from data_tools import coco',
     ['mrcnn_tf/backbones/resnet.py imports data_tools.coco, which stands below it',
      'mrcnn_tf/backbones/resnet.py imports data_tools.coco; only what joins all parts may']),
    ('data_tools/coco.py', 'from mrcnn_tf.cli.demo import run',
     ['data_tools/coco.py imports mrcnn_tf.cli.demo, which stands below it']),
    ('mrcnn_tf/__init__.py', 'from mrcnn_tf.config import Config',
     ['mrcnn_tf/__init__.py imports mrcnn_tf.config, which stands below it']),
    ('mrcnn_tf/input/__init__.py', 'from mrcnn_tf.input.records import encode',
     ['mrcnn_tf/input/__init__.py imports mrcnn_tf.input.records, which stands below it']),
    ('mrcnn_tf/stray.py', '', ['mrcnn_tf/stray.py is not in the table']),
    ('mrcnn_tf/serving/export.py', '', ['mrcnn_tf/serving/export.py is not in the table']),
])
def test_a_violation_is_caught(path: str, source: str, expected: list[str], tmp_path: pathlib.Path) -> None:
    found = violations(_tree(tmp_path, **{path: source}))
    assert [line for line in found if not line.startswith('circle')] == expected


def test_a_circle_inside_a_package_is_caught(tmp_path: pathlib.Path) -> None:
    found = violations(_tree(tmp_path, **{'mrcnn_tf/backbones/resnet.py': 'from mrcnn_tf.backbones.fpn import FPN'}))
    assert len(found) == 1 and found[0].startswith('circle: ')
    assert 'mrcnn_tf.backbones.fpn' in found[0] and 'mrcnn_tf.backbones.resnet' in found[0]


def test_a_row_without_a_file_is_caught(tmp_path: pathlib.Path) -> None:
    root = _tree(tmp_path)
    (root / 'mrcnn_tf' / 'cli' / 'main.py').unlink()
    assert violations(root) == ['mrcnn_tf/cli/main.py is in the table only']
