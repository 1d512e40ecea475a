"""Draw the metrics of a run's evaluations as an SVG: AP and AP50 of boxes and masks against the training step.

    python -m benchmarks.validation_curve runs/nuclei nuclei.svg
"""
from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterator, Sequence

from mrcnn_tf.weights.history import History, Row

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 420, 260, 40, 14, 130, 40     # px; of the plot, and around it
_LINES = (('bbox/AP50', '#3b74c4', '5 4'), ('bbox/AP', '#3b74c4', ''), ('segm/AP50', '#c8563b', '5 4'),
          ('segm/AP', '#c8563b', ''))


def main() -> None:
    """Draw the curves of a model directory's history.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model_dir', type=pathlib.Path, help='model directory')
    parser.add_argument('output', type=pathlib.Path, help='SVG file')
    given = parser.parse_args()
    history = History(given.model_dir)
    rows, best = history.rows, history.best()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    given.output.write_text('\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_grid(rows[-1].step), *_curves(rows), *(_mark(best, rows[-1].step) if best else ()), '</svg>\n']),
        encoding='utf-8')


def _grid(last: int) -> Iterator[str]:
    for i in range(6):
        (x, _), (_, y) = _place(i / 5 * last, 0, last), _place(0, i / 5, last)
        yield f'<path stroke="#ddd" d="M{_LEFT} {y}H{_LEFT + _WIDTH}M{x} {_TOP}V{_TOP + _HEIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{i / 5:g}</text>'
        yield f'<text x="{x}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle">{round(i / 5 * last)}</text>'
    yield f'<text x="{_LEFT + _WIDTH / 2}" y="{_TOP + _HEIGHT + 34}" text-anchor="middle">step</text>'


def _curves(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a curve for each metric that the run has, with its name and last value, moved apart where they are near."""
    last, lowest = rows[-1].step, 0.
    shown = [(name, *style, [(row.step, row.values[name] or 0.) for row in rows]) for name, *style in _LINES
             if name in rows[-1].values]
    for name, color, dashes, points in sorted(shown, key=lambda line: -line[3][-1][1]):
        places = [_place(step, value, last) for step, value in points]
        yield (f'<path fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}" '
               f'd="M{"L".join(f"{x} {y}" for x, y in places)}"/>')
        yield from (f'<circle cx="{x}" cy="{y}" r="2.5" fill="{color}"/>' for x, y in places)
        lowest = max(lowest + 14, places[-1][1] + 4)
        yield f'<text x="{places[-1][0] + 8}" y="{lowest}" fill="{color}">{name} {points[-1][1]:.3f}</text>'


def _mark(best: Row, last: int) -> Iterator[str]:
    x, _ = _place(best.step, 0, last)
    yield f'<path stroke="#888" stroke-dasharray="2 3" d="M{x} {_TOP}V{_TOP + _HEIGHT}"/>'
    yield f'<text x="{x - 4}" y="{_TOP + _HEIGHT - 6}" text-anchor="end" fill="#666">best checkpoint</text>'


def _place(step: float, value: float, last: int) -> tuple[float, float]:
    """Return the position of a point, px."""
    return round(_LEFT + step / last * _WIDTH, 1), round(_TOP + (1 - value) * _HEIGHT, 1)


if __name__ == '__main__':
    main()
