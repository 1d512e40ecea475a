"""The page of a set: its text, its images, and that text of the data is escaped."""
from __future__ import annotations

import base64
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from data_tools import inspect_page
from data_tools.issues import Issue, IssueLog
from data_tools.sharding import writer
from mrcnn_tf import config as configuration
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source
from mrcnn_tf.input.record_reader import RecordError
from mrcnn_tf.input.records import Annotated, ObjectAnnotation
from tests.browser import needs_chromium, open_page

_EVIL = '</title><script>document.body.textContent="taken over"</script><img src="http://example.org/x">\'"&'


class Item:
    """An image by its number."""
    bytes = 5000

    def __init__(self, number: int) -> None:
        self.number = number


def _file(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def make(item: Item) -> tuple[Annotated, IssueLog]:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:60] = 1
    objects = [ObjectAnnotation((10.0, 20.0, 30.0, 60.0), 1, _EVIL, 800.0, mask=records.encode_mask(mask)),
               ObjectAnnotation((0.0, 0.0, 60.0, 80.0), 2, 'dog', 4800.0, True, mask=records.encode_mask(mask ^ 1))]
    log = IssueLog()
    log.drop(Issue(f'reason {_EVIL}', f'detail {_EVIL}'), f'{item.number} {_EVIL}', 7)
    picture = _file(np.full((60, 80, 3), 128, np.uint8), 'PNG')
    return Annotated(picture, 'png', f'{item.number}{_EVIL}.png', f'{item.number}{_EVIL}', item.number, 60, 80,
                     objects if item.number else []), log


def make_bare(item: Item) -> tuple[Annotated, IssueLog]:
    """The first object has a box only."""
    made, log = make(item)
    for each in made.objects[:1]:
        each.mask, each.has_mask = records.encode_mask(np.zeros((60, 80))), False
    return made, log


def make_damaged(item: Item) -> tuple[Annotated, IssueLog]:
    made, log = make(item)
    made.encoded, made.source_id = made.encoded[:60], '42'
    return made, log


@pytest.fixture
def manifest(tmp_path: pathlib.Path) -> pathlib.Path:
    """A set of 14 images, one of them without objects, whose texts are hostile."""
    head = Manifest('set', [Category(1, 1, _EVIL), Category(2, 2, 'dog')], Counts(), 0, {},
                    {}, [], True, Source('coco', f'a{_EVIL}.json', 'images'))
    writer.write([Item(number) for number in range(14)], make, head, tmp_path / 'data')
    return tmp_path / 'data' / 'set.json'


