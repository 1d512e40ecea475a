"""Pieces of HTML pages: what they escape, fold and forbid. `test_inspect_page.py` tests a whole page."""
from __future__ import annotations

import pathlib
import re

from mrcnn_tf.files import html


def test_a_page_forbids_scripts_and_escapes_its_title() -> None:
    page = html.document('<script>x', ['<p>text</p>'], 'p { color: red }')
    assert "default-src 'none'" in page and '<script' not in page
    assert page.count('&lt;script&gt;x') == 2 and '<p>text</p>' in page and 'p { color: red }</style>' in page


def test_bars_are_relative_to_the_largest_and_the_rest_is_folded() -> None:
    chart = html.bar_chart('Sizes', [('a', 4, ''), ('<b>', 1, ' (x)'), ('c', 0, '')], 'objects', shown=2)
    assert re.findall(r'width:([\d.]+)%', chart) == ['100.0', '25.0', '0.0']
    assert '<summary>1 more</summary>' in chart and '<th>&lt;b&gt;</th>' in chart and '1 (x)' in chart
    assert '<tr class="none"><th>c</th>' in chart
    assert re.findall(r'width:([\d.]+)%', html.bar_chart('None', [('a', 0, '')], 'objects')) == ['0.0']


def test_tiles_and_figures_escape_their_text() -> None:
    assert html.tiles([('<1>', 'a & b')]) == (
        '<div class="tiles"><div class="card tile"><b>&lt;1&gt;</b>a &amp; b</div></div>')
    figure = html.figure(b'abc', '"a".jpg', '<i>')
    assert 'alt="&quot;a&quot;.jpg"' in figure and 'base64,YWJj"' in figure and '&lt;i&gt;' in figure


def test_a_page_with_half_a_character_is_written(tmp_path: pathlib.Path) -> None:
    html.write_page(tmp_path / 'a.html', 'name \udcff')
    assert (tmp_path / 'a.html').read_bytes() == rb'name \udcff'
