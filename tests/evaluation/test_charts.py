"""Charts: positions of points by hand."""
from __future__ import annotations

import re

import numpy as np

from mrcnn_tf.evaluation import charts
from mrcnn_tf.evaluation.charts import Line


def test_a_curve_fills_the_plot() -> None:
    chart = charts.curves('T', 'n', [Line('a < b', [0, .5, 1], [1, .5, 0], 'c1')], ('x', 'y'))
    # the plot is 340 x 250, its corner at 44, 8
    assert 'd="M44.0 8.0L214.0 133.0L384.0 258.0"' in chart and '<title>a &lt; b</title>' in chart
    assert '<span class="c1">' in chart
    assert '<span' not in charts.curves('T', 'n', [Line('a', [0], [0], 'c1')], ('x', 'y'), legend=False)


def test_a_column_is_as_high_as_the_precision() -> None:
    rows = [{'low': 0., 'high': .5, 'detections': 4, 'score': .3, 'precision': .5},
            {'low': .5, 'high': 1., 'detections': 0, 'score': None, 'precision': None}]
    columns = re.findall('<rect [^>]*>', charts.reliability('T', 'n', rows))
    assert columns == ['<rect class="column" x="45.0" y="133.0" width="168.0" height="125.0">']


def test_the_colors_of_a_matrix_are_fractions_of_rows_and_for_background_of_columns() -> None:
    chart = charts.matrix('T', 'n', np.array([[4, 1], [1, 0]]), ['cat', 'background'])
    cells = re.findall(r'<td(?: style="background:rgb\(([\d ]+) / ([\d.]+)\)")?>([\d,]*)</td>', chart)
    # 0.1 + 0.7 * 4 / 5 and 0.1 + 0.7 / 5 of the row; a fifth of the column
    assert cells == [('59 116 196', '0.66', '4'), ('200 86 59', '0.24', '1'), ('200 86 59', '0.24', '1'), ('', '', '')]