def test_the_page_shows_how_anchors_cover_the_boxes(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fit = inspect_page.write(manifest, tmp_path / 'page.html', 0, config=configuration.load('shapes_r18_fpn'))
    assert fit is not None and [row[:2] for row in fit.rows()][-1] == ('all', 13)      # the crowds are left out
    text = (tmp_path / 'page.html').read_text()
    assert '<h2>Anchors</h2>' in text and 'Boxes with an anchor of IoU 0.7 or more' in text and ' % of 13' in text


def test_the_text_of_the_page(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    inspect_page.write(manifest, tmp_path / 'page.html', 5)
    page = (tmp_path / 'page.html').read_text()
    for tile in ('<b>14</b>images', '<b>1</b>of them without objects', '<b>26</b>objects', '<b>13</b>of them crowds',
                 '<b>2</b>objects at most per image', '<b>2</b>categories', '<b>yes</b>masks'):
        assert tile in page
    assert re.search(r'<th>dog</th>.{40,120}13 \(13, 13 crowds\)', page)
    assert re.search(r'<th>64 to 96</th>.{40,120}>13<', page)      # the root of 4800 is 69.3
    assert '<td class="n">14</td>' in page and 'and 4 more, in the manifest' in page and 'annotation 7' in page
    assert '5 of 14 images' in page and page.count('<figure>') == 5


def test_objects_with_a_box_only_are_counted(tmp_path: pathlib.Path) -> None:
    head = Manifest('set', [Category(1, 1, _EVIL), Category(2, 2, 'dog')], Counts(), 0, {}, {}, [], True,
                    Source('coco', 'a.json', 'images'))
    writer.write([Item(number) for number in range(3)], make_bare, head, tmp_path / 'data')
    inspect_page.write(tmp_path / 'data' / 'set.json', tmp_path / 'page.html', 2)
    assert '<b>2</b>objects with a box only' in (tmp_path / 'page.html').read_text()


def test_the_pictures_hold_masks_boxes_and_names(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    inspect_page.write(manifest, tmp_path / 'page.html', 14)
    figures = re.findall('<figure>.*?base64,([^"]+)".*?</figure>', (tmp_path / 'page.html').read_text(), re.DOTALL)
    empty, drawn = (np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert('RGB'), int)
                    for each in figures[:2])
    assert empty.shape == drawn.shape == (960, 1280, 3)      # enlarged 16 times: small images are to be seen
    assert np.abs(empty - 128).max() < 3                     # no objects, so the picture is as it is
    inside, around = drawn[400:440, 640], drawn[800:840, 640]
    assert np.ptp(inside.mean(axis=0)) > 30 and np.ptp(around.mean(axis=0)) > 30      # coloured
    assert np.abs(inside.mean(axis=0) - around.mean(axis=0)).max() > 30               # differently


def test_text_of_the_data_is_escaped_and_nothing_is_loaded(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    inspect_page.write(manifest, tmp_path / 'page.html', 14)
    page = (tmp_path / 'page.html').read_text()
    assert '<script' not in page and page.count('&lt;script&gt;') > 20
    assert re.findall(r'<[^>]*\b(?:src|href)="(?!data:image/jpeg;base64,)', page) == []
    assert 'url(' not in page and '@import' not in page
    assert re.search('<meta http-equiv="Content-Security-Policy" content="default-src \'none\';', page)


def test_the_same_page_each_time(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ('a.html', 'b.html'):
        inspect_page.write(manifest, tmp_path / name, 3)
    assert (tmp_path / 'a.html').read_bytes() == (tmp_path / 'b.html').read_bytes()


def test_a_damaged_image_is_named_and_no_page_is_left(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    writer.write([Item(1)], make_damaged, Manifest.read(manifest), tmp_path / 'bad')
    with pytest.raises(RecordError, match='image 42: cannot be decoded'):
        inspect_page.write(tmp_path / 'bad' / 'set.json', tmp_path / 'bad.html')
    assert not (tmp_path / 'bad.html').exists()


@needs_chromium
def test_a_browser_shows_the_page(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    inspect_page.write(manifest, tmp_path / 'page.html', 3)
    open_page(f'file://{tmp_path / "page.html"}', tmp_path, '--window-size=900,1600',
              f'--screenshot={tmp_path / "page.png"}')
    pixels = np.asarray(Image.open(tmp_path / 'page.png').convert('RGB'), int)
    assert pixels.shape == (1600, 900, 3)
    # Bars are blue; without a style sheet there would be none.
    assert ((pixels[..., 2] - pixels[..., 0]) > 100).sum() > 1000
    _let_it_measure(tmp_path / 'page.html')
    dom = open_page(f'file://{tmp_path / "page.html"}', tmp_path, '--dump-dom')
    assert 'taken over' in dom and '<script' not in dom and '<title>set</title>' in dom      # as text, not as code
    assert dom.count('<figure>') == 3
    short = re.findall(r'<t[hd][^>]* data-px="(\d+)">([\w ]{1,12})<', dom)
    assert {'dog', '64 to 96', 'dropped', 'count'} <= {text for _, text in short}
    assert all(int(height) < 30 for height, _ in short)      # each on one line


def _let_it_measure(page: pathlib.Path) -> None:
    """A page without its prohibition of scripts that, all unfolded, states how high the texts of its tables are."""
    script = """
        for (const each of document.querySelectorAll('details')) each.open = true;
        for (const each of document.querySelectorAll('th, td')) {
            const text = document.createRange();
            text.selectNodeContents(each);
            each.dataset.px = Math.round(text.getBoundingClientRect().height);
        }
        document.currentScript.remove()"""
    text = re.sub('<meta http-equiv.*?>', '', page.read_text())
    page.write_text(text.replace('</body>', f'<script>{script}</script></body>'))
