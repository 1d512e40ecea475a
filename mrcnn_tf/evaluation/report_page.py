"""The page of `mrcnn evaluate --report`, made of the numbers of `report.numbers`."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_tf.evaluation import charts, report
from mrcnn_tf.evaluation.charts import Line
from mrcnn_tf.evaluation.errors import KINDS
from mrcnn_tf.evaluation.report import Numbers
from mrcnn_tf.evaluation.report_changes import sections as changes
from mrcnn_tf.files.html import bars, card, decimal, document, escape, number, table, tiles

KIND_NAMES = {'bbox': 'Boxes', 'segm': 'Masks'}
_MATRIX, _NARROW = 25, 8     # categories of the confusion matrix, and of one that is as wide as a chart
_CURVES = 100      # categories whose curves are drawn
_CONFUSIONS = 10   # pairs of categories
_METRICS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
_RECALLS = [i / 100 for i in range(101)]
_STYLE = """
.wide { margin-top: 1rem; overflow-x: auto; } nav a { margin-right: 1rem; color: var(--bar); }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(55rem, 100%), 1fr)); }
"""
_EXPLAINED = (
    ('Errors', "TIDE's six kinds (Bolya et al., ECCV 2020) at IoU 0.5; each detection has one. Classification: IoU 0.5 "
     'or more with an object of another category. Localization: IoU 0.1 to 0.5 with an object of its category. Both: '
     'IoU 0.1 to 0.5 with an object of another category. Duplicate: the object is found by a better detection. '
     'Background: all others. Missed: an object that no detection finds or nearly finds. The cost is how much AP50 '
     'would rise if all errors of the kind were corrected. The costs do not add up.'),
    ('Threshold', 'The score with the best F1, at IoU 0.5. Give it as --threshold to `mrcnn predict`.'),
    ('Confusion', 'Detections above the best threshold of all categories together. Those that find an object of their '
     'category are on the diagonal; the others are assigned by IoU, 0.5 or more, to the objects that are left.'),
    ('Calibration', 'Of detections with a score of 0.8, 80 % should be correct. The expected calibration error is the '
     'mean distance between score and precision.'),
    ('Crowds', "Objects marked as crowds are ignored, as in COCO's metrics: they are not objects to find, and "
     'detections inside of them are not errors.'))


def page(values: Numbers, pictures: Sequence[str] = (), other: Numbers | None = None) -> str:
    """Return the HTML.

    Args:
        values: of the report.
        pictures: figures of the worst images, as HTML.
        other: the numbers of the report to compare with.
    """
    return document(f'Evaluation of {values["model"]}', (
        *_head(values), *(changes(values, other) if other else ()), '<h2 id="metrics">Metrics</h2>',
        _metrics(values),
        *(line for kind in values['kinds'] for line in _kind(kind, values['kinds'][kind])),
        *_worst(pictures, values), *_explanations(), report.embed(values)), charts.STYLE + _STYLE)


def _head(values: Numbers) -> Iterable[str]:
    yield f'<p>Set {escape(values["data"])}</p>'
    links = [('metrics', 'Metrics'), *((kind, KIND_NAMES[kind]) for kind in values['kinds']),
             ('images', 'Worst images'), ('explained', 'How the numbers are computed')]
    yield f'<nav>{"".join(f"<a href=#{target}>{text}</a>" for target, text in links)}</nav>'
    yield tiles([*((decimal(values['metrics'].get(f'{kind}/{name}')), f'{name} of {KIND_NAMES[kind].lower()}')
                   for kind in values['kinds'] for name in ('AP', 'AP50')),
                 *((number(values[name]), name) for name in ('images', 'objects', 'crowds', 'detections'))])


def _metrics(values: Numbers) -> str:
    kinds = list(values['kinds'])
    names = [name for name in _METRICS if f'{kinds[0]}/{name}' in values['metrics']]
    names += [key.split('/')[1] for key in values['metrics'] if key.startswith(f'{kinds[0]}/') and '@' in key]
    rows = [[name, *(decimal(values['metrics'].get(f'{kind}/{name}')) for kind in kinds)] for name in names]
    note = ('AP: mean over IoU 0.50 to 0.95; s, m, l: objects below 32 x 32 px, up to 96 x 96 px, above; AR: maximum '
            'recall')
    columns = ['', *(KIND_NAMES[kind] for kind in kinds)]
    return f'<div class="charts">{card("COCO metrics", note, table(columns, rows, len(rows)))}</div>'


def _kind(kind: str, values: Numbers) -> Iterable[str]:
    """Yield the charts of boxes or masks."""
    yield f'<h2 id="{kind}">{KIND_NAMES[kind]}</h2><div class="charts">'
    yield _errors(values)
    yield charts.curves('Precision and recall', 'mean over categories', [
        Line(f'IoU {name}', _RECALLS, curve['mean'], f'c{i}')
        for i, (name, curve) in enumerate(values['curves'].items()) if curve['mean']], ('recall', 'precision'))
    yield _category_curves(values)
    yield charts.reliability('Calibration', f'expected calibration error {decimal(values["calibration_error"])}',
                             values['calibration'])
    yield from _breakdowns(values)
    matrix, frequent = _confusion(values)
    narrow = len(values['categories']) <= _NARROW
    yield f'{frequent}{matrix if narrow else ""}</div>'
    yield from (f'<div class="wide">{each}</div>' for each in ([] if narrow else [matrix]) + [_categories(values)])


def _errors(values: Numbers) -> str:
    costs = {name: each['cost'] or 0. for name, each in values['errors'].items()}
    largest = max(costs.values()) or 1.
    rows = [(name, max(costs[name], 0) / largest, decimal(each['cost'], signed=True) + (
        '' if each['count'] is None else f' ({number(each["count"])})')) for name, each in values['errors'].items()]
    return bars('Errors', 'how much AP50 would rise without them (how many)', rows)


def _category_curves(values: Numbers) -> str:
    rows = [(row['AP50'], row['category'], curve) for row, curve in zip(
        values['categories'], values['curves']['0.50']['categories'], strict=True) if curve]
    lines = [Line(f'{name}: AP50 {decimal(precision)}', _RECALLS, curve, 'c0 many')
             for precision, name, curve in sorted(rows, key=lambda row: row[0])[:_CURVES]]
    few = len(lines) <= 3
    return charts.curves('Precision and recall by category', 'IoU 0.50' + ('' if few else '; point at a curve'), [
        line._replace(style=f'c{i}') if few else line for i, line in enumerate(lines)], ('recall', 'precision'), few)


def _breakdowns(values: Numbers) -> Iterable[str]:
    areas = (('small', 's'), ('medium', 'm'), ('large', 'l'))
    yield bars('AP by size', "COCO's areas: below 32 x 32 px, up to 96 x 96 px, above", [
        _bar(name, values['areas'][key]['AP'], '') for name, key in areas])
    yield bars('Recall by size', 'square root of the area in px; IoU 0.5 (objects)', [
        _bar(_range(row, ' px'), row['recall'], f' ({number(row["objects"])})') for row in values['by_size']])
    yield bars('AP by crowding', 'objects of the image (images)', [
        _bar(_range(row, '', whole=True), row['AP'], f' ({number(row["images"])})') for row in values['by_crowding']])
    yield bars('Recall by overlap', "largest IoU of an object's box with another's; IoU 0.5 (objects)", [
        _bar(_range(row, ''), row['recall'], f' ({number(row["objects"])})') for row in values['by_neighbor']])


def _confusion(values: Numbers) -> tuple[str, str]:
    """Return the matrix of the categories with most errors, and the most frequent confusions."""
    names = [row['category'] for row in values['categories']] + ['background']
    counts = np.zeros([len(names)] * 2, int)
    for row, column, count in values['confusion']:
        counts[row, column] = count
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shown = np.sort(np.argsort(-wrong[:-1], kind='stable')[:_MATRIX])
    chosen = np.append(shown, len(names) - 1)
    title = 'Confusion matrix'
    if len(shown) < len(names) - 1:
        title += f' of the {_MATRIX} categories with most errors'
    note = f'rows: objects; columns: detections of score {decimal(values["threshold"]["score"])} or more; IoU 0.5'
    matrix = charts.matrix(title, note, counts[np.ix_(chosen, chosen)], [names[i] for i in chosen])
    return matrix, _most_frequent(counts, names)


def _most_frequent(counts: np.ndarray, names: Sequence[str]) -> str:
    between = counts[:-1, :-1] * ~np.eye(len(names) - 1, dtype=bool)
    order = np.argsort(-between, axis=None, kind='stable')[:_CONFUSIONS]
    places = [place for place in zip(*np.unravel_index(order, between.shape), strict=True) if between[place]]
    rows = [(f'{names[i]} taken for {names[j]}', float(between[i, j] / between.max()), number(int(between[i, j])))
            for i, j in places]
    return bars('Most frequent confusions', 'objects', rows) if rows else ''


def _categories(values: Numbers) -> str:
    rows = sorted((row for row in values['categories'] if row['objects']), key=lambda row: row['AP'])
    head = ['category', 'images', 'objects', 'AP', 'AP50', 'AP75', 'AR100', 'best threshold', 'precision', 'recall',
            'F1', 'most costly error']
    absent = len(values['categories']) - len(rows)
    note = 'the lowest AP first; precision, recall and F1 at the threshold with the best F1, IoU 0.5'
    return card('Categories', note + (f'; {absent} more without objects' if absent else ''),
                table(head, [_category(row) for row in rows]))


def _category(row: Mapping[str, Any]) -> list[str]:
    best = row['threshold']
    return [row['category'], number(row['images']), number(row['objects']),
            *(decimal(row[name]) for name in ('AP', 'AP50', 'AP75', 'AR100')),
            *(decimal(best[name]) for name in ('score', 'precision', 'recall', 'f1')),
            _most_costly(row['errors'])]


def _most_costly(errors: Mapping[str, Any]) -> str:
    """Return the kind of error with the highest cost. Without any object but missed ones, no cost is defined."""
    if errors['missed']['count'] and errors['missed']['cost'] is None:
        return 'missed'
    worst = max(KINDS, key=lambda kind: errors[kind]['cost'] or 0)
    return f'{worst} {decimal(errors[worst]["cost"], signed=True)}' if errors[worst]['cost'] else '-'


def _worst(pictures: Sequence[str], values: Numbers) -> Iterable[str]:
    if pictures:
        last = list(values['kinds'])[-1]
        score = decimal(values['kinds'][last]['threshold']['score'])
        yield (f'<h2 id="images">Worst images</h2><p>By F1 of {KIND_NAMES[last].lower()} at IoU 0.5 and a score of '
               f'{score} or more. Green: found, correct. Red: missed, wrong. Gray: crowds and detections '
               'in them.</p>'
               '<div class="pictures">')
        yield from pictures
        yield '</div>'


def _explanations() -> Iterable[str]:
    yield '<h2 id="explained">How the numbers are computed</h2><div class="card">'
    yield from (f'<p><b>{title}.</b> {text}</p>' for title, text in _EXPLAINED)
    yield '</div>'


def _bar(name: str, value: float | None, more: str) -> tuple[str, float, str]:
    return name, value or 0., f'{decimal(value)}{more}'


def _range(row: Mapping[str, Any], unit: str, whole: bool = False) -> str:
    """Return the range of a row, such as '16 to 32 px'."""
    low, high = row['low'], row['high']
    if high is None:
        return f'{low:g}{unit} and more'
    if whole and high == low + 1:
        return f'{low:g}'
    return f'{low:g} to {high - 1 if whole else high:g}{unit}'
