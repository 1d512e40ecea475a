"""What changed between two reports: the sections of a page that `--against` adds."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mrcnn_tf.evaluation import diagnostics
from mrcnn_tf.evaluation.report import Numbers
from mrcnn_tf.files.html import card, decimal, escape, table

_SHOWN = 10     # categories and images with the largest changes
_NAMES = {'bbox': 'boxes', 'segm': 'masks'}


def sections(new: Numbers, old: Numbers) -> Iterable[str]:
    """Yield the HTML of the changes from the old report to the new one."""
    yield f'<h2 id="changes">Changes against {escape(old["model"])}</h2>'
    if new['data'] != old['data'] or new['images'] != old['images']:
        yield (f'<p><b>The other report is of another set</b>: {escape(old["data"])}, {old["images"]} images. '
               'Differences may come from the data.</p>')
    yield '<div class="charts">'
    shared = [name for name in new['metrics'] if name in old['metrics']]
    yield _card('Metrics', [(name, old['metrics'][name], new['metrics'][name]) for name in shared])
    for kind in new['kinds']:
        if kind in old['kinds']:
            yield from _of_kind(_NAMES[kind], new['kinds'][kind], old['kinds'][kind])
    yield '</div>'


def largest(new: Numbers, old: Numbers, name: str = 'AP') -> list[tuple[str, float, float]]:
    """Return category, old and new metric of the categories that both have, the largest change first."""
    before = {row['category']: row[name] for row in old['categories']}
    rows = [(row['category'], before[row['category']], row[name]) for row in new['categories']
            if row[name] is not None and before.get(row['category']) is not None]
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: -abs(row[2] - row[1]))[:_SHOWN]


def changed_images(new: Numbers, old: Numbers) -> list[tuple[int, float, float]]:
    """Return id, old and new F1 of the images that both have, the largest change first."""
    after, before = ({counts[0]: float(diagnostics.f1(np.array([counts[1:]]))[0]) for counts in each['image_counts']}
                     for each in (new, old))
    rows = [(image, before[image], value) for image, value in after.items() if image in before]
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: -abs(row[2] - row[1]))[:_SHOWN]


def _of_kind(name: str, new: Numbers, old: Numbers) -> Iterable[str]:
    yield _card(f'Errors of {name}: cost', [
        (kind, old['errors'][kind]['cost'], each['cost']) for kind, each in new['errors'].items()
        if kind in old['errors']])
    yield _card(f'Categories with the largest changes: AP of {name}', largest(new, old))
    yield _card(f'Images with the largest changes: F1 of {name}', [
        (f'id {image}', before, after) for image, before, after in changed_images(new, old)])


def _card(title: str, rows: Sequence[tuple[str, float | None, float | None]]) -> str:
    """Return a table of name, old value, new value and difference."""
    if not rows:
        return card(title, 'no changes')
    return card(title, '', table(['', 'before', 'now', 'change'], [
        [name, decimal(before), decimal(after), _difference(before, after)] for name, before, after in rows]))


def _difference(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return '-'
    return f'{after - before:+.3f}' if round(after - before, 3) else '0'
