"""Pieces of self-contained HTML pages, such as those of `mrcnn inspect` and `mrcnn evaluate --report`.

A page runs no script and loads nothing, which its Content-Security-Policy enforces, and text of the data is escaped.
Its colors follow the browser's light or dark mode. A click on an image fills the window with it.
"""
from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from html import escape as escape_html
from typing import Any

from mrcnn_tf.files.text import one_line
from mrcnn_tf.files.writing import atomic_path

ROWS = 25     # of a bar chart, before the rest is folded

STYLE = """
:root { color-scheme: light dark; --page: #fafaf8; --card: #fff; --ink: #1c1e21; --soft: #62676e; --line: #dedfdb;
  --bar: #3b74c4; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1e2125; --ink: #e8e8e6; --soft: #9ba1a8;
  --line: #33373c; --bar: #6c9fe6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 90rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.8rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem; }
h3 { margin: 0 0 .6rem; font-size: 1rem; } p { margin: .25rem 0; color: var(--soft); }
.tiles, .pictures { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); margin-top: 1.25rem; }
.charts { columns: 26rem; column-gap: 1rem; } .charts .card { break-inside: avoid; margin-bottom: 1rem; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(34rem, 100%), 1fr)); align-items: start; }
.card, figure { margin: 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; } .tile { color: var(--soft); }
.tile b { color: var(--ink); }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th { text-align: left; font-weight: normal; } td, th { padding: .1rem .4rem .1rem 0; vertical-align: top; }
.bars th { min-width: 9.5rem; } .bars td { width: 100%; }
.bars td.n { width: auto; text-align: right; padding-right: 0; font-variant-numeric: tabular-nums; white-space: nowrap;
  color: var(--soft); }
.bar { display: block; height: .8rem; margin-top: .3rem; min-width: 1px; border-radius: 2px; background: var(--bar); }
.none .bar { visibility: hidden; }
.list td, .list th { border-top: 1px solid var(--line); padding: .35rem .6rem .35rem 0; }
.list .n { text-align: right; font-variant-numeric: tabular-nums; }
.list { overflow-wrap: normal; } details { margin-top: .4rem; }
.list details { margin-top: 0; overflow-wrap: anywhere; } summary { cursor: pointer; color: var(--soft); }
figure { padding: .6rem; } figure img { display: block; width: 100%; height: auto; border-radius: .3rem; }
figure input { position: absolute; opacity: 0; } figure img { cursor: zoom-in; }
figure :focus-visible + img { outline: 3px solid var(--bar); }
figure :checked + img { position: fixed; z-index: 1; inset: 0; height: 100%; object-fit: contain; cursor: zoom-out;
  border-radius: 0; background: var(--page); }
figcaption { margin-top: .4rem; font-size: .85rem; color: var(--soft); } figcaption b { color: var(--ink); }
""".strip()


def write_page(path: str | os.PathLike[str], text: str) -> None:
    """Write a page as UTF-8, atomically. Halves of characters are written as \\udcff.

    Raises:
        OSError: as for `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def document(title: Any, body: Iterable[str], style: str = '') -> str:
    """Return a page with a title, which is also its heading.

    Args:
        title: text, which is escaped.
        body: lines of HTML.
        style: CSS after the common one.
    """
    return '\n'.join((
        '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        'content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f'<title>{escape(title)}</title>',
        f'<style>{STYLE}{style}</style>', '</head>', '<body>', f'<h1>{escape(title)}</h1>', *body, '</body>', '</html>',
        ''))


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Return a row of cards, each a value in large type and what it counts."""
    cards = (f'<div class="card tile"><b>{escape(value)}</b>{escape(what)}</div>' for value, what in values)
    return f'<div class="tiles">{"".join(cards)}</div>'


def bar_chart(title: str, rows: Sequence[tuple[str, int, str]], unit: str, shown: int = ROWS) -> str:
    """Return a bar chart of (name, count, text behind the count); rows beyond `shown` are folded."""
    largest = max((count for _, count, _ in rows), default=0) or 1
    return bars(title, unit, [(name, count / largest, f'{number(count)}{more}') for name, count, more in rows], shown)


def bars(title: str, note: str, rows: Sequence[tuple[str, float, str]], shown: int = ROWS) -> str:
    """Return a chart of (name, length 0..1 of the bar, text behind it); rows beyond `shown` are folded."""
    lines = [f'<tr class="{"some" if length > 0 else "none"}"><th>{escape(name)}</th><td><span class="bar" '
             f'style="width:{100 * length:.1f}%"></span></td><td class="n">{escape(text)}</td></tr>'
             for name, length, text in rows]
    return card(title, note, _table(lines[:shown], 'bars'), folded(lines[shown:], 'bars'))


def card(title: str, note: str, *parts: str) -> str:
    """Return a card with a title, a line below it, and parts of HTML."""
    return f'<div class="card"><h3>{escape(title)}</h3><p>{escape(note)}</p>{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], shown: int = ROWS) -> str:
    """Return a table; the first column is text, the others are aligned as numbers; rows beyond `shown` are folded."""
    first = f'<tr>{"".join(_cell(text, i) for i, text in enumerate(head))}</tr>'
    lines = [f'<tr>{"".join(_cell(text, i) for i, text in enumerate(row))}</tr>' for row in rows]
    return _table([first, *lines[:shown]], 'list') + folded(lines[shown:], 'list', first)


def folded(rows: Sequence[str], style: str, head: str = '') -> str:
    """Return rows of a table that a click unfolds; nothing without rows."""
    more = f'<summary>{len(rows)} more</summary>{_table([head, *rows], style)}'
    return f'<details>{more}</details>' if rows else ''


def figure(jpeg: bytes, name: str, caption: str) -> str:
    """Return an image that a click enlarges, above its name and a caption; both are escaped."""
    return (f'<figure><label><input type="checkbox"><img alt="{escape(name)}" '
            f'src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"></label>'
            f'<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption></figure>')


def escape(text: Any) -> str:
    """Return text of the data for a page: without markup and controls, at most 500 characters.

    Example:
        >>> escape('a < b')
        'a &lt; b'
    """
    return escape_html(one_line(text, 500))


def number(value: int) -> str:
    """Return a count with commas.

    Example:
        >>> number(1234567)
        '1,234,567'
    """
    return f'{value:,}'


def decimal(value: float | None, signed: bool = False) -> str:
    """Return a number with three decimals, '-' for None.

    Example:
        >>> decimal(.25), decimal(.25, signed=True), decimal(None)
        ('0.250', '+0.250', '-')
    """
    return '-' if value is None else f'{value:+.3f}' if signed else f'{value:.3f}'


def _cell(text: Any, column: int) -> str:
    return f'<td class="n">{escape(text)}</td>' if column else f'<th>{escape(text)}</th>'


def _table(rows: Iterable[str], style: str) -> str:
    return f'<table class="{style}">{"".join(rows)}</table>'
