"""Charts of a report as SVG and HTML: curves in the unit square, reliability of scores, the confusion matrix."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_tf.files.html import card, escape, number

_WIDTH, _HEIGHT = 340, 250                              # of the plot, without the margins
_LEFT, _TOP, _RIGHT, _BOTTOM = 44, 8, 12, 40
_TICKS = (0, .2, .4, .6, .8, 1)

STYLE = """
:root { --wrong: #c8563b; --c0: #3b74c4; --c1: #d98324; --c2: #3f9b5d; }
@media (prefers-color-scheme: dark) { :root { --wrong: #e5795d; --c0: #6c9fe6; --c1: #eaa353; --c2: #69c489; } }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); } .line { fill: none; stroke-width: 2; } .many { stroke-width: 1; opacity: .45; }
.many:hover { opacity: 1; stroke-width: 2.5; stroke: var(--wrong); } .dashed { stroke-dasharray: 4 4; }
.c0 { stroke: var(--c0); color: var(--c0); } .c1 { stroke: var(--c1); color: var(--c1); }
.c2 { stroke: var(--c2); color: var(--c2); } .soft { stroke: var(--soft); color: var(--soft); }
.column { fill: var(--c0); opacity: .55; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend b { font-weight: normal; }
.matrix { width: auto; } .matrix td, .matrix th { padding: .15rem .4rem; border: 1px solid var(--page);
  text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; vertical-align: middle; }
.matrix th { max-width: 11rem; } .matrix .head th { writing-mode: vertical-rl; transform: rotate(180deg);
  max-height: 11rem; text-align: left; }
.scroll { overflow-x: auto; }
""".strip()


class Line(NamedTuple):
    """A curve of points 0..1: name, x, y, and classes of `STYLE`, such as 'c0'."""
    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str


def curves(title: str, note: str, lines: Sequence[Line], axes: tuple[str, str], legend: bool = True) -> str:
    """Return a card with curves in the unit square; without a legend, a curve shows its name under the pointer."""
    drawn = ''.join(f'<path class="line {line.style}" d="{_path(line)}"><title>{escape(line.name)}</title></path>'
                    for line in lines)
    keys = ''.join(f'<span class="{line.style.split()[0]}">&#9644; <b>{escape(line.name)}</b></span>' for line in lines)
    return card(title, note, _svg(drawn, axes), f'<p class="legend">{keys}</p>' if legend else '')


def reliability(title: str, note: str, bins: Sequence[Mapping[str, float | None]]) -> str:
    """Return a card with a column for each range of scores, as high as its precision, and the diagonal.

    Args:
        title, note: of the card.
        bins: rows of `diagnostics.calibration`.
    """
    columns = []
    for row in bins:
        if row['detections']:
            left, top = _place(row['low'] or 0, row['precision'] or 0)
            right, bottom = _place(row['high'] or 0, 0)
            text = (f'{row["detections"]} detections, mean score {row["score"]:.3f}, precision '
                    f'{row["precision"]:.3f}')
            columns.append(f'<rect class="column" x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
                           f'height="{bottom - top:.1f}"><title>{escape(text)}</title></rect>')
    diagonal = f'<path class="line soft dashed" d="{_path(Line("", (0, 1), (0, 1), ""))}"/>'
    return card(title, note, _svg(''.join(columns) + diagonal, ('score', 'precision')))


def matrix(title: str, note: str, counts: np.ndarray, names: Sequence[str]) -> str:
    """Return a card with a confusion matrix, int [k, k]: rows are objects, columns detections.

    The color of a cell is its fraction of the row, of the column for the last row, which is background.
    """
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    fractions[-1] = counts[-1] / np.maximum(counts.sum(axis=0), 1)
    head = ''.join(f'<th>{escape(name)}</th>' for name in names)
    rows = (f'<tr><th>{escape(name)}</th>{_cells(counts[i], fractions[i], i)}</tr>' for i, name in enumerate(names))
    table = f'<table class="matrix"><tr class="head"><th></th>{head}</tr>{"".join(rows)}</table>'
    return card(title, note, f'<div class="scroll">{table}</div>')


def _cells(counts: np.ndarray, fractions: np.ndarray, row: int) -> str:
    def cell(column: int) -> str:
        if not counts[column]:
            return '<td></td>'
        color = '59 116 196' if column == row else '200 86 59'
        return f'<td style="background:rgb({color} / {.1 + .7 * fractions[column]:.2f})">{number(counts[column])}</td>'
    return ''.join(map(cell, range(len(counts))))


def _svg(drawn: str, axes: tuple[str, str]) -> str:
    """Return a plot of the unit square with a grid and the names of the axes."""
    parts = []
    for tick in _TICKS:
        (x, bottom), (left, y) = _place(tick, 0), _place(0, tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}M{left} {y:.1f}H{_LEFT + _WIDTH}"/>'
                     f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>'
                     f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    center, middle, bottom = _LEFT + _WIDTH / 2, _TOP + _HEIGHT / 2, _TOP + _HEIGHT + _BOTTOM
    parts.append(f'<text x="{center}" y="{bottom - 8}" text-anchor="middle">{escape(axes[0])}</text>'
                 f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(axes[1])}</text>')
    size = f'0 0 {_LEFT + _WIDTH + _RIGHT} {bottom}'
    return f'<svg viewBox="{size}" role="img">{"".join(parts)}{drawn}</svg>'


def _path(line: Line) -> str:
    points = (_place(x, y) for x, y in zip(line.x, line.y, strict=True))
    return 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in points)


def _place(x: float, y: float) -> tuple[float, float]:
    """Return the position in the SVG of a point of the unit square."""
    return _LEFT + _WIDTH * x, _TOP + _HEIGHT * (1 - y)
