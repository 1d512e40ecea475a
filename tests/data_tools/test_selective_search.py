"""Selective Search: the order of its boxes, their scores, and what needs OpenCV."""
from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from data_tools import selective_search
from data_tools.issues import ConversionError, InvalidDataError


def picture() -> bytes:
    """Return a PNG, 40 x 60: a red square in rows 5..24 and columns 10..29 on dark noise."""
    pixels = np.random.RandomState(3).randint(0, 20, (40, 60, 3)).astype(np.uint8)
    pixels[5:25, 10:30] = 240, 20, 20
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


@pytest.fixture
def opencv() -> None:
    """Skip the test if OpenCV is not installed."""
    try:
        selective_search.SelectiveSearch('fast')
    except ConversionError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures('opencv')
@pytest.mark.parametrize('mode', selective_search.MODES)
def test_a_box_fits_the_object(mode: str) -> None:
    boxes, scores = (proposals := selective_search.propose(picture(), mode)).boxes, proposals.scores
    y1, x1, y2, x2 = boxes.T
    assert ((y1 >= 0) & (x1 >= 0) & (y2 > y1) & (x2 > x1) & (y2 <= 40) & (x2 <= 60)).all()
    assert boxes.dtype == scores.dtype == np.float32 and len(boxes) == len(scores)
    assert (np.diff(scores) < 0).all() and scores[0] == 1
    assert (np.abs(boxes - [5, 10, 25, 30]).max(axis=1) <= 2).any()      # OpenCV blurs before it segments


@pytest.mark.usefixtures('opencv')
def test_the_boxes_are_the_same_each_time() -> None:
    first, second = (selective_search.propose(picture()) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)


@pytest.mark.usefixtures('opencv')
def test_bytes_that_are_no_image() -> None:
    with pytest.raises(InvalidDataError, match='corrupt image: OpenCV cannot decode it'):
        selective_search.propose(b'nonsense')


def test_the_order_mixes_sizes_and_prefers_large_ones() -> None:
    sides = np.random.RandomState(0).permutation(np.arange(1, 101))
    boxes = np.stack([sides * 0, sides * 0, sides, sides], axis=1)
    ordered = selective_search.order_boxes(boxes)[:, 2]
    assert sorted(ordered) == list(range(1, 101)) and ordered[:25].mean() > 60 > 40 > ordered[-25:].mean()
    assert ordered[:25].min() < 75
    np.testing.assert_array_equal(selective_search.order_boxes(boxes[::-1])[:, 2], ordered)
    assert selective_search.order_boxes(np.zeros((0, 4), np.int64)).shape == (0, 4)


def test_scores_of_ranks() -> None:
    np.testing.assert_array_equal(selective_search.rank_scores(4), [1, 0.75, 0.5, 0.25])
    assert selective_search.rank_scores(0).shape == (0,)


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(ConversionError, match=r"pip install .*\[proposals\]'"):
        selective_search.SelectiveSearch('fast')
    with pytest.raises(ConversionError, match="mode is 'slow', expected one of fast, quality"):
        selective_search.SelectiveSearch('slow')
