"""The table of docs/parity.md, from what the tests measured.

    pytest tests/parity --all-modes --differences differences.jsonl      once on each stack, into the same file
    python -m tests.parity.table differences.jsonl                       prints the table
    python -m tests.parity.table differences.jsonl docs/parity.md        puts it where the old one is

A row is a stage of all cases, images and levels; a cell the largest difference of one stack, engine and mode. Of the
tables of operators, whose limits differ, the difference is given as a part of the limit.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BEGIN, END = '<!-- differences: tests/parity/table.py writes from here -->', '<!-- to here -->'
MODES = (('op', 'graph'), ('xla', 'graph'), ('xla', 'jit'))
WHOLE = {('op', 'graph'): 'op', ('xla', 'graph'): 'xla', ('xla', 'jit'): 'xla jit'}
_NUMBER = re.compile(r'(_| )(\d+|pool)$')

Row = Mapping[str, Any]


def rows(lines: Iterable[str]) -> list[Row]:
    """What the file holds; of a test that ran several times, the last.

    Raises:
        ValueError: a line that is none of ours.
    """
    found: dict[tuple[str, ...], Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            key = tuple(str(row[name]) for name in ('stack', 'case', 'engine', 'mode', 'stage'))
            found.pop(key, None)                           # the later one takes its place in the order too
            found[key] = {**row, 'size': float(row['size']), 'limit': float(row['limit'])}
        except (ValueError, TypeError, KeyError):
            raise ValueError(f'line {number} is not a measured difference; write the file by pytest --differences'
                             ) from None
    return list(found.values())


def stage(name: str) -> str:
    """Without image, level or step; losses and parameters before and after the first step stay apart."""
    base, _, step = name.rpartition(' ')
    if base.startswith('loss'):
        return f'{base}, {"before the first step" if step == "0" else "after steps"}'
    return _NUMBER.sub('', re.sub(r'^body_\d+(_mean|_std)$', r'body\1', name))


def tables(found: Sequence[Row]) -> str:
    """Tables in Markdown: the stages of the network, the operators, bfloat16 by case, and the rest."""
    stacks = sorted({row['stack'] for row in found}, reverse=True)
    rest = [row for row in found if row['case'] != 'ops' and (row['engine'], row['mode']) not in MODES]
    halves = [row for row in rest if row['mode'] == 'bfloat16']
    parts = [_network(found, stacks), _operators(found, stacks), _by_case(halves),
             _rest([row for row in rest if row['mode'] != 'bfloat16'], stacks)]
    return '\n\n'.join('\n'.join(part) for part in parts if len(part) > 2)


def _network(found: Sequence[Row], stacks: Sequence[str]) -> list[str]:
    network = [row for row in found if row['case'] != 'ops' and (row['engine'], row['mode']) in MODES]
    columns = [(stack, *mode) for stack in stacks for mode in MODES]
    heads = [f'{_release(stack)} {WHOLE[engine, mode]}' for stack, engine, mode in columns]
    lines = [f'| stage | limit | {" | ".join(heads)} |', '|---|---|' + '---|' * len(heads)]
    for name, part in _groups(network).items():
        limits = sorted({row['limit'] for row in part})
        limit = f'{limits[0]:.2g}' + (f' to {limits[-1]:.2g}' if len(limits) > 1 else '')
        cells = [_largest([row['size'] for row in part if (row['stack'], row['engine'], row['mode']) == column])
                 for column in columns]
        lines.append(f'| {name} | {limit} | {" | ".join(cells)} |')
    return lines


def _by_case(found: Sequence[Row]) -> list[str]:
    """The larger of both stacks."""
    names, cases = (list(dict.fromkeys(row[key] for row in found)) for key in ('stage', 'case'))
    lines = [f'| case | {" | ".join(names)} |', '|---|' + '---|' * len(names)]
    for case in cases:
        cells = [_largest([row['size'] for row in found if (row['case'], row['stage']) == (case, name)])
                 for name in names]
        lines.append(f'| {case} | {" | ".join(cells)} |')
    return lines


def _rest(found: Sequence[Row], stacks: Sequence[str]) -> list[str]:
    lines = [f'| | limit | {" | ".join(_release(stack) for stack in stacks)} |', '|---|---|' + '---|' * len(stacks)]
    for name, part in _groups(found).items():
        cells = [_largest([row['size'] for row in part if row['stack'] == stack]) for stack in stacks]
        lines.append(f'| {name} | {max(row["limit"] for row in part):.2g} | {" | ".join(cells)} |')
    return lines


def _operators(found: Sequence[Row], stacks: Sequence[str]) -> list[str]:
    heads = [_release(stack) for stack in stacks]
    lines = [f'| operators | {" | ".join(heads)} |', '|---|' + '---|' * len(heads)]
    for name, part in _groups([row for row in found if row['case'] == 'ops'], _operator).items():
        shares = [[_share(row) for row in part if row['stack'] == stack] for stack in stacks]
        lines.append(f'| {name} | {" | ".join(_largest(values) for values in shares)} |')
    return lines


def _release(stack: str) -> str:
    """'TF 2.21.0, Keras 3.15.1' -> 'TF 2.21'."""
    return '.'.join(stack.partition(',')[0].split('.')[:2])


def _operator(name: str) -> str:
    """Its table without the variant: thresholds, weights, directions."""
    return re.sub(r'_(\d+x\d+|legacy|aligned|ratio2|adaptive|\d+|plain|low|real|zero|row|up|down|eps|1e5)(?=_|$)', '',
                  name)


def _share(row: Row) -> float:
    return row['size'] / row['limit'] if row['limit'] else row['size']


def _groups(found: Iterable[Row], name: Any = stage) -> dict[str, list[Row]]:
    """Rows by stage, in the order in which they came."""
    groups: dict[str, list[Row]] = {}
    for row in found:
        groups.setdefault(name(row['stage']), []).append(row)
    return groups


def _largest(sizes: Sequence[float]) -> str:
    return f'{max(sizes):.2g}' if sizes else ''


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog='python -m tests.parity.table', description=__doc__.splitlines()[0])
    parser.add_argument('differences', type=pathlib.Path)
    parser.add_argument('document', type=pathlib.Path, nargs='?')
    options = parser.parse_args(arguments)
    try:
        table = tables(rows(options.differences.read_text(encoding='utf-8').splitlines()))
    except (OSError, ValueError) as error:
        print(f'{options.differences}: {error}', file=sys.stderr)
        return 1
    if options.document is None:
        print(table)
        return 0
    text = options.document.read_text(encoding='utf-8')
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f'{options.document}: no place for the table, between {BEGIN} and {END}', file=sys.stderr)
        return 1
    before, rest = text.split(BEGIN)
    options.document.write_text(f'{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
