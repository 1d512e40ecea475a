"""Forms of segmentations: their parts and outlines. `test_segmentation` covers their masks."""
from __future__ import annotations

from typing import Any

import pytest

from data_tools.formats import segmentation_forms as forms
from data_tools.issues import InvalidDataError

POLYGON = [1, 2, 5, 2, 5, 8]
POINTS = [[1, 2], [5, 2], [5, 8]]
CODE = {'size': [4, 6], 'counts': '52'}


def test_the_form_of_coco_is_unchanged() -> None:
    for own in ([POLYGON], [POLYGON, POLYGON], CODE):
        assert forms.parts(own) == (own if isinstance(own, list) else [own], [])
    assert forms.size(CODE) == ([4, 6], []) and forms.counts(CODE) == ('52', [])
    assert forms.counts({'counts': [5, 2]}) == ([5, 2], [])


@pytest.mark.parametrize(('value', 'count'), [
    (POLYGON, 1), (POINTS, 1), ([POINTS], 1), ([POINTS, POINTS], 2), ([[POINTS], [POINTS]], 2), ([POINTS, POLYGON], 2)],
    ids=str)
def test_polygons_become_flat(value: Any, count: int) -> None:
    polygons, described = forms.parts(value)
    assert polygons == [POLYGON] * count and described
    assert forms.outline(value) == (2, 1, 8, 5)      # y1, x1, y2, x2


@pytest.mark.parametrize('value', [
    [[1, 2, 5]], [[1, 2], 'x'], [[1, 2, None, 4]], [CODE], CODE, [POLYGON, CODE], 5, None, 'x', [[]], [10 ** 400, 1],
    [1, float('inf')], [1, 2, float('nan'), 2]],
    ids=lambda each: str(each)[:40])
def test_segmentations_without_an_outline(value: Any) -> None:
    assert forms.outline(value) is None


@pytest.mark.parametrize(
    'value', [None, 5, 5.0, True, '', '5', '[', '[]', '[' * 100_000, []], ids=lambda each: str(each)[:20])
def test_values_that_are_no_segmentation(value: Any) -> None:
    with pytest.raises(InvalidDataError, match='malformed segmentation'):
        forms.parts(value)


def test_nested_lists_have_a_limit() -> None:
    deep: Any = POLYGON
    for _ in range(900):
        deep = [deep]
    polygons, _ = forms.parts(deep)
    assert len(polygons) == 1 and polygons != [POLYGON]      # left as it is, for a polygon that cannot be read


@pytest.mark.parametrize(
    'counts', ['b"x', "b'", '[1, 2', [1.5], ['1.0'], ['x'], [True], 7, None, [[1]], ['9' * 30]], ids=str)
def test_counts_that_are_unchanged(counts: Any) -> None:
    assert forms.counts({'counts': counts}) == (counts, [])
