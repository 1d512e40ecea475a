"""Xml files of VOC: sizes, boxes and flags, with expected values by hand. `test_voc` covers whole sets."""
from __future__ import annotations

import pathlib
from xml.etree import ElementTree

import pytest

from data_tools.formats import voc_xml
from data_tools.issues import InvalidDataError, Issue


def an_object(*sides: object, more: str = '') -> ElementTree.Element:
    """Return an object with these xmin, ymin, xmax, ymax."""
    names = ('xmin', 'ymin', 'xmax', 'ymax')
    box = ''.join(f'<{name}>{value}</{name}>' for name, value in zip(names, sides, strict=True))
    return ElementTree.fromstring(f'<object>{more}<bndbox>{box}</bndbox></object>')


@pytest.mark.parametrize(('first', 'expected'), [
    pytest.param(1, (2, 4, 8, 10), id='pixels from 1'), pytest.param(0, (3, 5, 8, 10), id='continuous edges')])
def test_a_box(first: int, expected: tuple[float, ...]) -> None:
    assert voc_xml.box(an_object(5, 3, 10, 8), (20, 30), first) == (expected, [])


def test_a_box_is_clipped_to_the_image() -> None:
    box, [issue] = voc_xml.box(an_object(5, 0, 10, 22), (20, 30), 1)
    assert box == (0, 4, 20, 10) and issue.reason == 'box clipped'
    assert issue.detail == ("ymin '0', xmin '5', ymax '22', xmax '10' went 2.00 px beyond the image; if the set counts "
                            'from 0, give --first-pixel 0')


@pytest.mark.parametrize(('element', 'reason'), [
    pytest.param(an_object('x', 3, 10, 8), 'malformed box', id='text'),
    pytest.param(an_object('nan', 3, 10, 8), 'non-finite numbers', id='NaN'),
    pytest.param(an_object(10, 3, 5, 8), 'box without area', id='exchanged sides'),
    pytest.param(an_object(50, 3, 60, 8), 'box outside the image', id='outside'),
    pytest.param(an_object(.1, .2, .3, .4), 'normalised box', id='fractions'),
    pytest.param(an_object(5, 3, 10, 8, more='<robndbox/>'), 'rotated box', id='rotated')])
def test_invalid_boxes(element: ElementTree.Element, reason: str) -> None:
    with pytest.raises(InvalidDataError) as error:
        voc_xml.box(element, (20, 30), 1)
    assert error.value.issue.reason == reason


def test_warnings_about_an_object() -> None:
    assert voc_xml.thin_box(an_object(5, 3, 5, 8)) == [
        Issue('box one pixel wide or high', '3, 5, 8, 5 (ymin, xmin, ymax, xmax)')]
    assert voc_xml.thin_box(an_object(5, 3, 6, 8)) == []
    assert [issue.reason for issue in voc_xml.unread_parts(an_object(5, 3, 10, 8, more='<polygon/><bndbox/>'))] == [
        'polygon not read', 'object of several boxes']
    assert voc_xml.unread_parts(an_object(5, 3, 10, 8, more='<difficult>yes</difficult>')) == [
        Issue('flag neither 0 nor 1', "difficult is 'yes', and counts as not stated")]
    assert voc_xml.unread_parts(an_object(5, 3, 10, 8, more='<difficult>Unspecified</difficult>')) == []


@pytest.mark.parametrize(('height', 'size'), [
    pytest.param('20', (20, 30), id='stated'), pytest.param('0', None, id='zero'),
    pytest.param('-1', None, id='negative'),
    pytest.param('', None, id='empty'), pytest.param('2e1', None, id='no integer')])
def test_the_size_of_the_image(height: str, size: tuple[int, int] | None) -> None:
    root = ElementTree.fromstring(f'<annotation><size><height>{height}</height><width>30</width></size></annotation>')
    assert voc_xml.image_size(root) == (size, [] if size else [
        Issue('size not stated', f"height {height!r}, width '30'")])


@pytest.mark.parametrize(('stated', 'differs'), [
    pytest.param('a.jpg', False, id='same'), pytest.param('a.png', False, id='another suffix'),
    pytest.param('C:\\x\\a.jpg', False, id='path'), pytest.param('', False, id='not stated'),
    pytest.param('b.jpg', True, id='another image')])
def test_the_stated_file_name(stated: str, differs: bool) -> None:
    root = ElementTree.fromstring(f'<annotation><filename>{stated}</filename></annotation>')
    assert [issue.reason for issue in voc_xml.other_file_name(root, 'a.jpg')] == ['file name differs'] * differs


@pytest.mark.parametrize(('text', 'value'), [('0', False), ('1', True), ('', None), ('2', None), ('true', None)])
def test_flags(text: str, value: bool | None) -> None:
    assert voc_xml.flag(ElementTree.fromstring(f'<object><difficult>{text}</difficult></object>'), 'difficult') is value


@pytest.mark.parametrize(('text', 'message'), [
    pytest.param(None, 'missing annotation file', id='no file'),
    pytest.param('<annotation>', 'malformed xml', id='cut off'),
    pytest.param('<html/>', "malformed xml: .*its root is 'html', expected annotation", id='another root'),
    pytest.param('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', 'malformed xml', id='entity')])
def test_files_that_are_no_annotation(tmp_path: pathlib.Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / 'a.xml').write_text(text)
    with pytest.raises(InvalidDataError, match=message):
        voc_xml.parse(tmp_path / 'a.xml')
